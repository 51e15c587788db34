"""The sky: who lives where on the ground; the wings are the satellites and their links."""
