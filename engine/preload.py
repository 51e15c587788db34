"""What every worker needs, imported once before they fork, so that they share the memory it takes.

Reference counts are written to as objects are used; the collector need not touch the rest as well.
"""

from server.machine.quick_imports import quick_imports

with quick_imports():
    import client.app  # noqa: F401
