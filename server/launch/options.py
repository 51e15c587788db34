"""The options of ``python -m server.launch`` and what is wrong with them."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from server.launch.command_line import SETTINGS_OPTIONS, with_settings_option
from server.launch.local_run import ENGINES, engine_faults
from server.machine.environment import default_nodes, default_workers, flwr_command, repository
from server.machine.gpus import workers_on_gpus
from server.machine.loopback import socks_faults
from server.machine.processes import port_is_free

EXAMPLES = """examples:
  the demo, and the demo with another seed over two days
      PROG
      PROG -c seed=2 sky.hours=48
  the synchronous baseline on the same sky, with a file of settings and a setting over it
      PROG -c conf/fedavg.toml seed=2
  your own checkpoint and data
      PROG -c model.name=/models/OLMoE-1B-7B data.source=/data/texts.parquet data.domain-column=domain
  on real nodes, whose SuperLink listens at HOST:PORT
      PROG --superlink HOST:PORT --root-certificates ca.crt -c conf/deployment.toml
"""


def parse(arguments: Sequence[str] | None, prog: str = "python -m server.launch") -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Run EMS-FL in Flower's simulation and wait for its end.",
        epilog=EXAMPLES.replace("PROG", prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        *SETTINGS_OPTIONS,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE_OR_KEY=VALUE",
        help="TOML files and key=value settings over those of pyproject.toml, with or without this option, "
        "anywhere on the line; the last one wins",
    )
    valued: list[argparse.Action] = []

    def option(*names: str, **more: Any) -> None:
        valued.append(parser.add_argument(*names, **more))

    option("--app", type=Path, default=repository(), help="folder of the Flower app (default: this checkout)")
    option(
        "--engine",
        choices=ENGINES,
        default="flower",
        help="flower: through `flwr run` and Ray; in-process: devices compute in this process, for "
        "debuggers; processes: in a pool of --workers processes, without Flower's own (default: flower)",
    )
    option("--workers", type=int, default=default_workers(), help="worker processes (default: one per core)")
    option(
        "--client-gpus",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="GPUs a worker gets, such as 0.25: at most four share one, whatever --workers says "
        "(default: 0, workers see no GPU)",
    )
    option(
        "--nodes", type=int, help="Flower nodes that lend their workers (default: 4 per worker, at least 8)"
    )
    option(
        "--timeout",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="end the run after this long (default: never)",
    )
    option(
        "--ray-address",
        default="",
        metavar="HOST:PORT",
        help="compute on this Ray cluster (`ray start --head`) instead of a Ray of the run's own; the "
        "checkout, its Python and the run's files must be at the same paths on every machine",
    )
    option(
        "--superlink",
        default="",
        metavar="HOST:PORT",
        help="run on this SuperLink and its SuperNodes instead of a simulation of its own; needs "
        "--root-certificates, or --insecure",
    )
    option(
        "--root-certificates",
        default="",
        metavar="FILE",
        help="certificate of the authority that signed the SuperLink's (ca.crt of `ems-fl keys`)",
    )
    parser.add_argument(
        "--insecure", action="store_true", help="talk to the SuperLink without TLS: on one machine, to try"
    )
    option(
        "--port", type=int, default=0, help="port of the run's SuperLink on loopback (default: a free one)"
    )
    option(
        "--silence",
        type=float,
        default=8.0,
        metavar="SECONDS",
        help="say that the run goes on after this long without output",
    )
    typed = sys.argv[1:] if arguments is None else arguments
    return parser.parse_args(with_settings_option(typed, valued))


def check(options: argparse.Namespace) -> None:
    """Complete the options in place; raise ValueError with every fault at once."""
    options.workers = fitting_workers(options.workers, options.client_gpus)
    options.nodes = default_nodes(options.workers) if options.nodes is None else options.nodes
    simulates = options.engine == "flower" and not options.superlink
    faults = [
        f"{name} is not installed in {sys.prefix}; "
        "run `make setup`, or `pip install -r requirements.txt` there"
        for name in ("flwr", *(("ray",) if simulates else ()))
        if importlib.util.find_spec(name) is None
    ]
    if options.engine == "flower" and not faults and not Path(flwr_command()).is_file():
        faults.append(
            f"there is no {flwr_command()}, the command that starts Flower: launch with the Python of the "
            "environment that flwr was installed into"
        )
    faults += socks_faults(os.environ)
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
    faults += trust_faults(options)
    if not (options.app / "pyproject.toml").is_file():
        faults.append(f"--app must be a folder with a pyproject.toml, got {options.app}")
    if faults:
        raise ValueError("\nlaunch: ".join(faults))


def trust_faults(options: argparse.Namespace) -> list[str]:
    """Return what is wrong with how the SuperLink is trusted, and make the certificates' path absolute."""
    named = "--root-certificates FILE" if options.root_certificates else ""
    flag = "--insecure" if options.insecure else ""
    given = [option for option in (named, flag) if option]
    if not options.superlink:
        return [f"{' and '.join(given)} is for --superlink; leave it out"] if given else []
    if len(given) != 1:
        return [
            "--superlink needs one of --root-certificates FILE (ca.crt of `ems-fl keys`) and --insecure, got "
            f"{' and '.join(given) or 'neither'}"
        ]
    if named and not Path(options.root_certificates).is_file():
        return [f"--root-certificates must be a file, got {options.root_certificates}"]
    if named:
        options.root_certificates = str(Path(options.root_certificates).resolve())
    return []


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


def fitting_workers(workers: int, client_gpus: float) -> int:
    """Return as many of the workers as this machine's GPUs have room for; all if the GPUs are refused."""
    if client_gpus == 0 or gpu_faults(client_gpus):
        return workers
    import torch  # Only now: it takes seconds.

    return int(min(workers, workers_on_gpus(client_gpus, torch.cuda.device_count())))
