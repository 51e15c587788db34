"""Access reports of STK as CSV: when two objects see each other. Windows only, no rates.

Start Time (UTCG),Stop Time (UTCG),Duration (sec),From Object,To Object
30 Jan 2021 10:12:05.123,30 Jan 2021 10:19:41.456,456.333,SAT-1,Site-1
"""

import csv
import datetime as dt
from collections.abc import Mapping
from math import inf, isfinite
from pathlib import Path
from typing import Literal, NamedTuple

from sim.faults import raise_faults
from sim.plan_files.pieces import Delay, Piece, join_pieces, overlaps
from sim.plan_files.rows import SEPARATOR, unwritable
from sim.plans.plan import ContactPlan
from sim.text_files import csv_rows, read_text

STK_COLUMNS = ("Start Time (UTCG)", "Stop Time (UTCG)", "Duration (sec)", "From Object", "To Object")
_TIME_FORMAT = "%d %b %Y %H:%M:%S.%f"
# Reports give milliseconds: start, stop and duration are each rounded.
_DURATION_TOLERANCE_S = 2e-3


class _Window(NamedTuple):
    """A row of a report."""

    where: str
    start_s: float
    stop_s: float
    sender: str
    receiver: str


def read_stk(
    path: Path | str,
    *,
    start: dt.datetime,
    down_bytes_per_s: float,
    up_bytes_per_s: float,
    delay_s: float = 0.0,
    ground: Literal["from", "to"] = "to",
    clusters: Mapping[str, str] | None = None,
    horizon_s: float | None = None,
) -> ContactPlan:
    """Read an access report; what it does not know is given.

    Parameters
    ----------
    path : Path or str
        The CSV file; the heading may come again, blank lines are left alone.
    start : datetime
        Start of the scenario, with a time zone.
    down_bytes_per_s, up_bytes_per_s : float
        Rates in every window, >= 0, not both 0.
    delay_s : float
        One-way light time, >= 0.
    ground : {"from", "to"}
        Which of the two objects is on the ground.
    clusters : Mapping[str, str], optional
        Name of the cluster for each object on the ground; without it, the object's own name.
    horizon_s : float, optional
        End of the scenario in seconds; without it, the last stop.

    Raises
    ------
    ValueError
        With every fault and its line: a missing column, a time or duration that is none, windows that are
        empty, before the start, past the horizon or overlapping, unknown objects; or with impossible rates.
    """
    path = Path(path)
    _check_options(start, down_bytes_per_s, up_bytes_per_s, delay_s)
    faults: list[str] = []
    windows = _read_windows(path, start, faults)
    pieces: dict[str, list[Piece]] = {name: [] for name in (clusters or {}).values()}
    for window in windows:
        place, satellite = (
            (window.sender, window.receiver) if ground == "from" else (window.receiver, window.sender)
        )
        if clusters is not None and place not in clusters:
            faults.append(f"{window.where}: unknown object {place!r}; known: {', '.join(clusters)}")
            continue
        if horizon_s is not None and window.stop_s > horizon_s:
            faults.append(f"{window.where}: stops at {window.stop_s} s, past the horizon, {horizon_s} s")
        its = pieces.setdefault(clusters[place] if clusters else place, [])
        span = (window.where, window.start_s, window.stop_s, satellite)
        its += [Piece(*span, "down", down_bytes_per_s), Piece(*span, "up", up_bytes_per_s)]
    faults += dict.fromkeys(fault for its in pieces.values() for fault in overlaps(its))
    raise_faults([f"{path.name}, {fault}" for fault in faults])
    if horizon_s is None:
        horizon_s = max(window.stop_s for window in windows)
    delays = [Delay(0.0, inf, delay_s)]
    return ContactPlan(
        horizon_s=horizon_s, contacts={name: join_pieces(its, delays) for name, its in pieces.items()}
    )


