"""A ServerApp that starts, sleeps and fails on request, and a ClientApp that is never asked."""

import time

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

server = ServerApp()
client = ClientApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Say that it runs, sleep, and raise where the settings ask for it."""
    print("the stub has started with", len(list(grid.get_node_ids())), "nodes", flush=True)
    time.sleep(float(context.run_config["sleep-s"]))
    if context.run_config["fail"]:
        raise RuntimeError("the stub was told to fail")
