"""A contact plan as rows, one for each knot of each contact: the table behind our CSV and parquet files."""

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from sim.faults import raise_faults
from sim.plans.plan import DIRECTIONS, Contact, ContactPlan

COLUMNS = (
    "cluster",
    "rise_s",
    "set_s",
    "satellites",
    "delay_s",
    "time_s",
    "down_bytes_per_s",
    "up_bytes_per_s",
)
NUMBERS = ("rise_s", "set_s", "delay_s", "time_s", "down_bytes_per_s", "up_bytes_per_s")
SEPARATOR = ";"  # between the satellites of a contact
VERSION = 1


class Row(NamedTuple):
    """One knot, and where it was read (for messages)."""

    where: str
    values: dict[str, Any]


def header(plan: ContactPlan) -> str:
    """Return what the rows cannot say, as one line of JSON."""
    return json.dumps(
        {"ems-fl-contact-plan": VERSION, "horizon_s": plan.horizon_s, "clusters": list(plan.contacts)}
    )


def read_header(text: str, file: str) -> tuple[float, list[str]]:
    """Return horizon and clusters of a `header`.

    Raises
    ------
    ValueError
        If it is not one.
    """
    try:
        fields = json.loads(text)
        version, horizon_s, clusters = (
            fields[key] for key in ("ems-fl-contact-plan", "horizon_s", "clusters")
        )
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{file}: not a contact plan of ours, its header should name ems-fl-contact-plan, horizon_s and"
            f" clusters, got {text[:80]!r}"
        ) from None
    if version != VERSION:
        raise ValueError(f"{file}: contact plan version {version!r}, this program reads version {VERSION}")
    if not isinstance(horizon_s, int | float) or not isinstance(clusters, list):
        raise ValueError(f"{file}: horizon_s must be a number and clusters a list, got {text[:80]!r}")
    return float(horizon_s), [str(name) for name in clusters]


def rows_of(plan: ContactPlan) -> Iterator[dict[str, Any]]:
    """Yield the rows of a plan.

    Raises
    ------
    ValueError
        If a contact carries nothing, or a satellite's name holds the separator: such a file could not be
        read back.
    """
    raise_faults(unwritable(plan))
    for cluster, contacts in plan.contacts.items():
        for contact in contacts:
            knots = zip(contact.time_s, contact.down_bytes_per_s, contact.up_bytes_per_s, strict=True)
            for time_s, down, up in knots:
                yield {
                    "cluster": cluster,
                    "rise_s": contact.rise_s,
                    "set_s": contact.set_s,
                    "satellites": SEPARATOR.join(contact.satellites),
                    "delay_s": contact.delay_s,
                    "time_s": float(time_s),
                    "down_bytes_per_s": float(down),
                    "up_bytes_per_s": float(up),
                }


def unwritable(plan: ContactPlan) -> list[str]:
    """Return why a plan cannot be written so that it can be read back."""
    faults = []
    for cluster, contacts in plan.contacts.items():
        for contact in contacts:
            of = f"the contact of cluster {cluster!r} at {contact.rise_s} s"
            if carries_nothing(contact):
                faults.append(f"{of} carries nothing either way; leave it out of the plan")
            if any(SEPARATOR in name or not name or name != name.strip() for name in contact.satellites):
                faults.append(f"{of} has a satellite name with {SEPARATOR!r} or blank ends, or empty")
    return faults


def carries_nothing(contact: Contact) -> bool:
    """Say whether a contact has no capacity in either direction."""
    return not any(contact.capacity_bytes(direction) > 0 for direction in DIRECTIONS)


def plan_from_rows(rows: Iterable[Row], *, horizon_s: float, clusters: list[str], file: str) -> ContactPlan:
    """Return the plan of rows that may be wrong.

    Parameters
    ----------
    rows : Iterable[Row]
        In the order of the file; the knots of a contact follow each other.
    horizon_s : float
        End of the scenario, seconds.
    clusters : list[str]
        Every cluster, also those without a contact.
    file : str
        Named in messages.

    Raises
    ------
    ValueError
        With every fault and where it is: text for a number, an unknown cluster, an impossible contact, rates
        of zero, contacts that overlap or lie past the horizon.
    """
    faults: list[str] = []
    read = [checked for row in rows if (checked := _checked(row, clusters, faults))]
    placed: dict[str, list[tuple[str, Contact]]] = {name: [] for name in clusters}
    for (cluster, *_), group in groupby(read, key=_contact_key):
        knots = list(group)
        where = knots[0].where
        try:
            contact = _contact(knots)
        except ValueError as fault:
            faults.append(f"{where}: {fault}")
            continue
        placed[cluster].append((where, contact))
    faults += misplaced(placed, horizon_s)
    raise_faults([f"{file}, {fault}" for fault in faults])
    contacts = {name: tuple(contact for _, contact in its) for name, its in placed.items()}
    return ContactPlan(horizon_s=horizon_s, contacts=contacts)


def misplaced(placed: dict[str, list[tuple[str, Contact]]], horizon_s: float) -> list[str]:
    """Return the faults of contacts that carry nothing, overlap the one before, or pass the horizon."""
    faults = []
    for cluster, its in placed.items():
        end_s, end_where = 0.0, ""
        for where, contact in its:
            if carries_nothing(contact):
                faults.append(
                    f"{where}: the contact of {cluster!r} carries nothing, its rates are zero both ways"
                )
            if contact.rise_s < end_s:
                faults.append(
                    f"{where}: the contact of {cluster!r} rises at {contact.rise_s} s, before the one of"
                    f" {end_where} sets at {end_s} s; contacts of a cluster must be in order and not overlap"
                )
            if contact.set_s > horizon_s:
                faults.append(
                    f"{where}: the contact of {cluster!r} sets at {contact.set_s} s, past the horizon,"
                    f" {horizon_s} s"
                )
            end_s, end_where = contact.set_s, where
    return faults


def _checked(row: Row, clusters: list[str], faults: list[str]) -> Row | None:
    """Return a row with its numbers as floats, or note what is wrong with it."""
    before = len(faults)
    values = dict(row.values)
    if values.get("cluster") not in clusters:
        known = ", ".join(clusters) or "none"
        faults.append(f"{row.where}: unknown cluster {values.get('cluster')!r}; the header names: {known}")
    for name in NUMBERS:
        try:
            values[name] = float(values[name])
            if not isfinite(values[name]):
                raise ValueError
        except (TypeError, ValueError, KeyError):
            faults.append(f"{row.where}: {name} must be a finite number, got {row.values.get(name)!r}")
    return Row(row.where, values) if len(faults) == before else None


def _contact_key(row: Row) -> tuple[str, float, float]:
    return (row.values["cluster"], row.values["rise_s"], row.values["set_s"])


def _contact(knots: list[Row]) -> Contact:
    """Return the contact of its rows."""
    first = knots[0].values
    for knot in knots:
        for name in ("satellites", "delay_s"):
            if knot.values[name] != first[name]:
                raise ValueError(f"{name} differs within the contact, at {knot.where}")
    satellites = first["satellites"] or ""
    return Contact(
        rise_s=first["rise_s"],
        set_s=first["set_s"],
        satellites=tuple(satellites.split(SEPARATOR)) if satellites else (),
        delay_s=first["delay_s"],
        time_s=np.array([knot.values["time_s"] for knot in knots]),
        down_bytes_per_s=np.array([knot.values["down_bytes_per_s"] for knot in knots]),
        up_bytes_per_s=np.array([knot.values["up_bytes_per_s"] for knot in knots]),
    )
