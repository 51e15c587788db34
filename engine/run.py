"""A whole run from Python, without Flower's processes.

from engine.run import run
folder = run({"population.devices": 16, "sky.hours": 12.0})
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flwr.clientapp import ClientApp

from engine.allocator import keep_pages
from engine.client_call import take_part_in_a_run
from engine.in_process import InProcess
from engine.local_grid import Computer, LocalGrid
from engine.processes import Processes
from scenario.settings.config import RunConfig, Scalar, flat_config
from scenario.settings.reading import read_config
from server.machine.quick_imports import quick_imports

PRELOAD = ("engine.preload",)


def run(settings: Mapping[str, Scalar] | None = None, *, workers: int = 0) -> Path:
    """Run one configuration from beginning to end and return its folder.

    The events are, byte for byte, those of ``flwr run`` with the same settings.

    Parameters
    ----------
    settings : Mapping
        Settings by their dotted names, over the defaults; docs/configuration.md lists them.
    workers : int
        Processes that compute the devices' work; 0: this process, where a breakpoint in a client stops.

    Raises
    ------
    ValueError
        If something in the settings cannot be used; nothing has been written then.
    RuntimeError
        If the run ended without a single merge, or workers died again and again.
    """
    config = read_config(dict(settings or {}))
    with local_grid(config, workers=workers) as grid:
        with quick_imports():
            from server import app as server_app  # takes seconds, in which the workers do the same

        return server_app.run(grid, config, workers)


@contextmanager
def local_grid(config: RunConfig, *, workers: int = 0) -> Iterator[LocalGrid]:
    """Give a grid whose nodes run the project's ClientApp; its workers end with the block."""
    take_part_in_a_run()
    keep_pages()
    settings = flat_config(config)
    computer: Computer = (
        Processes(client_app, settings, num_workers=workers, preload=PRELOAD)
        if workers
        else InProcess(client_app, settings)
    )
    try:
        yield LocalGrid(computer)
    finally:
        computer.close()


def client_app() -> ClientApp:
    """Return the project's ClientApp."""
    with quick_imports():
        from client.app import app

    return app
