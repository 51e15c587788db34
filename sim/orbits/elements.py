"""Element sets in: any file by its content, and TLE files with 2 or 3 lines a satellite, field by field.

Format: "Two-Line Element Set Format", CelesTrak; catalogue numbers above 99,999 in Alpha-5.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sgp4.api import Satrec

from sim.faults import raise_faults
from sim.orbits.omm import parse_omm
from sim.orbits.orbit import Satellite
from sim.orbits.records import name_satellites

_LENGTH = 69  # of either line, the last column is the checksum

_DECIMAL = r"[ +-]*\d*\.\d+"
_POWER = r"[ +-]?\d{5}[+-]\d"  # an assumed decimal point before the five digits
# field: first and last column, counted from 1 as the format does; pattern after stripping blanks.
_FIELDS: dict[int, tuple[tuple[str, int, int, str], ...]] = {
    1: (
        ("catalogue number", 3, 7, r"[0-9A-HJ-NP-Z]?\d{1,4}"),
        ("epoch year", 19, 20, r"\d{2}"),
        ("epoch day", 21, 32, r"\d{1,3}\.\d+"),
        ("first derivative of mean motion", 34, 43, _DECIMAL),
        ("second derivative of mean motion", 45, 52, _POWER),
        ("drag term", 54, 61, _POWER),
        ("element set number", 65, 68, r"\d{0,4}"),
    ),
    2: (
        ("catalogue number", 3, 7, r"[0-9A-HJ-NP-Z]?\d{1,4}"),
        ("inclination", 9, 16, _DECIMAL),
        ("right ascension of the node", 18, 25, _DECIMAL),
        ("eccentricity", 27, 33, r"\d{7}"),
        ("argument of perigee", 35, 42, _DECIMAL),
        ("mean anomaly", 44, 51, _DECIMAL),
        ("mean motion", 53, 63, _DECIMAL),
        ("revolution number", 64, 68, r"\d{0,5}"),
    ),
}
# What an ellipse around the Earth allows, in the file's units.
_RANGES = {
    "epoch day": (1.0, 367.0),
    "inclination": (0.0, 180.0),
    "right ascension of the node": (0.0, 360.0),
    "argument of perigee": (0.0, 360.0),
    "mean anomaly": (0.0, 360.0),
    "mean motion": (0.05, 18.0),  # revolutions a day; 17.6 would skim the ground
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """One line of a file, with the number an editor shows."""

    number: int
    text: str


def read_elements(path: Path | str) -> tuple[Satellite, ...]:
    """Read an element file of any kind the project knows: TLE, or OMM in JSON or CSV, by its content.

    Raises
    ------
    ValueError
        If the file is absent, or as the reader of its kind says.
    """
    if not Path(path).is_file():
        raise ValueError(f"no element file at {path}; give the path of a TLE file, or 'walker'")
    text = Path(path).read_text(encoding="utf-8-sig", errors="replace")
    first_line = text.lstrip().partition("\n")[0]
    if first_line[:1] in ("[", "{") or ("," in first_line and "MEAN_MOTION" in first_line):
        return parse_omm(text, source=str(path))
    return parse_tle(text, source=str(path))


def read_tle(path: Path | str) -> tuple[Satellite, ...]:
    """Read a TLE file; see `parse_tle` for what it may hold and what is refused.

    Raises
    ------
    ValueError
        With path, line number and field of every fault.
    """
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    return parse_tle(text, source=str(path))


def parse_tle(text: str, *, source: str = "elements") -> tuple[Satellite, ...]:
    """Return the satellites of two-line element sets, with or without a name line before each.

    Empty lines and lines that begin with ``#`` are skipped; a leading ``0 `` of a name line
    (Space-Track's habit) is cut. A satellite without a name is called by its catalogue number, and
    equal names are told apart by it.

    Parameters
    ----------
    text : str
        The content of a file.
    source : str
        What error messages call it.

    Returns
    -------
    tuple[Satellite, ...]
        In the order of the file, at least one, names and catalogue numbers unique.

    Raises
    ------
    ValueError
        With the line number and the field of every fault: checksum, a field that is no number or
        out of range, a line that lacks its partner, a catalogue number that comes twice.
    """
    lines = [
        _Line(number=number, text=raw.rstrip())
        for number, raw in enumerate(text.splitlines(), start=1)
        if raw.strip() and not raw.startswith("#")
    ]
    found: list[tuple[str, int, Satrec]] = []
    faults: list[str] = []
    first_line: dict[int, int] = {}
    for name, one, two in _group(lines, faults, source):
        own = [*_line_faults(one, 1, source), *_line_faults(two, 2, source)]
        if not own and one.text[2:7] != two.text[2:7]:
            own.append(
                f"{source}, line {two.number}: catalogue number {two.text[2:7]!r} is not that of "
                f"line {one.number}, {one.text[2:7]!r}; the two lines belong together"
            )
        faults.extend(own)
        if own:
            continue
        record = Satrec.twoline2rv(one.text, two.text)
        if record.satnum in first_line:
            faults.append(
                f"{source}, line {one.number}: satellite {record.satnum} is already on line "
                f"{first_line[record.satnum]}; keep one element set a satellite"
            )
        first_line.setdefault(record.satnum, one.number)
        found.append((name, record.satnum, record))
    if not found and not faults:
        faults.append(f"{source}: no element sets found; expected lines that begin with '1 ' and '2 '")
    raise_faults(faults)
    return name_satellites(found)


def checksum(line: str) -> int:
    """Return the checksum of the first 68 columns: digits add up, a minus counts one, modulo 10."""
    return sum(int(c) if c.isdigit() else c == "-" for c in line[: _LENGTH - 1]) % 10


def _group(lines: Sequence[_Line], faults: list[str], source: str) -> list[tuple[str, _Line, _Line]]:
    """Pair first and second lines, with the name line before them if there is one."""
    groups = []
    name: _Line | None = None
    index = 0
    while index < len(lines):
        line = lines[index]
        following = lines[index + 1] if index + 1 < len(lines) else None
        if _is_element_line(line, 1):
            if following is not None and _is_element_line(following, 2):
                groups.append((_clean_name(name), line, following))
                index += 1
            else:
                faults.append(f"{source}, line {line.number}: a first line without its second line")
            name = None
        elif _is_element_line(line, 2):
            faults.append(f"{source}, line {line.number}: a second line without its first line")
            name = None
        else:
            if name is not None:
                faults.append(_stray(name, source))
            name = line
        index += 1
    if name is not None:
        faults.append(_stray(name, source))
    return groups


def _stray(line: _Line, source: str) -> str:
    """Say that a line is neither an element line nor the name of one."""
    shown = line.text if len(line.text) <= 30 else line.text[:27] + "..."
    return f"{source}, line {line.number}: {shown!r} is no element line, and no element lines follow it"


def _is_element_line(line: _Line, which: int) -> bool:
    """Tell whether a line begins as a first or second line does (a satellite may be named '1 X')."""
    return line.text.startswith(f"{which} ") and len(line.text) > 24


def _clean_name(line: _Line | None) -> str:
    """Return the name on a name line, without the line number Space-Track puts before it."""
    return "" if line is None else line.text.strip().removeprefix("0 ").strip()


def _line_faults(line: _Line, which: int, source: str) -> list[str]:
    """Return what is wrong with one line: its length, else its checksum, else its fields."""
    where = f"{source}, line {line.number}"
    if len(line.text) != _LENGTH or not line.text.isascii():
        return [f"{where}: a line of a TLE has {_LENGTH} ASCII characters, this one has {len(line.text)}"]
    if line.text[-1] != str(checksum(line.text)):
        return [
            f"{where}: checksum (column 69) is {line.text[-1]!r}, the line adds up to "
            f"{checksum(line.text)}; the line is damaged, fetch it again"
        ]
    faults = []
    for field, first, last, pattern in _FIELDS[which]:
        text = line.text[first - 1 : last].strip()
        bounds = _RANGES.get(field)
        if not re.fullmatch(pattern, text):
            faults.append(f"{where}: {field} (columns {first}-{last}) is not well formed, got {text!r}")
        elif bounds and not bounds[0] <= float(text.replace(" ", "")) <= bounds[1]:
            faults.append(f"{where}: {field} must be in [{bounds[0]:g}, {bounds[1]:g}], got {text}")
    return faults
