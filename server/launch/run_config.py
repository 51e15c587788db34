"""The run configuration that is handed to ``flwr run``: files and single settings merged into one TOML file.

Flower 1.41 takes either one file or settings, not both, and drops the first of two settings that share a
table (``-c "run.seed=1" -c "run.name='x'"``); one merged file has neither fault.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

RUNS_KEY = "run.dir"
# Flower's own grammar: `key=value` pairs with a space between them, quotes around a value that has one.
PAIR = re.compile(r"(\S+?)=('[^']*'|\"[^\"]*\"|\S+)")


def merge_run_config(items: Sequence[str], *, runs_folder: Path) -> dict[str, Any]:
    """Merge TOML files and ``key=value`` settings, in order; the last one wins.

    Parameters
    ----------
    items : sequence of str
        Paths that end in ``.toml``, or ``key=value`` pairs as ``flwr run --run-config`` takes them. A bare
        word that is no TOML value is a string.
    runs_folder : Path
        Where run folders go when nobody says; made absolute, because the app runs from Flower's copy of it.

    Returns
    -------
    dict
        Flat: dotted keys to bool, int, float or str. ``run.dir`` is always there and absolute.

    Raises
    ------
    ValueError
        With every unreadable file and setting at once.
    """
    merged: dict[str, Any] = {}
    faults: list[str] = []
    for item in items:
        try:
            merged.update(_read_file(Path(item)) if item.endswith(".toml") else _read_pairs(item))
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise ValueError("\nlaunch: ".join(faults))
    merged[RUNS_KEY] = str(Path(str(merged.get(RUNS_KEY) or runs_folder)).expanduser().absolute())
    return merged


def write_run_config(settings: Mapping[str, object], path: Path) -> Path:
    """Write flat settings as TOML and return the path."""
    path.write_text(tomli_w.dumps(dict(settings)), encoding="utf-8")
    return path


def _read_file(path: Path) -> dict[str, object]:
    """Return the flat settings of a TOML file."""
    try:
        return _flat(tomllib.loads(path.expanduser().read_text(encoding="utf-8")))
    except OSError as error:
        raise ValueError(f"cannot read the run configuration {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from error


def _read_pairs(text: str) -> dict[str, object]:
    """Return the flat settings of one or more ``key=value`` pairs."""
    pairs = PAIR.findall(text)
    rest = PAIR.sub("", text).strip()
    if not pairs or rest:
        raise ValueError(
            f"a run setting must be key=value or the path of a .toml file, got {rest or text!r}; "
            "put a text with spaces in quotes"
        )
    return {key: _value(value) for key, value in pairs}


def _value(text: str) -> object:
    """Return a TOML value, or the text itself where it is none."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _flat(table: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return a nested table with dotted keys."""
    flat: dict[str, object] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
