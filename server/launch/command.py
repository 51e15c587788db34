"""Run the app through ``flwr run``, with progress, a true exit code, and nothing left behind.

``flwr run --stream`` exits 0 when the app failed, and leaves a SuperLink that keeps the environment of the
first run. This command gives every run a SuperLink, a port and a Flower home of its own, asks Flower how the
run ended, and ends all of it.

    python -m server.launch --run-config conf/smoke.toml "run.seed=3" --workers 2
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from scenario.settings.reading import read_config
from server.launch import door
from server.launch.app_copy import copy_app
from server.launch.flower_run import FlowerRun, RunEnd
from server.launch.local_run import OutOfTimeError, run_here, time_limit
from server.launch.options import check, parse
from server.launch.restart import LostWorker, follow_on
from server.launch.run_config import merge_run_config, write_run_config
from server.machine.environment import (
    LAUNCH_CONFIG,
    deployed_config,
    flwr_command,
    quiet_settings,
    repository,
    simulation_settings,
)
from server.machine.gpus import check_clients_device
from server.machine.loopback import without_proxy
from server.machine.processes import TAG_VARIABLE, end_all, free_port, is_running, tagged
from server.screen.ascii_screen import never_fail
from server.screen.last_word import REFUSED, STOPPED

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_TIMEOUT = 124
SIMULATION = "flwr-simulation"
"""The process that runs the ServerApp of a simulation."""
# A Unix socket's path holds 107 bytes, and Ray adds about 70 to its temporary folder's.
RAY_FOLDER_LIMIT = 36


class InterruptedRunError(KeyboardInterrupt):
    """A signal asked this command to stop; ``number`` is the signal's.

    No `Exception`: in this process it must pass through all that makes an answer of a client's fault.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m server.launch") -> int:
    """Run the app and return the exit code: 0 only when Flower says that the run finished and completed.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line; by default the process's own.

    Returns
    -------
    int
        0 completed, 1 failed, 2 wrong use, a missing package or a refused run, 124 out of time, 128 + n
        stopped by signal n.
    """
    never_fail()
    options = parse(arguments, prog)
    is_ours = options.app.resolve() == repository()
    try:
        check(options)
        overrides = merge_run_config(options.run_config, runs_folder=Path.cwd() / "runs")
        if is_ours:
            # The door does it again; here a refusal takes no second.
            config = read_config(overrides)
            # Without Flower's simulation the devices compute in processes that see the machine's GPUs.
            if options.engine == "flower" and not options.superlink:
                check_clients_device(config.model.device, options.client_gpus)
    except ValueError as error:
        print(f"launch: {error}", file=sys.stderr)
        return EXIT_USAGE
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _raise_interrupted)
    if options.engine != "flower":
        return _run_here(options, overrides)
    try:
        home = make_home()
    except OSError as error:
        print(f"launch: no temporary folder can be made ({error}); set TMPDIR to one", file=sys.stderr)
        return EXIT_USAGE
    tag, port = uuid.uuid4().hex, options.port or free_port()
    keep = True
    try:
        superlink = None if options.superlink else begin_superlink(home, port, tag)
        # What a SuperLink elsewhere will read cannot be read here.
        if (
            is_ours
            and not options.superlink
            and (refusal := refused_at_the_door(options, overrides, home, tag))
        ):
            keep = False
            return refuse(refusal)
        if superlink is not None:
            superlink.wait()
        end = follow_on(lambda settings, watch: prepare(options, settings, home, port, tag, watch), overrides)
        keep = not (end.completed or end.explained)
        return refuse(end.refusal) if end.refusal else report(end, home)
    except InterruptedRunError as stop:
        print(f"\nlaunch: {stop}; ending the run", flush=True)
        keep = False
        return 128 + stop.number
    finally:
        clean_up(tag, home, keep=keep)


def _run_here(options: argparse.Namespace, overrides: dict[str, object]) -> int:
    """Run without Flower's processes and return the exit code."""
    try:
        with time_limit(options.timeout):
            refusal = run_here(overrides, engine=options.engine, workers=options.workers)
        return refuse(refusal) if refusal else 0
    except (OSError, RuntimeError) as failure:
        print(f"{STOPPED}{failure}", file=sys.stderr)
        return EXIT_FAILED
    except OutOfTimeError:
        print(f"launch: not finished after {options.timeout:g} s; what was saved can be resumed", flush=True)
        return EXIT_TIMEOUT
    except InterruptedRunError as stop:
        print(f"\nlaunch: {stop}; what was saved can be resumed", flush=True)
        return 128 + stop.number


def refused_at_the_door(
    options: argparse.Namespace, overrides: dict[str, object], home: Path, tag: str
) -> str:
    """Return why the run is refused, before anything is started; nothing if it can begin."""
    return door.ask(
        write_run_config(overrides, home / "run-config.toml"),
        home,
        environment(home, 0, tag),
        # Ray's own cluster has its workers' memory elsewhere.
        workers=0 if options.ray_address else options.workers,
        silence_s=options.silence,
        say=lambda text: print(f"launch: {text}", flush=True),
    )


