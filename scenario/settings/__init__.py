"""Every setting of a run, its rule, and how people read and write it."""
