"""Contact plans of ION, NASA's delay-tolerant networking node: ``a contact`` and ``a range`` lines.

    a contact +<start s> +<stop s> <from node> <to node> <bytes a second>
    a range   +<start s> +<stop s> <node> <node> <one-way light time s>

ION reads times in whole seconds and rates that do not change, so what we write is rounded so
as never to promise more than the link carries, one line for each stretch between two knots. The exact plan is
beside it in comments; reading takes those, after checking that they still say what the lines say.

Source: manual page ionrc(5) of ION 3.2.1, commands ``a contact`` and ``a range``; other tools' files are read
by `sim.plan_files.ion_lines`.
"""

import json
from collections.abc import Mapping
from math import ceil, floor
from typing import Any

from sim.faults import raise_faults
from sim.plan_files.ion_lines import IonLine, ion_lines
from sim.plan_files.pieces import Delay, Piece, join_pieces, overlaps
from sim.plan_files.rows import header, misplaced, read_header, unwritable
from sim.plans.plan import DIRECTIONS, Contact, ContactPlan, Direction

ION_SUFFIXES = (".ion", ".ionrc", ".rc")
SERVER_NODE = "1"
_PLAN_MARK, _CONTACT_MARK = "# ems-fl-plan ", "# ems-fl-contact "


def ion_text(plan: ContactPlan) -> str:
    """Return a plan as an ION contact plan: the server is node 1, the clusters follow in order.

    Raises
    ------
    ValueError
        If a contact carries nothing.
    """
    raise_faults(unwritable(plan))
    lines = [_PLAN_MARK + header(plan)]
    for node, (cluster, contacts) in enumerate(plan.contacts.items(), start=2):
        lines.append(f"# node {node} is cluster {cluster}, node {SERVER_NODE} the satellites")
        for contact in contacts:
            lines.append(_CONTACT_MARK + json.dumps(_as_json(cluster, contact)))
            lines += _contact_lines(contact, str(node))
    return "\n".join(lines) + "\n"


def _as_json(cluster: str, contact: Contact) -> dict[str, Any]:
    """Return a contact exactly."""
    return {
        "cluster": cluster,
        "satellites": list(contact.satellites),
        "delay_s": contact.delay_s,
        "time_s": contact.time_s.tolist(),
        "down_bytes_per_s": contact.down_bytes_per_s.tolist(),
        "up_bytes_per_s": contact.up_bytes_per_s.tolist(),
    }


def _contact_lines(contact: Contact, node: str) -> list[str]:
    """Return what ION sees of a contact."""
    lines = []
    for direction in DIRECTIONS:
        sender, receiver = (SERVER_NODE, node) if direction == "down" else (node, SERVER_NODE)
        means_K = (contact.rates(direction)[1:] + contact.rates(direction)[:-1]) / 2
        for begin_s, end_s, rate in zip(contact.time_s[:-1], contact.time_s[1:], means_K, strict=True):
            start_s, stop_s = ceil(begin_s), floor(end_s)
            if stop_s > start_s and floor(rate) > 0:
                lines.append(f"a contact +{start_s} +{stop_s} {sender} {receiver} {floor(rate)}")
    span = f"+{floor(contact.rise_s)} +{ceil(contact.set_s)}"
    return [*lines, f"a range {span} {SERVER_NODE} {node} {contact.delay_s!r}"]


def plan_from_ion(
    text: str, *, file: str, clusters: Mapping[str, str] | None = None, horizon_s: float | None = None
) -> ContactPlan:
    """Return the plan of an ION contact plan.

    Parameters
    ----------
    text : str
        The file's content, see `sim.plan_files.ion_lines` for the commands and times that are understood.
    file : str
        Named in messages.
    clusters : Mapping[str, str], optional
        Name of the cluster for each node on the ground; all others are satellites. Without it, the one
        node that takes part in every contact is the server and every other node a cluster of its name.
    horizon_s : float, optional
        End of the scenario; without it, the last stop. Both come from the comments where we wrote the file.

    Raises
    ------
    ValueError
        With every fault and its line: numbers that are none, windows that are empty, overlap or end past the
        horizon, rates of zero, nodes that cannot be placed, comments that contradict the lines.
    """
    faults: list[str] = []
    lines = ion_lines(text, faults)
    if not any(line.kind == "contact" for line in lines) and not faults and _PLAN_MARK not in text:
        faults.append("no 'a contact' line between two different nodes")
    raise_faults([f"{file}, {fault}" for fault in faults])
    if text.startswith(_PLAN_MARK):
        return _exact(text, lines, file)
    return _foreign(lines, file, clusters, horizon_s)


