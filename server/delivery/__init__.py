"""The server's side of delivering a model: its pieces, and whether the sky carries them."""
