"""Find and end every process of one run, however far it has moved from its parent.

Flower detaches its local SuperLink on purpose, and Ray starts daemons in sessions of their own, so neither a
process group nor a parent id reaches them. What they all keep is the environment they inherited: a run puts a
tag in it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

TAG_VARIABLE = "EMS_FL_RUN_TAG"
KILL_PATIENCE_S = 10.0


def tagged(tag: str) -> list[psutil.Process]:
    """Return the living processes, except this one, whose environment carries the tag, and their descendants.

    The descendants too, because a Ray worker writes its title over the memory its environment lay in.
    """
    return _with_descendants(
        [process for process in psutil.process_iter() if _has(process, TAG_VARIABLE, tag)]
    )


def is_running(tag: str, command: str) -> bool:
    """Tell whether a living process of the tag runs a command of this name."""
    return any(_runs(process, command) for process in tagged(tag))


def local_superlinks(flower_home: Path) -> list[psutil.Process]:
    """Return the SuperLinks that ``flwr run`` left behind for one Flower home, and all they started."""
    mine = [process for process in psutil.process_iter() if _has(process, "FLWR_HOME", str(flower_home))]
    return _with_descendants([process for process in mine if _runs(process, "flower-superlink")])


def end_all(
    find: Callable[[], list[psutil.Process]],
    *,
    grace_s: float = 5.0,
    say: Callable[[str], None] | None = None,
) -> int:
    """End every process that a search finds: ask first, then kill what is left.

    Parameters
    ----------
    find : callable
        Returns the living processes to end. It is called until it finds nothing, because new ones may appear
        while the old ones end (Ray restarts its workers).
    grace_s : float
        How long they have to end by themselves, seconds.
    say : callable, optional
        Told once when something does not end by itself.

    Returns
    -------
    int
        How many processes were found.
    """
    deadline_s = time.monotonic() + grace_s
    known: dict[int, psutil.Process] = {}
    killing = False
    while processes := _with_descendants([*find(), *known.values()]):
        late = time.monotonic() > deadline_s
        if late and not killing and say is not None:
            say(f"{len(processes)} processes did not end within {grace_s:g} s: killing them")
        killing = killing or late
        for process in processes:
            if killing or process.pid not in known:
                known[process.pid] = process
                _signal(process, kill=killing)
        psutil.wait_procs(processes, timeout=0.5)
        if time.monotonic() > deadline_s + KILL_PATIENCE_S:
            break  # A process in an uninterruptible call: nothing more can be done from here.
    return len(known)


def free_port() -> int:
    """Return a TCP port of the loopback address that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int) -> bool:
    """Tell whether a server could listen on this port of the loopback address now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _with_descendants(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Return the living among processes and all they started, each once, never this process."""
    found = {process.pid: process for process in processes if _is_alive(process)}
    for process in list(found.values()):
        found.update({child.pid: child for child in _descendants(process)})
    found.pop(os.getpid(), None)
    return [process for process in found.values() if _is_alive(process)]


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    """Return the children of a process and theirs; none if it has just ended."""
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def _is_alive(process: psutil.Process) -> bool:
    """Tell whether a process still runs; a zombie, which only its parent can clear, does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _has(process: psutil.Process, variable: str, value: str) -> bool:
    """Tell whether a process was started with a variable; one that vanished or is somebody else's was not."""
    try:
        return bool(process.environ().get(variable) == value)
    except (psutil.Error, OSError):
        return False


def _runs(process: psutil.Process, command: str) -> bool:
    """Tell whether a process runs a command of this name, directly or through an interpreter."""
    try:
        return any(Path(word).name == command for word in process.cmdline()[:2])
    except psutil.Error:
        return False


def _signal(process: psutil.Process, *, kill: bool) -> None:
    """Ask one process to end, or kill it; it may be gone already."""
    try:
        if kill:
            process.kill()
        else:
            process.terminate()
    except psutil.Error:
        return
