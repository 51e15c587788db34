"""Who has which text."""