def write_stk(plan: ContactPlan, path: Path | str, *, start: dt.datetime) -> None:
    """Write the windows of a plan as an access report, to the microsecond; rates and delays do not fit in it.

    Parameters
    ----------
    plan : ContactPlan
        A contact's satellites become one ``From Object``, joined by ``;``.
    path : Path or str
        Overwritten if it exists.
    start : datetime
        Start of the scenario, with a time zone.

    Raises
    ------
    ValueError
        If a contact carries nothing, or ``start`` has no time zone.
    """
    raise_faults(unwritable(plan))
    _check_options(start, 1.0, 1.0, 0.0)
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(STK_COLUMNS)
        for cluster, contacts in plan.contacts.items():
            for contact in contacts:
                begin, end = (
                    start.astimezone(dt.UTC) + dt.timedelta(seconds=time_s)
                    for time_s in (contact.rise_s, contact.set_s)
                )
                duration_s = (end - begin).total_seconds()
                times = [begin.strftime(_TIME_FORMAT), end.strftime(_TIME_FORMAT)]
                writer.writerow([*times, duration_s, SEPARATOR.join(contact.satellites) or "server", cluster])
    partial.replace(path)


def _check_options(start: dt.datetime, down: float, up: float, delay_s: float) -> None:
    """Refuse impossible options, all at once."""
    faults = [] if start.tzinfo else [f"start must have a time zone, got {start}; UTC is usual"]
    for name, value in (("down_bytes_per_s", down), ("up_bytes_per_s", up), ("delay_s", delay_s)):
        if not (isfinite(value) and value >= 0):
            faults.append(f"{name} must be finite and >= 0, got {value}")
    if down == 0 and up == 0:
        faults.append("down_bytes_per_s and up_bytes_per_s are both 0: nothing could cross")
    raise_faults(faults)


def _read_windows(path: Path, start: dt.datetime, faults: list[str]) -> list[_Window]:
    """Return the windows of a report, noting the faults of its rows."""
    windows: list[_Window] = []
    places: dict[str, int] | None = None
    for number, raw in csv_rows(read_text(path, "access report"), path.name):
        cells = [cell.strip() for cell in raw]
        if not any(cells):
            continue
        if STK_COLUMNS[0] in cells:
            places = {name: cells.index(name) for name in STK_COLUMNS if name in cells}
        elif places is None or len(places) < len(STK_COLUMNS):
            raise ValueError(
                f"{path.name}, line {number}: not an STK access report, its columns should be"
                f" {', '.join(STK_COLUMNS)}"
            )
        elif len(cells) <= max(places.values()):
            faults.append(f"line {number}: {len(cells)} fields, the heading has more")
        else:
            fields = [cells[places[name]] for name in STK_COLUMNS]
            windows += _window(fields, f"line {number}", start, faults)
    if not windows and not faults:
        faults.append("no window in the report")
    return windows


def _window(fields: list[str], where: str, start: dt.datetime, faults: list[str]) -> list[_Window]:
    """Return the window of a row's fields; none, and note why, if it is wrong."""
    times_s = []
    for name, text in zip(STK_COLUMNS[:2], fields[:2], strict=True):
        try:
            time = dt.datetime.strptime(text, _TIME_FORMAT).replace(tzinfo=dt.UTC)
        except ValueError:
            faults.append(f"{where}: {name} must look like 30 Jan 2021 10:12:05.123, got {text!r}")
            return []
        times_s.append((time - start) / dt.timedelta(seconds=1))
    begin_s, end_s = times_s
    if not 0 <= begin_s < end_s:
        faults.append(f"{where}: must start at or after {start} and stop later than that")
        return []
    try:
        differs = not abs(float(fields[2]) - (end_s - begin_s)) <= _DURATION_TOLERANCE_S
    except ValueError:
        differs = True
    if differs:
        faults.append(f"{where}: Duration (sec) is {fields[2]!r}, stop less start is {end_s - begin_s:.3f}")
    return [_Window(where, begin_s, end_s, fields[3], fields[4])]
