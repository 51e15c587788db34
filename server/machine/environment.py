"""The settings that Flower, Ray and the Hugging Face hub read from the environment, in one place.

Flower keeps its connections in a folder of the user's home and reads its switches from environment variables.
Neither may be asked of a user, so the project's virtual environment carries them: ``python -m
server.machine.environment`` writes one ``.pth`` file, which Python runs at every start, and the Flower home
``.flwr/`` beside this checkout. A variable that the user has set always wins. ``server.launch`` uses the same
settings for a Python that was set up in another way.
"""

from __future__ import annotations

import inspect
import os
import sys
import sysconfig
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from server.machine.loopback import without_proxy
from server.machine.processes import end_all, local_superlinks

PTH_NAME = "ems_fl_environment.pth"

# Where a plain `flwr run .` finds its SuperLink and its simulation settings. `options` is what Flower 1.41
# reads without a further command (it prints that the key is deprecated; the replacement lives only in a
# running daemon's memory).
FLOWER_CONFIG = """\
# Written by `python -m server.machine.environment`; read by `flwr` through FLWR_HOME.
[superlink]
default = "local"

[superlink.local]
address = ":local:"

[superlink.local.options]
num-supernodes = {nodes}
backend.client-resources.num-cpus = 1
backend.init-args.num-cpus = {workers}
"""

COMMAND_NAME = "ems-fl"
# The rooms are never installed under their top-level names; the command says where the checkout is.
COMMAND = """\
#!{python}
# Written by `make setup`.
import sys

sys.path.insert(0, {root!r})
from cli.app import app

app()
"""

LAUNCH_CONFIG = """\
[superlink]
default = "local"

[superlink.local]
address = ":local:"
"""

DEPLOYED_CONFIG = """\
[superlink]
default = "deployed"

[superlink.deployed]
address = "{address}"
{trust}
"""


def deployed_config(address: str, root_certificates: str) -> str:
    """Return Flower's configuration for a SuperLink elsewhere; without certificates nothing is encrypted."""
    trust = f'root-certificates = "{root_certificates}"' if root_certificates else "insecure = true"
    return DEPLOYED_CONFIG.format(address=address, trust=trust)


def simulation_settings(workers: int, nodes: int, client_gpus: float = 0.0, *, own_ray: bool = True) -> str:
    """Return what ``flwr run --federation-config`` takes: Flower nodes, and what each Ray worker gets.

    Parameters
    ----------
    workers, nodes : int
        Ray workers, of one core each, and the Flower nodes that lend them.
    client_gpus : float
        GPUs of each worker, a share or a whole number; 0: it sees none.
    own_ray : bool
        Whether the run starts Ray itself; a cluster that is there already has its own number of cores.
    """
    settings = (
        f"num-supernodes={nodes} client-resources-num-cpus=1 client-resources-num-gpus={float(client_gpus)}"
    )
    return f"{settings} init-args-num-cpus={workers}" if own_ray else settings


def flwr_command() -> str:
    """Return the ``flwr`` command of this very Python, activated or not."""
    return str(Path(sys.executable).parent / "flwr")


def repository() -> Path:
    """Return the root folder of this checkout."""
    return Path(__file__).resolve().parents[2]


