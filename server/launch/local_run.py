"""``--engine in-process`` and ``--engine processes``: the run in this process, without Flower's."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, cast

from server.machine.environment import quiet_settings
from server.machine.quick_imports import quick_imports

ENGINES = ("flower", "in-process", "processes")


class OutOfTimeError(KeyboardInterrupt):
    """The run took longer than ``--timeout``; no `Exception`, like Ctrl-C."""


def engine_faults(engine: str, superlink: str, client_gpus: float, is_ours: bool) -> list[str]:
    """Return what is wrong with an engine beside other options."""
    if engine == "flower":
        return []
    faults = []
    if superlink:
        faults.append(f"--superlink is for --engine flower; --engine {engine} runs nothing but this process")
    if client_gpus:
        faults.append(
            f"--client-gpus is Ray's share of a GPU, for --engine flower; with --engine {engine} every "
            "worker sees every GPU: set model.device, and CUDA_VISIBLE_DEVICES where some shall not be used"
        )
    if not is_ours:
        faults.append(f"--engine {engine} runs this checkout's app; leave --app out")
    return faults


def run_here(overrides: Mapping[str, object], *, engine: str, workers: int) -> str:
    """Run the app in this process; return why it is refused, or nothing when it completed.

    Parameters
    ----------
    overrides : Mapping
        Flat settings over the defaults.
    engine : {"in-process", "processes"}
        Whether devices compute in this process or in a pool.
    workers : int
        Size of the pool.

    Raises
    ------
    OSError, RuntimeError
        If the run stopped.
    """
    # Before flwr, tokenizers and torch are imported, which read them then.
    for name, value in quiet_settings().items():
        os.environ.setdefault(name, value)
    with quick_imports():
        from engine.run import run
        from scenario.settings.config import Scalar

    print(f"launch: {engine}, {workers if engine == 'processes' else 'no'} workers", flush=True)
    try:
        run(cast(Mapping[str, Scalar], overrides), workers=workers if engine == "processes" else 0)
    except ValueError as refusal:
        return str(refusal)
    return ""


@contextmanager
def time_limit(timeout_s: float) -> Iterator[None]:
    """Raise OutOfTimeError in the block when it takes longer than so many seconds; 0 is no limit."""
    signal.signal(signal.SIGALRM, _raise_out_of_time)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def _raise_out_of_time(_number: int, _frame: FrameType | None) -> NoReturn:
    raise OutOfTimeError
