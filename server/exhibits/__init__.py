"""What the report shows and no event says: places, sizes, how far experts moved, words."""
