"""The idea: which cluster gets which experts, and how late updates are merged."""
