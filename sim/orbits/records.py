"""What the readers of element files share."""

import datetime as dt
from collections import Counter
from collections.abc import Sequence

from sgp4.api import Satrec

from sim.orbits.orbit import Satellite

SGP4_EPOCH = dt.datetime(1949, 12, 31, tzinfo=dt.UTC)
"""What ``Satrec.sgp4init`` counts its days from."""

LARGEST_SATNUM = 339_999
"""The last catalogue number a ``Satrec`` can hold (Alpha-5); larger ones live in the name alone."""


def name_satellites(found: Sequence[tuple[str, int, Satrec]]) -> tuple[Satellite, ...]:
    """Give every record a unique name: its own, its own and its number where shared, or its number.

    Parameters
    ----------
    found : Sequence[tuple[str, int, Satrec]]
        Name (may be empty), catalogue number and elements of each.
    """
    counts = Counter(name for name, _, _ in found)
    return tuple(
        Satellite(name=f"{name} {number}".strip() if counts[name] > 1 or not name else name, record=record)
        for name, number, record in found
    )
