"""A run as pandas frames, for notebooks: ``frames = read_frames("runs/demo-...")``.

What the events mean, and the units of their fields, is in ``docs/events.md``.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from server.record.history import LogEnd, whole_events
from server.record.run_log import EVENTS_FILE
from server.record.scene import read_scene
from server.report.summary import read_summary

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFrames:
    """One run; a frame without rows is empty, never None.

    Parameters
    ----------
    events : DataFrame
        Every event as it is, one a row; fields that an event lacks are missing.
    losses : DataFrame
        One row for each evaluation, measure and cluster: time_s, merges, measure (``"own"`` or
        ``"merged"``), cluster, loss (nats a token).
    transfers : DataFrame
        One row for each message and pass that it crossed in: time_s, node, cluster, message, type, way
        (``"down"`` or ``"up"``), rise_s, bytes.
    updates : DataFrame
        One row for each update and expert that was merged: time_s, merges, cluster, node, layer, expert,
        staleness, discount, num_examples, local_steps, train_loss.
    assignment : DataFrame
        One row for each expert that a cluster got: cluster, layer, expert, capture, random_capture.
    passes : DataFrame
        One row for each contact: cluster, rise_s, set_s, down_bytes, up_bytes, satellites. Empty for runs
        without ``scene.json``.
    clusters : DataFrame
        The summary, one row a cluster. Empty while a run goes on.
    is_whole : bool
        False where the log ends in a damaged line; what is before it is here.
    """

    events: pd.DataFrame
    losses: pd.DataFrame
    transfers: pd.DataFrame
    updates: pd.DataFrame
    assignment: pd.DataFrame
    passes: pd.DataFrame
    clusters: pd.DataFrame
    is_whole: bool


def read_frames(folder: Path | str) -> RunFrames:
    """Return the frames of a run folder, finished or not.

    Raises
    ------
    ValueError
        If there is no event log.
    """
    folder, end = Path(folder), LogEnd()
    log = folder / EVENTS_FILE
    if not log.is_file():
        raise ValueError(f"{folder} is not the folder of a run: it has no {EVENTS_FILE}")
    events = list(whole_events(log, end))
    return RunFrames(
        events=pd.DataFrame(events),
        losses=_frame(_losses(events), "time_s merges measure cluster loss"),
        transfers=_frame(_transfers(events), "time_s node cluster message type way rise_s bytes"),
        updates=_frame(
            _updates(events),
            "time_s merges cluster node layer expert staleness discount num_examples local_steps train_loss",
        ),
        assignment=_frame(_assigned(events), "cluster layer expert capture random_capture"),
        passes=_frame(_passes(folder), "cluster rise_s set_s down_bytes up_bytes satellites"),
        clusters=_clusters(folder),
        is_whole=not end.bad_line,
    )


def _frame(rows: Iterable[Row], columns: str) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=columns.split())


def _pick(event: Mapping[str, Any], fields: str) -> Row:
    return {name: event.get(name) for name in fields.split()}


def _losses(events: Iterable[Row]) -> Iterator[Row]:
    for event in events:
        if event["event"] == "evaluated":
            for key, value in event.items():
                measure, dot, cluster = key.partition("-loss.")
                if dot:
                    yield _pick(event, "time_s merges") | {
                        "measure": measure,
                        "cluster": cluster,
                        "loss": value,
                    }


def _transfers(events: Iterable[Row]) -> Iterator[Row]:
    for event in events:
        is_down = event["event"] == "delivered" or event.get("phase") in ("down", "landing")
        for rise_s, carried in event.get("crossed", ()):
            way = {"way": "down" if is_down else "up", "rise_s": rise_s, "bytes": carried}
            yield _pick(event, "time_s node cluster message type") | way


def _updates(events: Iterable[Row]) -> Iterator[Row]:
    for event in events:
        for update in event["updates"] if event["event"] == "merged" else ():
            for name, staleness in update["staleness"].items():
                layer, _, expert = name.partition(".")
                numbers = {"staleness": staleness, "discount": update["discount"][name]}
                # -1: what all experts of a layer share.
                where = {"layer": int(layer), "expert": -1 if expert == "shared" else int(expert)}
                fields = _pick(update, "node num_examples local_steps train_loss")
                yield _pick(event, "time_s merges cluster") | fields | where | numbers


def _assigned(events: Iterable[Row]) -> Iterator[Row]:
    for event in events:
        for cluster, experts in event["experts"].items() if event["event"] == "assigned" else ():
            shares = {name: event[name].get(cluster) for name in ("capture", "random_capture")}
            for name in experts:
                layer, _, expert = name.partition(".")
                yield {"cluster": cluster, "layer": int(layer), "expert": int(expert)} | shares


def _passes(folder: Path) -> Iterator[Row]:
    try:
        scene = read_scene(folder)
    except (OSError, ValueError):
        return
    for cluster in scene.clusters:
        for contact in cluster.passes:
            yield {"cluster": cluster.name} | asdict(contact)


def _clusters(folder: Path) -> pd.DataFrame:
    try:
        return pd.DataFrame([asdict(cluster) for cluster in read_summary(folder).clusters])
    except (OSError, ValueError):
        return pd.DataFrame()
