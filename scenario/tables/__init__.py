"""Read tables of text from files of any usual format, to the last row or not at all."""
