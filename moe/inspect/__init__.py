"""What a checkpoint's experts are, before anything is run."""
