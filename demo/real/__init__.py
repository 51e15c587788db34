"""The demo with a real language model: SmolLM2-135M-Instruct, its last layers made into eight experts."""
