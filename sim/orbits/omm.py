"""Element sets in as Orbit Mean-Elements Messages (CCSDS 502.0-B-3), as CelesTrak and Space-Track give them.

They carry catalogue numbers above 99,999, which two-line elements cannot.
"""

import datetime as dt
import logging
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from sgp4.api import WGS72, Satrec

from sim.faults import raise_faults
from sim.orbits.omm_forms import USER_DEFINED, messages
from sim.orbits.orbit import Satellite, julian_date
from sim.orbits.records import (
    LARGEST_SATNUM,
    SGP4_EPOCH,
    UncoveredSets,
    days_of,
    name_satellites,
    uncovered_theory,
)

logger = logging.getLogger(__name__)

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
# Elements of another frame would be propagated to the wrong place in silence.
_FIXED = {"CENTER_NAME": "EARTH", "REF_FRAME": "TEME", "TIME_SYSTEM": "UTC"}
_THEORIES = ("", "SGP4", "SGP/SGP4")
# When it left orbit, in the words of OMM producers (plain or as USER_DEFINED_...) and of catalogues.
_DECAY_DATES = ("DECAY_DATE", "DECAY_EPOCH", "DECAY")
_FIRST_YEAR, _LAST_YEAR = 1957, 2099
_DAY_OF_YEAR = re.compile(r"(\d{4})-(\d{3})(?=T|$)")


def parse_omm(
    text: str, *, source: str = "elements", on_notice: Callable[[str], None] = logger.warning
) -> tuple[Satellite, ...]:
    """Return the satellites of an OMM file in JSON (a list of objects, or one), CSV, XML or KVN.

    Parameters
    ----------
    text : str
        The content of a file; its form is seen from its content.
    source : str
        What error messages call it.
    on_notice : callable
        Told, a sentence each, which satellites are left out: their elements are of another theory than SGP4,
        or they have decayed.

    Returns
    -------
    tuple[Satellite, ...]
        In the order of the file, at least one, names and catalogue numbers unique. One with a date of decay
        is out of orbit from then on.

    Raises
    ------
    ValueError
        With the line (CSV, KVN) or the place in the list (JSON, XML) and the field of every fault; or if all
        satellites are left out.
    """
    found: list[tuple[str, int, Satrec]] = []
    faults: list[str] = []
    first_place: dict[int, str] = {}
    decays: dict[int, dt.datetime] = {}
    uncovered = UncoveredSets(source)
    for place, fields in messages(text, source):
        name = str(fields.get("OBJECT_NAME") or "").strip()
        if reason := _uncovered(fields):
            uncovered.add(name or str(fields.get("NORAD_CAT_ID") or place), reason)
            continue
        number, own = _check(fields)
        if not own and number in first_place:
            own.append(
                f"satellite {number} is already in {first_place[number]}; keep one element set a satellite"
            )
        faults.extend(f"{source}, {place}: {fault}" for fault in own)
        if not own:
            first_place[number] = place
            found.append((name, number, _record(fields, number)))
            if decay := _decay(fields):
                decays[number] = decay
    if not found and not faults and not uncovered:
        faults.append(f"{source}: no element sets found")
    raise_faults(faults)
    uncovered.tell(on_notice, are_all=not found)
    return name_satellites(found, decays)


def _uncovered(fields: Mapping[str, Any]) -> str:
    """Return why a message cannot be propagated by SGP4 or any more, or nothing."""
    theory = str(fields.get("MEAN_ELEMENT_THEORY") or "").strip()
    if theory.upper() not in _THEORIES:
        return f"its elements are of the theory {theory}, not SGP4"
    if "BTERM" in fields and not fields.get("BSTAR"):
        return uncovered_theory("4")  # SGP4-XP has a ballistic coefficient in place of B*
    if reason := uncovered_theory(str(fields.get("EPHEMERIS_TYPE") or "0").strip()):
        return reason
    has_decayed = str(_stated(fields, "DECAYED")).strip().lower() in ("1", "true", "y", "yes")
    is_out = str(_stated(fields, "OPS_STATUS_CODE")).strip().upper() == "D"
    if (has_decayed or is_out) and not any(_stated(fields, field) for field in _DECAY_DATES):
        return "it has decayed"
    return ""


def _stated(fields: Mapping[str, Any], field: str) -> Any:
    """Return a field that producers add in their own way, or nothing."""
    value = fields.get(field) or fields.get(USER_DEFINED + field) or ""
    return "" if str(value).strip().lower() in ("", "null", "none", "n/a") else value


def _decay(fields: Mapping[str, Any]) -> dt.datetime | None:
    """Return when the satellite left orbit: of a date its first moment."""
    stated = (_stated(fields, field) for field in _DECAY_DATES)
    return next((_instant(value) for value in stated if value), None)


def _check(fields: Mapping[str, Any]) -> tuple[int, list[str]]:
    """Return the catalogue number and what is wrong with one message."""
    faults = []
    value = _number(fields.get("NORAD_CAT_ID"))
    number = int(value) if 0 <= value <= 999_999_999 and value == int(value) else -1
    if number < 0:
        faults.append(
            f"NORAD_CAT_ID must be a whole number in [0, 999999999], got {fields.get('NORAD_CAT_ID')!r}"
        )
    for field, (low, high) in _NUMBERS.items():
        value = _number(fields.get(field))
        if not low <= value <= high:  # false for NaN
            faults.append(f"{field} must be in [{low:g}, {high:g}], got {fields.get(field)!r}")
    try:
        epoch = _instant(fields.get("EPOCH"))
        if not _FIRST_YEAR <= epoch.year <= _LAST_YEAR:
            raise ValueError
    except ValueError:
        faults.append(
            f"EPOCH must be a date and time such as 2026-08-22T12:00:00.5, in {_FIRST_YEAR} to {_LAST_YEAR}, "
            f"got {fields.get('EPOCH')!r}"
        )
    for field in _DECAY_DATES:
        try:
            if stated := _stated(fields, field):
                _instant(stated)
        except ValueError:
            faults.append(f"{field} must be a date such as 2026-08-22, got {stated!r}")
    for field, allowed in _FIXED.items():
        given = fields.get(field)
        if given and str(given).strip().upper() != allowed:
            faults.append(f"{field} must be {allowed}, got {given!r}; other elements need another propagator")
    return number, faults


def _number(value: object) -> float:
    """Return a field as a number, NaN where it is none."""
    try:
        return float(str(value))
    except ValueError:
        return math.nan


def _instant(value: object) -> dt.datetime:
    """Return a date and time of CCSDS 502.0-B-3, section 7.5.10: by month and day, or by day of the year.

    It is UTC without saying so.

    Raises
    ------
    ValueError
        If it is none: also for a day that the month or the year does not have.
    """
    text = str(value).strip()
    if day := _DAY_OF_YEAR.match(text):
        if not 1 <= int(day[2]) <= days_of(int(day[1])):
            raise ValueError(f"no day {day[2]} in {day[1]}")  # strptime would take one of the next year
        date = dt.date(int(day[1]), 1, 1) + dt.timedelta(days=int(day[2]) - 1)
        text = date.isoformat() + text[day.end() :]
    instant = dt.datetime.fromisoformat(text)
    return instant if instant.tzinfo else instant.replace(tzinfo=dt.UTC)


def _record(fields: Mapping[str, Any], number: int) -> Satrec:
    """Return the elements as ``sgp4`` keeps them (radians, minutes; its units of the two derivatives)."""
    value = {field: _number(fields[field]) for field in _NUMBERS}
    epoch = _instant(fields["EPOCH"])
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
