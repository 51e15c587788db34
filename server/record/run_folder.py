"""The folder of one run: its name, its settings on disk, and what may change when it is resumed."""

import os
import platform
import shutil
import tempfile
import tomllib
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from shlex import quote

from flwr.common.config import flatten_dict

from moe.disk.writing import not_written
from scenario.settings.as_text import toml_text
from scenario.settings.config import RunConfig, flat_config
from scenario.settings.reading import read_config

RUNS_VARIABLE = "EMS_FL_RUNS"
"""Environment variable that names the folder of runs where ``run.dir`` does not."""
CONFIG_FILE = "config.toml"
RESUME_FILE = "resume.toml"

VERSIONS_OF = ("ems-fl", "flwr", "ray", "torch", "transformers", "peft", "numpy", "scipy", "sgp4")

MAY_CHANGE_ON_RESUME = (
    "run.", "merge.max-merges", "merge.target-loss", "evaluate.every-merges", "evaluate.batch-size",
    "evaluate.streamed", "model.kept-mb", "report.",
)  # fmt: skip
"""Settings that only say when to stop, what to look at and what to keep in memory; any other would make
another run of it."""


def name_run_folder(config: RunConfig, now: datetime | None = None) -> Path:
    """Return where a run goes: the folder to resume, or a new name under ``run.dir``; creates nothing.

    Parameters
    ----------
    config : RunConfig
        ``run.resume``, ``run.dir`` and ``run.name`` are used; an empty ``run.dir`` stands for
        ``$EMS_FL_RUNS``, which `make setup` points to ``runs/`` of the checkout, else for
        ``$XDG_DATA_HOME/ems-fl/runs`` (``~/.local/share`` where that is not set).
    now : datetime or None
        Wall clock in the name; None reads it.
    """
    if config.run.resume:
        return Path(config.run.resume)
    parent = Path(config.run.dir or os.environ.get(RUNS_VARIABLE) or _data_home() / "ems-fl" / "runs")
    stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    folder = parent / f"{config.run.name}-{stamp}"
    number = 1
    while folder.exists():
        number += 1
        folder = parent / f"{config.run.name}-{stamp}-{number}"
    return folder


def _data_home() -> Path:
    if own := os.environ.get("XDG_DATA_HOME"):
        return Path(own)
    try:
        return Path.home() / ".local" / "share"
    except RuntimeError as error:
        raise ValueError(
            "this user has no home folder for runs: set run.dir, or the environment variable "
            f"{RUNS_VARIABLE}, to an absolute path of a folder that can be written"
        ) from error


def check_can_be_made(folder: Path) -> None:
    """Refuse a new folder that could not be made; leaves nothing behind.

    Raises
    ------
    ValueError
        If nothing can be written where the nearest folder above it is.
    """
    above = next(path for path in folder.parents if os.path.lexists(path))
    try:
        # Tried, not asked for: permissions say nothing of a file system that is mounted read-only.
        tempfile.TemporaryFile(dir=above).close()
    except OSError as error:
        raise _cannot_be_written(folder, f"{above}: {error.strerror}") from error


def _cannot_be_written(folder: Path, reason: object) -> ValueError:
    return ValueError(
        f"the run folder {folder} cannot be written ({reason}); set run.dir, or the environment variable "
        f"{RUNS_VARIABLE}, to an absolute path of a folder that this user may write to, on a disk with space"
    )


def create_run_folder(folder: Path, config: RunConfig) -> None:
    """Make a new run's folder and write its settings.

    Raises
    ------
    ValueError
        If ``folder`` is a file, holds anything, or cannot be made or written; nothing is left behind.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(
            f"a new run needs a folder of its own: {folder} is not empty; choose another run.dir or "
            "run.name, or set run.resume to this folder to continue the run in it"
        )
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_settings(folder, config)
    except OSError as error:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise _cannot_be_written(folder, error.strerror or error.__cause__) from error


def write_settings(folder: Path, config: RunConfig) -> None:
    """Write ``config.toml`` (repeats the run) and ``resume.toml`` (continues it), each atomically."""
    settings = flat_config(config) | {"run.resume": ""}
    made_with = ", ".join(f"{name} {version}" for name, version in _versions().items())
    for name, use, resume in (
        (CONFIG_FILE, "Every setting of this run; repeat it", ""),
        (RESUME_FILE, "Continue this run", str(folder)),
    ):
        head = (
            f"# {use} with: flwr run . --stream --run-config {quote(str(folder / name))}\n"
            f"# Made with Python {platform.python_version()}, {made_with}\n\n"
        )
        write_atomically(folder / name, head + toml_text(settings | {"run.resume": resume}))


def read_settings(folder: Path) -> RunConfig:
    """Return the settings that a run folder was made with.

    Raises
    ------
    ValueError
        If ``folder`` is not a run folder, or its ``config.toml`` is damaged.
    """
    path = folder / CONFIG_FILE
    try:
        return read_config(flatten_dict(tomllib.loads(path.read_text(encoding="utf-8"))))
    except OSError as error:
        raise ValueError(
            f"{folder} is not a run folder: {path} cannot be read ({error.strerror}); set run.resume to the "
            "folder that an earlier run printed"
        ) from error
    except ValueError as error:
        raise ValueError(f"the settings in {path} are damaged: {error}") from error


def check_resumable(folder: Path, config: RunConfig) -> None:
    """Raise unless ``config`` continues the run in ``folder``, naming every setting that differs.

    Raises
    ------
    ValueError
        If ``folder`` is no run folder, or a setting differs that would make the result another run's.
    """
    saved, now = flat_config(read_settings(folder)), flat_config(config)
    changed = [
        f"  {key} is {now[key]!r}, was {value!r}"
        for key, value in saved.items()
        if now[key] != value and not key.startswith(MAY_CHANGE_ON_RESUME)
    ]
    if changed:
        raise ValueError(
            "a resumed run keeps the settings it was started with, but these differ:\n"
            + "\n".join(changed)
            + f"\nstart it with: flwr run . --stream --run-config {quote(str(folder / RESUME_FILE))}"
        )


def is_run(folder: Path) -> bool:
    """Tell whether a folder is that of a run."""
    return (folder / RESUME_FILE).is_file()


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a power cut, finds the old one or the new one whole.

    Raises
    ------
    OSError
        If the disk has no room; the old file is as it was.
    """
    content = text.encode()
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise not_written(path.name, path, len(content), error) from error


def _versions() -> dict[str, str]:
    found = {}
    for name in VERSIONS_OF:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            # The app itself is not installed when Flower runs it from its own copy.
            continue
    return found
