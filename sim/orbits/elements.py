"""Element sets in: any file by its content, and TLE files with 2 or 3 lines a satellite, field by field.

Format: "Two-Line Element Set Format", CelesTrak; catalogue numbers above 99,999 in Alpha-5.
"""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sgp4.api import Satrec

from sim.faults import raise_faults
from sim.orbits.answers import shown_answer
from sim.orbits.omm import parse_omm
from sim.orbits.omm_forms import form_of
from sim.orbits.orbit import Satellite
from sim.orbits.records import UncoveredSets, days_of, name_satellites, uncovered_theory
from sim.text_files import read_text

logger = logging.getLogger(__name__)

_LENGTH = 69  # of either line, the last column is the checksum
_FIRST_YEAR_OF_1900S = 57  # two-digit years from 57 on are of the 1900s, the others of the 2000s
_TYPE_COLUMN = 63  # of the first line: the ephemeris type

_DECIMAL = r"[+-]? *\d*\.\d+"
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


def read_elements(
    path: Path | str, *, on_notice: Callable[[str], None] = logger.warning
) -> tuple[Satellite, ...]:
    """Read an element file by its content: TLE, or OMM in JSON, CSV, XML or KVN.

    Parameters
    ----------
    path : Path or str
        A name, never a pattern.
    on_notice : callable
        Told, a sentence each, which satellites are left out and why.

    Raises
    ------
    ValueError
        If the file is absent, or as the reader of its kind says.
    """
    text = _text(path)
    parse = parse_omm if form_of(text) else parse_tle
    return parse(text, source=str(path), on_notice=on_notice)


def read_tle(path: Path | str, *, on_notice: Callable[[str], None] = logger.warning) -> tuple[Satellite, ...]:
    """Read a TLE file; see `parse_tle` for what it may hold and what is refused.

    Raises
    ------
    ValueError
        With path, line number and field of every fault.
    """
    return parse_tle(_text(path), source=str(path), on_notice=on_notice)


def _text(path: Path | str) -> str:
    """Return the text of an element file."""
    try:
        return read_text(path, "element file")
    except FileNotFoundError as error:
        raise ValueError(f"{error}; give the path of a TLE or OMM file, or 'walker'") from None


def parse_tle(
    text: str, *, source: str = "elements", on_notice: Callable[[str], None] = logger.warning
) -> tuple[Satellite, ...]:
    """Return the satellites of two-line element sets, with or without a name line before each.

    Empty lines and lines that begin with ``#`` are skipped, blanks before a line too; a leading ``0 `` of a
    name line (Space-Track's habit) is cut. A satellite without a name is called by its catalogue number, and
    equal names are told apart by it.

    Parameters
    ----------
    text : str
        The content of a file.
    source : str
        What error messages call it.
    on_notice : callable
        Told which satellites are left out, since their elements are of another theory (column 63).

    Returns
    -------
    tuple[Satellite, ...]
        In the order of the file, at least one, names and catalogue numbers unique.

    Raises
    ------
    ValueError
        With the line number and the field of every fault: checksum, a field that is no number or
        out of range, a line that lacks its partner, a catalogue number that comes twice; or with what the
        file says if it holds no element lines at all, or if all its satellites are left out.
    """
    lines = [
        _Line(number=number, text=raw.strip())
        for number, raw in enumerate(text.splitlines(), start=1)
        if raw.strip() and not raw.lstrip().startswith("#")
    ]
    if not any(_is_element_line(line, which) for line in lines for which in (1, 2)):
        says = f"; the file says: {shown_answer(text)}" if lines else ""
        raise ValueError(
            f"{source}: no element sets found; expected lines that begin with '1 ' and '2 '{says}"
        )
    found: list[tuple[str, int, Satrec]] = []
    faults: list[str] = []
    first_line: dict[int, int] = {}
    uncovered = UncoveredSets(source)
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
        if reason := uncovered_theory(one.text[_TYPE_COLUMN - 1].strip()):
            uncovered.add(name or one.text[2:7].strip(), reason)
            continue
        record = Satrec.twoline2rv(one.text, two.text)
        if record.satnum in first_line:
            faults.append(
                f"{source}, line {one.number}: satellite {record.satnum} is already on line "
                f"{first_line[record.satnum]}; keep one element set a satellite"
            )
        first_line.setdefault(record.satnum, one.number)
        found.append((name, record.satnum, record))
    raise_faults(faults)
    uncovered.tell(on_notice, are_all=not found)
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
    if strange := [c for c in line.text if not " " <= c <= "~"]:
        return [f"{where}: a line of a TLE is plain ASCII, this one holds {strange[0]!a}"]
    if len(line.text) != _LENGTH:
        return [f"{where}: a line of a TLE has {_LENGTH} ASCII characters, this one has {len(line.text)}"]
    if line.text[-1] != str(checksum(line.text)):
        return [
            f"{where}: checksum (column 69) is {line.text[-1]!r}, the line adds up to "
            f"{checksum(line.text)}; the line is damaged, fetch it again"
        ]
    faults = []
    if which == 1 and (fault := _epoch_fault(line.text)):
        faults.append(f"{where}: {fault}")
    for field, first, last, pattern in _FIELDS[which]:
        text = line.text[first - 1 : last].strip()
        bounds = _RANGES.get(field)
        if not re.fullmatch(pattern, text):
            faults.append(f"{where}: {field} (columns {first}-{last}) is not well formed, got {text!r}")
        elif bounds and not bounds[0] <= float(text.replace(" ", "")) <= bounds[1]:
            faults.append(f"{where}: {field} must be in [{bounds[0]:g}, {bounds[1]:g}], got {text}")
    return faults


def _epoch_fault(text: str) -> str:
    """Return what is wrong with the day of the epoch, or nothing: a year of 365 days has no day 366."""
    try:
        year, day = int(text[18:20]), float(text[20:32])
    except ValueError:
        return ""  # not well formed, which its field says
    year += 1900 if year >= _FIRST_YEAR_OF_1900S else 2000
    days = days_of(year)
    if 1.0 <= day < days + 1:
        return ""
    return f"epoch day must be in [1, {days + 1}) in {year}, a year of {days} days, got {text[20:32].strip()}"
