"""A checkpoint on disk: its files, the names of its tensors, and what its experts look like."""
