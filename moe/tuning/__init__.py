"""What is trained in a sub-model, what that costs in memory, and how it goes back into the model."""
