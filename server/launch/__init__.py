"""Start a run, follow it, and leave nothing behind."""
