"""A checkpoint in pieces: which bytes an expert is, and a device's folder that holds some of them."""
