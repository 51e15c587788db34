"""``python -m moe.export``."""

import sys

from moe.export.command import main

if __name__ == "__main__":
    sys.exit(main())
