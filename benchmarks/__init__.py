"""Measurements: what is promised, in numbers that a command makes."""
