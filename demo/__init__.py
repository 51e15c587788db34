"""The embedded default: text found on every Python machine and a small MoE made from it."""
