"""Weights that a file holds in few bits: which they are, and what they become."""
