"""What the readers of element files share."""

import calendar
import datetime as dt
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from sgp4.api import Satrec

from sim.names import clean_name
from sim.orbits.orbit import Satellite

SGP4_EPOCH = dt.datetime(1949, 12, 31, tzinfo=dt.UTC)
"""What ``Satrec.sgp4init`` counts its days from."""

LARGEST_SATNUM = 339_999
"""The last catalogue number a ``Satrec`` can hold (Alpha-5); larger ones live in the name alone."""


def days_of(year: int) -> int:
    """Return how many days a year has."""
    return 366 if calendar.isleap(year) else 365


# CCSDS 502.0-B-3, keyword EPHEMERIS_TYPE; column 63 of a TLE. Type 0 is Kozai's mean motion under SGP4.
_EPHEMERIS_TYPES = {
    "2": "type 2 (SGP4 of Brouwer's mean motion)",
    "3": "type 3 (PPT3)",
    "4": "type 4 (SGP4-XP)",
    "6": "type 6 (special perturbations)",
}


def uncovered_theory(ephemeris_type: str) -> str:
    """Return why elements of an ephemeris type are not for plain SGP4, or nothing for type 0 or none.

    SGP4 would take them, and lead to another place: SGP4-XP's drag term alone moves a satellite by
    kilometres a day.
    """
    if ephemeris_type in ("", "0", "0.0"):
        return ""
    known = _EPHEMERIS_TYPES.get(ephemeris_type.removesuffix(".0"), f"type {ephemeris_type!r}")
    return f"its elements are of ephemeris {known}, plain SGP4 is for type 0"


class UncoveredSets:
    """Element sets that are left out of a file, to be told of once and by reason.

    Parameters
    ----------
    source : str
        What messages call the file.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._names: dict[str, list[str]] = {}

    def __bool__(self) -> bool:
        return bool(self._names)

    def add(self, name: str, reason: str) -> None:
        """Note a satellite and why it is left out, a clause that begins with ``it``."""
        self._names.setdefault(reason, []).append(name)

    def tell(self, on_notice: Callable[[str], None], *, are_all: bool) -> None:
        """Tell who is left out.

        Raises
        ------
        ValueError
            If these are all satellites of the file.
        """
        notes = []
        for reason, names in self._names.items():
            shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
            notes.append(f"{self._source}: left out {shown}: {reason}")
        if are_all and notes:
            notes[-1] += "; no satellite remains: fetch SGP4 elements (type 0) of objects in orbit"
            raise ValueError("\n".join(notes))
        for note in notes:
            on_notice(note)


def name_satellites(
    found: Sequence[tuple[str, int, Satrec]], decays: Mapping[int, dt.datetime] | None = None
) -> tuple[Satellite, ...]:
    """Give every record a unique name: its own, its own and its number where shared, or its number.

    Parameters
    ----------
    found : Sequence[tuple[str, int, Satrec]]
        Name (may be empty), catalogue number and elements of each.
    decays : Mapping[int, datetime], optional
        By catalogue number, when a satellite left orbit.
    """
    decays = decays or {}
    printable = ["".join(c for c in clean_name(name) if c.isprintable()) for name, _, _ in found]
    counts = Counter(printable)
    return tuple(
        Satellite(
            name=f"{name} {number}".strip() if counts[name] > 1 or not name else name,
            record=record,
            decay=decays.get(number),
        )
        for name, (_, number, record) in zip(printable, found, strict=True)
    )
