"""Run the app through ``flwr run``, with progress, a true exit code, and nothing left behind.

``flwr run --stream`` exits 0 when the app failed, and leaves a SuperLink that keeps the environment of the
first run. This command gives every run a SuperLink, a port and a Flower home of its own, asks Flower how the
run ended, and ends all of it.

    python -m server.launch --run-config conf/smoke.toml "run.seed=3" --workers 2
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from scenario.settings.reading import read_config
from server.launch.environment import (
    DEPLOYED_CONFIG,
    LAUNCH_CONFIG,
    default_nodes,
    default_workers,
    quiet_settings,
    repository,
    simulation_settings,
)
from server.launch.flower_run import FlowerRun, RunEnd
from server.launch.local_run import ENGINES, OutOfTimeError, engine_faults, run_here, time_limit
from server.launch.processes import TAG_VARIABLE, end_all, free_port, port_is_free, tagged
from server.launch.restart import LostWorker, follow_on
from server.launch.run_config import merge_run_config, write_run_config

EXAMPLES = """examples:
  the demo, and the demo with another seed over two days
      PROG
      PROG -c seed=2 sky.hours=48
  the synchronous baseline on the same sky, with a file of settings and a setting over it
      PROG -c conf/fedavg.toml seed=2
  your own checkpoint and data
      PROG -c model.name=/models/OLMoE-1B-7B data.source=/data/texts.parquet data.domain-column=domain
  on real nodes, whose SuperLink listens at HOST:PORT
      PROG --superlink HOST:PORT -c conf/deployment.toml
"""

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_TIMEOUT = 124
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
        0 completed, 1 failed, 2 wrong use or a missing package, 124 out of time, 128 + n stopped by signal n.
    """
    options = parse(arguments, prog)
    try:
        check(options)
        overrides = merge_run_config(options.run_config, runs_folder=Path.cwd() / "runs")
        if options.app.resolve() == repository():
            read_config(
                overrides
            )  # The app does it again; here a refusal takes a second, not a start of Flower.
    except ValueError as error:
        print(f"launch: {error}", file=sys.stderr)
        return EXIT_USAGE
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _raise_interrupted)
    if options.engine != "flower":
        return _run_here(options, overrides)
    home = make_home()
    tag = uuid.uuid4().hex
    keep = True
    try:
        end = follow_on(lambda settings, watch: prepare(options, settings, home, tag, watch), overrides)
        keep = not (end.completed or end.explained)
        return report(end, home)
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
            done = run_here(overrides, engine=options.engine, workers=options.workers)
        return 0 if done else EXIT_FAILED
    except OutOfTimeError:
        print(f"launch: not finished after {options.timeout:g} s; what was saved can be resumed", flush=True)
        return EXIT_TIMEOUT
    except InterruptedRunError as stop:
        print(f"\nlaunch: {stop}; what was saved can be resumed", flush=True)
        return 128 + stop.number


def parse(arguments: Sequence[str] | None, prog: str) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Run EMS-FL in Flower's simulation and wait for its end.",
        epilog=EXAMPLES.replace("PROG", prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-c",
        "--run-config",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE_OR_KEY=VALUE",
        help="TOML files and key=value settings over those of pyproject.toml; the last one wins",
    )
    parser.add_argument(
        "--app", type=Path, default=repository(), help="folder of the Flower app (default: this checkout)"
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="flower",
        help="flower: through `flwr run` and Ray; in-process: devices compute in this process, for "
        "debuggers; processes: in a pool of --workers processes, without Flower's own (default: flower)",
    )
    parser.add_argument(
        "--workers", type=int, default=default_workers(), help="worker processes (default: one per core)"
    )
    parser.add_argument(
        "--client-gpus",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="GPUs a worker gets, such as 0.25: four share one (default: 0, workers see no GPU)",
    )
    parser.add_argument(
        "--nodes", type=int, help="Flower nodes that lend their workers (default: 2 per worker, at least 4)"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="end the run after this long (default: never)",
    )
    parser.add_argument(
        "--ray-address",
        default="",
        metavar="HOST:PORT",
        help="compute on this Ray cluster (`ray start --head`) instead of a Ray of the run's own; the "
        "checkout, its Python and the run's files must be at the same paths on every machine",
    )
    parser.add_argument(
        "--superlink",
        default="",
        metavar="HOST:PORT",
        help="run on this SuperLink and its SuperNodes, without TLS, instead of a simulation of its own",
    )
    parser.add_argument(
        "--port", type=int, default=0, help="port of the run's SuperLink on loopback (default: a free one)"
    )
    parser.add_argument(
        "--silence",
        type=float,
        default=8.0,
        metavar="SECONDS",
        help="say that the run goes on after this long without output",
    )
    return parser.parse_args(arguments)


