"""``python -m moe.inspect``."""

import sys

from moe.inspect.command import main

if __name__ == "__main__":
    sys.exit(main())