def begin_superlink(home: Path, port: int, tag: str) -> subprocess.Popen[bytes]:
    """Have Flower start the run's SuperLink while the door reads; ``flwr run`` would do it after that.

    Any command of Flower's that asks a local SuperLink starts it. If that fails, ``flwr run`` tries again and
    says why.
    """
    (home / "config.toml").write_text(LAUNCH_CONFIG, encoding="utf-8")
    return subprocess.Popen(
        [flwr_command(), "ls", "--format", "json"],
        env=environment(home, port, tag),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches the launcher only, which ends everything in order.
    )


def prepare(
    options: argparse.Namespace,
    overrides: dict[str, object],
    home: Path,
    port: int,
    tag: str,
    watch: LostWorker,
) -> FlowerRun:
    """Prepare ``flwr run --stream`` with a Flower home, a port and a tag of its own."""
    run_config = write_run_config(overrides, home / "run-config.toml")
    is_ours = options.app.resolve() == repository()
    app = copy_app(options.app, home / "app") if is_ours else options.app
    command = [flwr_command(), "run", str(app), "--stream", "--run-config", str(run_config)]
    if options.superlink:
        config = deployed_config(options.superlink, options.root_certificates)
        print(f"launch: on the SuperLink at {options.superlink}", flush=True)
    else:
        config = LAUNCH_CONFIG
        command += [
            "--federation-config",
            simulation_settings(
                options.workers, options.nodes, options.client_gpus, own_ray=not options.ray_address
            ),
        ]
        print(
            f"launch: {options.workers} workers, {options.nodes} Flower nodes, SuperLink on 127.0.0.1:{port}",
            flush=True,
        )
    (home / "config.toml").write_text(config, encoding="utf-8")
    return FlowerRun(
        command=command,
        list_command=[flwr_command(), "ls", "--format", "json"],
        environment=environment(home, port, tag)
        | ({"RAY_ADDRESS": options.ray_address} if options.ray_address else {}),
        silence_s=options.silence,
        watch=watch,
        timeout_s=options.timeout,
        app_is_alive=None if options.superlink else lambda: is_running(tag, SIMULATION),
    )


def make_home() -> Path:
    """Make the run's temporary folder where Ray's sockets fit under it."""
    usual = Path(tempfile.gettempdir())
    short = Path("/tmp")
    too_long = len(str(usual / "ems-fl-01234567")) > RAY_FOLDER_LIMIT
    return Path(
        tempfile.mkdtemp(prefix="ems-fl-", dir=short if too_long and os.access(short, os.W_OK) else usual)
    )


def environment(home: Path, port: int, tag: str) -> dict[str, str]:
    """Return the environment of everything the run starts."""
    scripts = str(Path(sys.executable).parent)
    return os.environ | {
        **quiet_settings(),
        **without_proxy(dict(os.environ)),
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port),
        "FLWR_LOCAL_CONTROL_API_PORT": str(port),
        "PATH": scripts + os.pathsep + os.environ.get("PATH", os.defpath),
        # Whatever this screen can show: the lines come through two processes that must not lose a letter.
        "PYTHONIOENCODING": "utf-8",
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": str(shutil.get_terminal_size((120, 24)).columns),
        "RAY_TMPDIR": str(home),
        TAG_VARIABLE: tag,
    }


def refuse(refusal: str) -> int:
    """Say why the run is refused, last of all, and return the exit code."""
    print(f"{REFUSED}{refusal}", file=sys.stderr)
    return EXIT_USAGE


def report(end: RunEnd, home: Path) -> int:
    """Say how the run ended and return the exit code."""
    if end.completed:
        return 0
    print(f"launch: the run did not complete: {end.reason}", file=sys.stderr)
    log = home / "local-superlink" / "superlink.log"
    if log.is_file() and not end.explained:
        print(f"launch: the SuperLink's log is kept in {log}", file=sys.stderr)
    return EXIT_TIMEOUT if end.timed_out else EXIT_FAILED


def clean_up(tag: str, home: Path, *, keep: bool) -> None:
    """End every process of the run and remove its Flower home, but for the logs of a run that failed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # A second Ctrl-C must not leave half of the run behind.
    end_all(lambda: tagged(tag), say=lambda text: print(f"launch: {text}", flush=True))
    for entry in home.iterdir():
        if keep and entry.name == "local-superlink":
            continue
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    if not keep or not any(home.iterdir()):
        shutil.rmtree(home, ignore_errors=True)


def _raise_interrupted(number: int, _frame: FrameType | None) -> NoReturn:
    """Turn a signal into an exception, so that the clean-up runs."""
    raise InterruptedRunError(number)
