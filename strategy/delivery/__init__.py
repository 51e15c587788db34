"""Bringing the model to devices: what a node lacks of it, and the messages that carry the pieces."""
