"""``python -m sim.contacts``."""

import sys

from sim.contacts.command import main

if __name__ == "__main__":
    sys.exit(main())
