"""The model: find, slice, tune and put back the experts of any Hugging Face MoE checkpoint."""
