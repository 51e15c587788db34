"""What every worker needs, imported once before they fork, so that they share the memory it takes."""

import gc

import client.app  # noqa: F401

# Reference counts are written to as objects are used; the collector need not touch the rest as well.
gc.freeze()
