"""Which satellites of a file are meant by a name with wildcards."""

import re
from collections.abc import Sequence
from difflib import get_close_matches

from sim.orbits.orbit import Satellite


def only_named(satellites: Sequence[Satellite], pattern: str) -> tuple[Satellite, ...]:
    """Return the satellites whose names fit a pattern.

    Parameters
    ----------
    satellites : Sequence[Satellite]
        Of which to choose.
    pattern : str
        ``*`` stands for any letters and ``?`` for one; all else stands for itself, brackets too, since names
        hold them: ``STARLINK-11082 [DTC]``. Upper and lower case are the same.

    Raises
    ------
    ValueError
        If none fits, with names that are near.
    """
    wild = {"*": ".*", "?": "."}
    fits = re.compile("".join(wild.get(c, re.escape(c)) for c in pattern.casefold()), re.DOTALL).fullmatch
    chosen = tuple(satellite for satellite in satellites if fits(satellite.name.casefold()))
    if not chosen:
        names = [satellite.name for satellite in satellites]
        near = get_close_matches(pattern.upper(), names, n=3, cutoff=0.5)
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise ValueError(f"--only {pattern!r} fits none of the {len(names)} satellites{hint}")
    return chosen
