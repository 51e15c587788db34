"""What a hostile or broken node can do to a merge, and how little: robust means, and who is far off."""
