"""``python -m server.launch``."""

import sys

from server.launch.command import main

if __name__ == "__main__":
    sys.exit(main())
