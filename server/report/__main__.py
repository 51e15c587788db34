"""``python -m server.report``."""

import sys

from server.report.command import main

if __name__ == "__main__":
    sys.exit(main())
