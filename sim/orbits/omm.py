"""Element sets in as Orbit Mean-Elements Messages (CCSDS 502.0-B-3), JSON or CSV, as CelesTrak gives them.

They carry catalogue numbers above 99,999, which two-line elements cannot.
"""

import csv
import datetime as dt
import io
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from sgp4.api import WGS72, Satrec

from sim.faults import raise_faults
from sim.orbits.orbit import Satellite, julian_date
from sim.orbits.records import LARGEST_SATNUM, SGP4_EPOCH, name_satellites

# Field: lowest and highest value, in the message's units (degrees, revolutions a day).
_NUMBERS: Mapping[str, tuple[float, float]] = {
    "MEAN_MOTION": (0.05, 18.0),
    "ECCENTRICITY": (0.0, 0.999999),
    "INCLINATION": (0.0, 180.0),
    "RA_OF_ASC_NODE": (0.0, 360.0),
    "ARG_OF_PERICENTER": (0.0, 360.0),
    "MEAN_ANOMALY": (0.0, 360.0),
    "BSTAR": (-100.0, 100.0),
    "MEAN_MOTION_DOT": (-100.0, 100.0),
    "MEAN_MOTION_DDOT": (-100.0, 100.0),
}
# Elements of another theory or frame would be propagated to the wrong place in silence.
_FIXED = {"MEAN_ELEMENT_THEORY": ("SGP4", "SGP/SGP4"), "REF_FRAME": ("TEME",), "TIME_SYSTEM": ("UTC",)}


def parse_omm(text: str, *, source: str = "elements") -> tuple[Satellite, ...]:
    """Return the satellites of an OMM file in JSON (a list of objects, or one) or CSV (with a header).

    Parameters
    ----------
    text : str
        The content of a file; JSON if it begins with a bracket.
    source : str
        What error messages call it.

    Returns
    -------
    tuple[Satellite, ...]
        In the order of the file, at least one, names and catalogue numbers unique.

    Raises
    ------
    ValueError
        With the line (CSV) or the place in the list (JSON) and the field of every fault.
    """
    found: list[tuple[str, int, Satrec]] = []
    faults: list[str] = []
    first_place: dict[int, str] = {}
    for place, fields in _messages(text, source):
        number, own = _check(fields)
        if not own and number in first_place:
            own.append(
                f"satellite {number} is already in {first_place[number]}; keep one element set a satellite"
            )
        faults.extend(f"{source}, {place}: {fault}" for fault in own)
        if not own:
            first_place[number] = place
            found.append((str(fields.get("OBJECT_NAME") or "").strip(), number, _record(fields, number)))
    if not found and not faults:
        faults.append(f"{source}: no element sets found")
    raise_faults(faults)
    return name_satellites(found)


def _messages(text: str, source: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield where each message is and its fields."""
    if text.lstrip()[:1] not in ("[", "{"):
        reader = csv.DictReader(io.StringIO(text.lstrip("\ufeff")))
        for row in reader:
            yield f"line {reader.line_num}", row
        return
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{source}, line {error.lineno}: not valid JSON: {error.msg}; fetch it again"
        ) from error
    for index, entry in enumerate(content if isinstance(content, list) else [content], start=1):
        if not isinstance(entry, dict):
            raise ValueError(
                f"{source}, entry {index}: expected an object with OMM fields, got {entry!r:.40}"
            )
        yield f"entry {index}", entry


def _check(fields: Mapping[str, Any]) -> tuple[int, list[str]]:
    """Return the catalogue number and what is wrong with one message."""
    faults = []
    try:
        number = int(fields["NORAD_CAT_ID"])
    except (KeyError, TypeError, ValueError):
        number = -1
    if not 0 <= number <= 999_999_999:
        faults.append(f"NORAD_CAT_ID must be in [0, 999999999], got {fields.get('NORAD_CAT_ID')!r}")
    for field, (low, high) in _NUMBERS.items():
        value = _number(fields.get(field))
        if not low <= value <= high:  # false for NaN
            faults.append(f"{field} must be in [{low:g}, {high:g}], got {fields.get(field)!r}")
    try:
        _epoch(fields)
    except (KeyError, TypeError, ValueError):
        faults.append(
            f"EPOCH must be a date and time such as 2026-08-22T12:00:00.5, got {fields.get('EPOCH')!r}"
        )
    for field, allowed in _FIXED.items():
        given = fields.get(field)
        if given and str(given).strip().upper() not in allowed:
            faults.append(
                f"{field} must be {allowed[0]}, got {given!r}; other elements need another propagator"
            )
    return number, faults


def _number(value: object) -> float:
    """Return a field as a number, NaN where it is none."""
    try:
        return float(str(value))
    except ValueError:
        return math.nan


def _epoch(fields: Mapping[str, Any]) -> dt.datetime:
    """Return the epoch; OMM gives UTC without saying so."""
    epoch = dt.datetime.fromisoformat(fields["EPOCH"].strip())
    return epoch if epoch.tzinfo else epoch.replace(tzinfo=dt.UTC)


def _record(fields: Mapping[str, Any], number: int) -> Satrec:
    """Return the elements as ``sgp4`` keeps them (radians, minutes; its units of the two derivatives)."""
    value = {field: _number(fields[field]) for field in _NUMBERS}
    epoch = _epoch(fields)
    turns_per_minute = 1.0 / 1440.0
    record = Satrec()
    record.sgp4init(
        WGS72,
        "i",
        number if number <= LARGEST_SATNUM else 0,
        (epoch - SGP4_EPOCH) / dt.timedelta(days=1),
        value["BSTAR"],
        value["MEAN_MOTION_DOT"] * 2.0 * math.pi * turns_per_minute**2,
        value["MEAN_MOTION_DDOT"] * 2.0 * math.pi * turns_per_minute**3,
        value["ECCENTRICITY"],
        math.radians(value["ARG_OF_PERICENTER"]),
        math.radians(value["INCLINATION"]),
        math.radians(value["MEAN_ANOMALY"]),
        value["MEAN_MOTION"] * 2.0 * math.pi * turns_per_minute,
        math.radians(value["RA_OF_ASC_NODE"]),
    )
    # One float of days since 1949 keeps 3e-7 s; the split date keeps all of it.
    record.jdsatepoch, record.jdsatepochF = julian_date(epoch)
    return record
