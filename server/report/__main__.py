"""``python -m server.report.screen``."""

import sys

from server.report.screen.command import main

if __name__ == "__main__":
    sys.exit(main())