def check(options: argparse.Namespace) -> None:
    """Complete the options in place; raise ValueError with every fault at once."""
    options.nodes = default_nodes(options.workers) if options.nodes is None else options.nodes
    faults = [
        f"{name} is not installed in {sys.prefix}; "
        "run `make setup`, or `pip install -r requirements.txt` there"
        for name in ("flwr", "ray")
        if importlib.util.find_spec(name) is None
    ]
    if options.workers < 1:
        faults.append(f"--workers must be at least 1, got {options.workers}")
    faults += gpu_faults(options.client_gpus)
    faults += engine_faults(
        options.engine, options.superlink, options.client_gpus, options.app.resolve() == repository()
    )
    if options.nodes < 1:
        faults.append(f"--nodes must be at least 1, got {options.nodes}")
    if not options.timeout >= 0:
        faults.append(f"--timeout must be 0 (never) or more seconds, got {options.timeout}")
    if not options.silence > 0:
        faults.append(f"--silence must be more than 0 seconds, got {options.silence}")
    if not 0 <= options.port < 65536:
        faults.append(f"--port must be in [0, 65535], got {options.port}")
    elif options.port and not port_is_free(options.port):
        faults.append(
            f"port {options.port} of 127.0.0.1 is taken, and what answers there may belong to another "
            "project; end what listens there, or leave --port out to get a free one"
        )
    if options.superlink and not re.fullmatch(r"\S+:\d+", options.superlink):
        faults.append(f"--superlink must be HOST:PORT, got {options.superlink!r}")
    if not (options.app / "pyproject.toml").is_file():
        faults.append(f"--app must be a folder with a pyproject.toml, got {options.app}")
    if faults:
        raise ValueError("\nlaunch: ".join(faults))


def gpu_faults(client_gpus: float) -> list[str]:
    """Return what is wrong with the GPUs asked for each worker: Ray's rule, and what this machine has."""
    if not (0 <= client_gpus <= 1 or (client_gpus > 1 and client_gpus.is_integer())):
        return [f"--client-gpus must be a share in [0, 1] or a whole number, got {client_gpus:g}"]
    if client_gpus == 0:
        return []
    import torch  # Only now: it takes seconds.

    found = torch.cuda.device_count()
    if found >= client_gpus:
        return []
    return [
        f"--client-gpus {client_gpus:g} asks for a GPU and torch {torch.__version__} sees {found} here; "
        "install a torch built for CUDA, or leave --client-gpus out"
    ]


def prepare(
    options: argparse.Namespace, overrides: dict[str, object], home: Path, tag: str, watch: LostWorker
) -> FlowerRun:
    """Prepare ``flwr run --stream`` with a Flower home, a port and a tag of its own."""
    port = options.port or free_port()
    run_config = write_run_config(overrides, home / "run-config.toml")
    command = [flwr_command(), "run", str(options.app), "--stream", "--run-config", str(run_config)]
    if options.superlink:
        config = DEPLOYED_CONFIG.format(address=options.superlink)
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
    )


def make_home() -> Path:
    """Make the run's temporary folder where Ray's sockets fit under it."""
    usual = Path(tempfile.gettempdir())
    short = Path("/tmp")
    too_long = len(str(usual / "ems-fl-01234567")) > RAY_FOLDER_LIMIT
    return Path(
        tempfile.mkdtemp(prefix="ems-fl-", dir=short if too_long and os.access(short, os.W_OK) else usual)
    )


def flwr_command() -> str:
    """Return the ``flwr`` command of this very Python, activated or not."""
    return str(Path(sys.executable).parent / "flwr")


def environment(home: Path, port: int, tag: str) -> dict[str, str]:
    """Return the environment of everything the run starts."""
    scripts = str(Path(sys.executable).parent)
    return os.environ | {
        **quiet_settings(),
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port),
        "FLWR_LOCAL_CONTROL_API_PORT": str(port),
        "PATH": scripts + os.pathsep + os.environ.get("PATH", os.defpath),
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": str(shutil.get_terminal_size((120, 24)).columns),
        "RAY_TMPDIR": str(home),
        TAG_VARIABLE: tag,
    }


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
