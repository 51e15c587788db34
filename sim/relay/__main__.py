"""``python -m sim.relay``; see `sim.relay.command`."""

import sys

from sim.relay.command import main

if __name__ == "__main__":
    sys.exit(main())
