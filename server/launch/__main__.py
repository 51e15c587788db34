"""``python -m server.launch``."""

import sys

from server.machine.quick_imports import quick_imports

if __name__ == "__main__":
    with quick_imports():
        from server.launch.command import main
    sys.exit(main())
