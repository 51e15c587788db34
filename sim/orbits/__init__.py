"""Where satellites are: element sets in, positions out."""
