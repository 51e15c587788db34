"""The run configuration that is handed to ``flwr run``: files and single settings merged into one TOML file.

Flower 1.41 takes either one file or settings, not both, and drops the first of two settings that share a
table (``-c "run.seed=1" -c "run.name='x'"``); one merged file has neither fault.
"""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from scenario.tables.file_content import DamagedFileError, decode

RUNS_KEY = "run.dir"
# Flower's own grammar: `key=value` pairs with a space between them, quotes around a value that has one.
PAIR = re.compile(r"(\S+?)=('[^']*'|\"[^\"]*\"|\S+)")
# One pair whose value has spaces: a shell has taken the quotes around it away.
ONLY_PAIR = re.compile(r"\s*([^\s=]+)=([^\s='\"][^=]*)")
LINE = re.compile(r"\(at line (\d+), column \d+\)")
IN_OUR_WORDS = (
    ("Cannot overwrite a value", "the key is given twice"),
    ("Cannot declare", "the table is given twice"),
)
TOML_DATES = (datetime.date, datetime.time)


def merge_run_config(items: Sequence[str], *, runs_folder: Path) -> dict[str, Any]:
    """Merge TOML files and ``key=value`` settings, in order; the last one wins.

    Parameters
    ----------
    items : sequence of str
        Paths that end in ``.toml``, or ``key=value`` pairs as ``flwr run --run-config`` takes them. A bare
        word that is no TOML value, or a date, is a string.
    runs_folder : Path
        Where run folders go when nobody says; made absolute, because the app runs from Flower's copy of it.

    Returns
    -------
    dict
        Flat: dotted keys to bool, int, float or str. ``run.dir`` is always there, and absolute if it is text.

    Raises
    ------
    ValueError
        With every unreadable file and setting at once.
    """
    merged: dict[str, Any] = {}
    faults: list[str] = []
    for item in items:
        try:
            merged.update(_read_file(Path(item)) if _is_file(item) else _read_pairs(item))
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise ValueError("\nlaunch: ".join(faults))
    folder = merged.get(RUNS_KEY, "")
    if isinstance(folder, str):  # anything else is refused by name with the other settings
        merged[RUNS_KEY] = str(Path(folder or runs_folder).expanduser().absolute())
    return merged


def write_run_config(settings: Mapping[str, object], path: Path) -> Path:
    """Write flat settings as TOML and return the path."""
    path.write_text(tomli_w.dumps(dict(settings)), encoding="utf-8")
    return path


def _is_file(item: str) -> bool:
    """Tell a path from a setting whose value ends like one, such as ``run.name=a.toml``."""
    return item.endswith(".toml") and ("=" not in item or Path(item).expanduser().is_file())


def _read_file(path: Path) -> dict[str, object]:
    """Return the flat settings of a TOML file."""
    try:
        text = decode(path.expanduser().read_bytes())
        settings = list(_flat(tomllib.loads(text)))
    except DamagedFileError as fault:
        raise ValueError(f"{path}, {fault}") from fault
    except OSError as error:
        raise ValueError(f"cannot read the run configuration {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {_explain(error, text)}") from error
    keys = [key for key, _ in settings]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"{path}: {', '.join(twice)} given twice, in a table and with dots; keep one")
    return dict(settings)


def _explain(error: tomllib.TOMLDecodeError, text: str) -> str:
    """Return what the parser says with the line it means: its own message names neither key nor text."""
    message = str(error)
    for theirs, ours in IN_OUR_WORDS:
        if message.startswith(theirs):
            message = f"{ours} {message[message.find('(at') :]}"
    if (found := LINE.search(message)) and (lines := text.splitlines()):
        number = min(int(found.group(1)), len(lines))
        return f"line {number}, {lines[number - 1].strip()!r}: {LINE.sub('', message).strip()}"
    return message


def _read_pairs(text: str) -> dict[str, object]:
    """Return the flat settings of one or more ``key=value`` pairs."""
    if only := ONLY_PAIR.fullmatch(text):
        return {only.group(1): _value(only.group(2).strip())}
    pairs = PAIR.findall(text)
    rest = PAIR.sub("", text).strip()
    if not pairs or rest:
        raise ValueError(
            f"a run setting must be key=value or the path of a .toml file, got {rest or text!r}; "
            "put a text with spaces in quotes"
        )
    return {key: _value(value) for key, value in pairs}


def _value(text: str) -> object:
    """Return a TOML value, or the text itself where it is none or a date, which no setting is."""
    try:
        value: object = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return text if isinstance(value, TOML_DATES) else value


def _flat(table: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the values of a nested table by their dotted keys."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