def _exact(text: str, lines: list[IonLine], file: str) -> ContactPlan:
    """Return the plan of our own comments, if the lines still say the same."""
    raw = text.splitlines()
    horizon_s, clusters = read_header(raw[0].removeprefix(_PLAN_MARK), file)
    placed: dict[str, list[tuple[str, Contact]]] = {cluster: [] for cluster in clusters}
    faults: list[str] = []
    for number, line in enumerate(raw, start=1):
        if line.startswith(_CONTACT_MARK):
            try:
                fields = json.loads(line.removeprefix(_CONTACT_MARK))
                cluster, times = fields.pop("cluster"), fields["time_s"]
                placed[cluster].append(
                    (f"line {number}", Contact(rise_s=times[0], set_s=times[-1], **fields))
                )
            except (ValueError, KeyError, TypeError, IndexError) as fault:
                faults.append(f"line {number}: {type(fault).__name__}: {fault}")
    faults += misplaced(placed, horizon_s)
    raise_faults([f"{file}, {fault}" for fault in faults])
    contacts = {name: tuple(contact for _, contact in its) for name, its in placed.items()}
    plan = ContactPlan(horizon_s=horizon_s, contacts=contacts)
    stated = ion_lines(ion_text(plan), faults)
    for found, ours in zip(lines, stated, strict=False):
        if found[1:] != ours[1:]:
            faults.append(f"{found.where}: differs from the comment before it")
    if len(lines) != len(stated):
        faults.append(f"{len(lines)} lines where the comments make {len(stated)}")
    if faults:
        raise ValueError(
            f"{file} was changed after it was written, {faults[0]}; delete the '# ems-fl' comments to use the"
            " lines as they are"
        )
    return plan


def _foreign(
    lines: list[IonLine], file: str, clusters: Mapping[str, str] | None, horizon_s: float | None
) -> ContactPlan:
    """Return the plan of another tool's lines."""
    clusters = _guess_clusters(lines, file) if clusters is None else clusters
    faults: list[str] = []
    pieces: dict[str, list[Piece]] = {name: [] for name in clusters.values()}
    delays: dict[str, list[Delay]] = {name: [] for name in clusters.values()}
    for line in lines:
        grounds = [node in clusters for node in line.nodes]
        if grounds[0] == grounds[1]:
            if line.kind == "contact":
                sides = "both nodes are clusters" if grounds[0] else "neither node is a cluster"
                faults.append(f"{line.where}: {sides}, {line.nodes[0]} and {line.nodes[1]}")
            continue
        ground, satellite = line.nodes if grounds[0] else line.nodes[::-1]
        if line.kind == "range":
            delays[clusters[ground]].append(Delay(line.start_s, line.stop_s, line.value))
        else:
            direction: Direction = "up" if grounds[0] else "down"
            piece = Piece(line.where, line.start_s, line.stop_s, satellite, direction, line.value)
            pieces[clusters[ground]].append(piece)
    faults += [fault for its in pieces.values() for fault in overlaps(its)]
    if horizon_s is not None:
        faults += [
            f"{line.where}: stops at {line.stop_s} s, past the horizon, {horizon_s} s"
            for line in lines
            if line.kind == "contact" and line.stop_s > horizon_s
        ]
    raise_faults([f"{file}, {fault}" for fault in faults])
    last_s = max(line.stop_s for line in lines if line.kind == "contact")
    return ContactPlan(
        horizon_s=last_s if horizon_s is None else horizon_s,
        contacts={name: join_pieces(its, delays[name]) for name, its in pieces.items()},
    )


def _guess_clusters(lines: list[IonLine], file: str) -> dict[str, str]:
    """Return every node but the one that all contacts share, as a cluster of its own name."""
    pairs = [set(line.nodes) for line in lines if line.kind == "contact"]
    hubs = set.intersection(*pairs)
    if len(hubs) == 2 and SERVER_NODE in hubs:
        hubs = {SERVER_NODE}
    if len(hubs) != 1:
        raise ValueError(
            f"{file}: cannot tell satellites from clusters, no single node takes part in every contact; say"
            " which nodes are clusters"
        )
    ground = sorted(set.union(*pairs) - hubs, key=lambda node: (len(node), node))
    return {node: node for node in ground}