def default_workers() -> int:
    """Return the number of Ray workers when nobody chose one: the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def default_nodes(workers: int) -> int:
    """Return how many Flower nodes lend their workers, at least eight.

    Flower's simulation hands a node one message every 0.1 s: with few nodes workers wait for that. With many
    what is known at one time is cut into more and smaller messages than workers need.
    """
    return max(8, 4 * workers)


def quiet_settings() -> dict[str, str]:
    """Return the switches that keep a run on this machine and quiet."""
    return {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        # Otherwise Flower resolves [project].dependencies from the package index before every run.
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # A worker that asked for no GPU sees none: else all workers would crowd onto a machine's GPU unasked.
        # Ray 2.55 does so anyway, and tells at every start that it may change; that tip is not for users.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
        "PYTHONWARNINGS": "ignore:Tip:FutureWarning",
        # A tokenizer that was used before a fork warns in every worker unless it is told not to use threads.
        "TOKENIZERS_PARALLELISM": "false",
        # Workers keep freed memory for their next step: `engine.allocator` says why.
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
        "MALLOC_TOP_PAD_": str(64 << 20),
    }


def local_port(root: Path) -> int:
    """Return the port of this checkout's local SuperLink, in [20000, 32000).

    Flower's own default is one port for the whole machine, where a SuperLink left behind by another project,
    with another virtual environment, would answer. The range lies below the ports that Linux hands out by
    itself (32768 and up).
    """
    return 20000 + zlib.crc32(str(root).encode()) % 12000


def checkout_settings(root: Path) -> dict[str, str]:
    """Return the settings of one checkout: its Flower home, its runs, and the port of its local SuperLink."""
    port = local_port(root)
    return {
        "EMS_FL_RUNS": str(root / "runs"),
        "FLWR_HOME": str(root / ".flwr"),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port),
        "FLWR_LOCAL_CONTROL_API_PORT": str(port),
    }


def pth_line(settings: Mapping[str, str]) -> str:
    """Return one line of Python for a ``.pth`` file: set what is not set yet, put this environment on PATH.

    Loopback is taken away from proxies there too, by `without_proxy`, whose source the line carries: the
    file must work without this checkout. Flower starts ``flower-superlink`` and
    ``flwr-simulation`` by name, so ``.venv/bin/flwr`` works without activation only when the folder it lies
    in is on PATH.
    """
    return (
        f"import os, sys; [os.environ.setdefault(k, v) for k, v in {dict(settings)!r}.items()]; "
        f"g = {{}}; exec({inspect.getsource(without_proxy)!r}, g); "
        "os.environ.update(g['without_proxy'](dict(os.environ))); "
        "b = os.path.join(sys.prefix, 'bin'); p = os.environ.get('PATH', os.defpath); "
        "os.environ.__setitem__('PATH', p if b in p.split(os.pathsep) else b + os.pathsep + p)\n"
    )


def install(root: Path, site_packages: Path, scripts: Path) -> tuple[Path, Path, Path]:
    """Write the ``.pth`` file, Flower's configuration and the command ``ems-fl``.

    Parameters
    ----------
    root : Path
        The checkout; its ``.flwr/`` becomes the Flower home.
    site_packages : Path
        Where the virtual environment keeps its packages.
    scripts : Path
        Where it keeps its commands.

    Returns
    -------
    tuple[Path, Path, Path]
        The files written: the ``.pth`` file, ``.flwr/config.toml`` and ``ems-fl``.
    """
    pth = site_packages / PTH_NAME
    pth.write_text(pth_line(quiet_settings() | checkout_settings(root)), encoding="utf-8")
    config = root / ".flwr" / "config.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    workers = default_workers()
    config.write_text(FLOWER_CONFIG.format(nodes=default_nodes(workers), workers=workers), encoding="utf-8")
    return pth, config, write_command(root, scripts)


def write_command(root: Path, scripts: Path) -> Path:
    """Write the command ``ems-fl`` of the checkout at ``root`` into a folder of commands."""
    command = scripts / COMMAND_NAME
    command.write_text(COMMAND.format(python=sys.executable, root=str(root)), encoding="utf-8")
    command.chmod(0o755)
    return command


def stop_local_superlink() -> None:
    """End the SuperLink that a plain ``flwr run`` of this checkout left behind, and say so."""
    count = end_all(lambda: local_superlinks(repository() / ".flwr"))
    print(f"ended {count} processes of this checkout's local SuperLink")


def main(arguments: Sequence[str]) -> None:
    """Write the settings into this Python; with ``--stop``, end the SuperLink a plain ``flwr run`` left."""
    if list(arguments) == ["--stop"]:
        stop_local_superlink()
        return
    if arguments:
        raise SystemExit(
            f"python -m server.machine.environment takes --stop or nothing, got {' '.join(arguments)}"
        )
    end_all(
        lambda: local_superlinks(repository() / ".flwr")
    )  # It would keep the settings it was started with.
    paths = sysconfig.get_paths()
    for written in install(repository(), Path(paths["purelib"]), Path(paths["scripts"])):
        print(f"wrote {written}")


if __name__ == "__main__":
    main(sys.argv[1:])
