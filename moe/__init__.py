"""The model: names and values of experts, and what a language model is asked; the wings do the rest."""
