"""The door of a run: everything it is made of, read and refused before Flower and Ray are started.

``server.launch`` runs it as a process of its own, so that what it imports and reads is gone when the run
begins. It uses the functions the ServerApp reads with, and so refuses what the ServerApp would refuse.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from scenario.settings.config import RunConfig
from scenario.settings.reading import read_config
from server.inputs import check_model_folder, check_run_folder, read_world, tried
from server.machine.quick_imports import quick_imports

EXIT_REFUSED = 2
LOOK_EVERY_S = 0.05


def main(arguments: Sequence[str]) -> int:
    """Read what the run of a settings file is made of; write why it is refused into another file.

    Parameters
    ----------
    arguments : sequence of str
        The settings as `server.launch.run_config.write_run_config` leaves them, the file for the refusal, and
        the number of workers on this machine.

    Returns
    -------
    int
        0 if the run can begin, 2 if it is refused.
    """
    settings, answer, workers = Path(arguments[0]), Path(arguments[1]), int(arguments[2])
    try:
        check_inputs(read_config(tomllib.loads(settings.read_text(encoding="utf-8"))), _say, workers)
    except ValueError as refusal:
        answer.write_text(str(refusal), encoding="utf-8", errors="surrogateescape")
        return EXIT_REFUSED
    return 0


def check_inputs(config: RunConfig, say: Callable[[str], None], workers: int = 0) -> None:
    """Read everything a run is made of; the quick before the slow, and the faults of each together.

    Parameters
    ----------
    config : RunConfig
        Checked settings.
    say : callable
        Receives a line of progress now and then; making the demo's base model takes a minute.
    workers : int
        Processes of this machine that will hold sub-models.

    Raises
    ------
    ValueError
        If the run folder, the sites, the sky, the data or the checkpoint cannot be used.
    """
    faults: list[str] = []
    tried(faults, lambda: check_run_folder(config))
    tried(faults, lambda: check_model_folder(config))
    # Notes on what is read belong to the run and are said there.
    world = tried(faults, lambda: read_world(config, lambda _: None))
    if world is None or faults:
        raise ValueError("\n".join(faults))
    with quick_imports():
        from server.model_input import read_model  # Only now: torch takes seconds.
        from server.record.state import load_state

    tried(faults, lambda: read_model(config, world, say, workers))
    if config.run.resume:
        tried(faults, lambda: load_state(Path(config.run.resume)))
    if faults:
        raise ValueError("\n".join(faults))


def ask(
    settings: Path,
    folder: Path,
    environment: Mapping[str, str],
    *,
    workers: int,
    silence_s: float,
    say: Callable[[str], None],
) -> str:
    """Return why a run is refused, or nothing if it can begin.

    Parameters
    ----------
    settings : Path
        As for `main`.
    folder : Path
        A folder of the caller's that exists; the answer is read from it and removed.
    environment : Mapping[str, str]
        Of the process that reads.
    workers : int
        Processes of this machine that will hold sub-models.
    silence_s : float
        After this long without an answer a line says that it goes on, seconds.
    say : callable
        Receives that line.

    Raises
    ------
    RuntimeError
        If reading failed in a way nobody foresaw; with what Python says of it.
    """
    answer, errors = folder / "refusal.txt", folder / "door.log"
    here = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, (here, environment.get("PYTHONPATH"))))
    with errors.open("wb") as log:
        # -P: a folder called `server` where the user stands is not ours.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "server.launch.door", str(settings), str(answer), str(workers)],
            env={**environment, "PYTHONPATH": paths},
            stdin=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,  # Ctrl-C reaches the launcher only, which ends everything in order.
        )
        began_s = last_s = time.monotonic()
        while (code := process.poll()) is None:
            now_s = time.monotonic()
            if now_s - last_s >= silence_s:
                say(f"{now_s - began_s:4.0f} s, reading the sites, the sky, the data and the checkpoint")
                last_s = now_s
            time.sleep(LOOK_EVERY_S)
    said = errors.read_text(encoding="utf-8", errors="replace")
    errors.unlink()
    if code not in (0, EXIT_REFUSED):
        raise RuntimeError(f"reading what the run is made of ended with code {code}:\n{said.strip()}")
    if code == 0:
        return ""
    refusal = answer.read_text(encoding="utf-8", errors="surrogateescape")
    answer.unlink()
    return refusal


def _say(text: str) -> None:
    print(f"launch: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
