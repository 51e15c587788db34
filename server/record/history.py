"""What an event log says over time: passes, training, merges, losses, kept as sums that stay small.

A week of 10,000 devices is a million events; what a page draws of them is taken in one by one.
"""

import json
import math
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class Transfer:
    """What crossed one way in one pass: bytes, messages that ended in it, and when the bytes ran.

    ``carried_over`` counts messages that began here and went on in a later pass; the first byte of a
    transfer is not logged, ``from_s`` is when the link was free for it.
    """

    num_bytes: float = 0.0
    messages: int = 0
    carried_over: int = 0
    from_s: float = float("inf")
    to_s: float = 0.0


@dataclass(slots=True)
class PassTraffic:
    """What crossed in one pass of a cluster."""

    down: Transfer = field(default_factory=Transfer)
    up: Transfer = field(default_factory=Transfer)

    @property
    def is_used(self) -> bool:
        """Whether anything crossed."""
        return self.down.num_bytes + self.up.num_bytes > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """One merge: its number, when, whose, and what went in."""

    number: int
    time_s: float
    cluster: str
    num_updates: int
    num_examples: int
    train_loss: float
    mean_staleness: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Held-out losses at one moment, and what had been spent until then.

    Parameters
    ----------
    time_s, merges
        When.
    merged, own : Mapping[str, float]
        Loss of the merged model and of each own sub-model, by cluster; nats a token.
    num_bytes : float
        Crossed both ways.
    steps : Mapping[str, int]
        Device steps whose updates came up, by cluster.
    """

    time_s: float
    merges: int
    merged: Mapping[str, float]
    own: Mapping[str, float]
    num_bytes: float
    steps: Mapping[str, int]


class History:
    """Sums over an event log, kept event by event.

    Parameters
    ----------
    cluster_of : Mapping[int, str]
        Cluster of every node that is known beforehand; ``profiled`` events tell of the others.
    devices_of : Mapping[int, int]
        Devices of those nodes; one where nobody says.
    step_s_of : Mapping[int, float] or None
        Seconds of one local step on each node: a node whose work ends after the last contact is never
        heard of again, though it works no longer than its steps take.
    by_node : bool
        Whether traffic and training are kept by node, not by cluster: on a real network each has its own
        link, and they are few.
    """

    def __init__(
        self,
        cluster_of: Mapping[int, str],
        devices_of: Mapping[int, int],
        *,
        step_s_of: Mapping[int, float] | None = None,
        by_node: bool = False,
    ) -> None:
        self._step_s_of = step_s_of or {}
        self._by_node = by_node
        self.cluster_of, self.devices_of = dict(cluster_of), dict(devices_of)
        self.device_names: dict[int, str] = {}
        self.kinds: Counter[str] = Counter()
        self.last_s = 0.0
        self.assignment: dict[str, Any] | None = None
        self.passes: dict[str, dict[float, PassTraffic]] = {}
        self.training: dict[str, tuple[array[float], array[float]]] = {}
        self.merges: list[Merge] = []
        self.evaluations: list[Evaluation] = []
        self.staleness: Counter[tuple[int, float]] = Counter()
        self.unfinished: Counter[tuple[str, str]] = Counter()
        self.refusals: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()
        self.num_bytes = 0.0
        self.crossed: Counter[tuple[str, str]] = Counter()  # cluster, way -> bytes
        self.train_messages = 0  # that crossed whole, both ways
        # Without windows (a real network) transfers are only points in time.
        self.arrivals: dict[str, list[tuple[float, str, float]]] = {}
        self._began: dict[str, tuple[str, float, float, int]] = {}
        self._trained_s: dict[str, float] = {}
        self._last_arrival_s: dict[int, float] = {}
        self._free_s: dict[str, float] = {}

    def note(self, event: Mapping[str, Any]) -> None:
        """Take in one event; unknown kinds are only counted."""
        kind = event["event"]
        self.kinds[kind] += 1
        self.last_s = max(self.last_s, event["time_s"])
        handler = getattr(self, f"_note_{kind.replace('-', '_')}", None)
        if handler is not None:
            handler(event)

    def cluster(self, event: Mapping[str, Any]) -> str | None:
        """Return the cluster of an event, None for a node that nobody knows."""
        return event.get("cluster") or self.cluster_of.get(event["node"])

    def lane(self, event: Mapping[str, Any]) -> str | None:
        """Return whose lane an event belongs into: the cluster's, or the node's."""
        return f"node {event['node']}" if self._by_node else self.cluster(event)

    def lanes(self, clusters: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Return the lanes in order: key -> what people read, and the cluster."""
        if not self._by_node:
            return {name: (name, name) for name in clusters}
        names = sorted((self.cluster_of[node], node) for node in self.device_names)
        return {f"node {node}": (self.device_names[node], cluster) for cluster, node in names}

    def _note_profiled(self, event: Mapping[str, Any]) -> None:
        node, devices = event["node"], event["devices"]
        self.cluster_of[node] = event["cluster"]
        self.devices_of[node] = len(devices)
        self.device_names[node] = f"{event['cluster']} {_ranges(devices)}"

    # On a real network a node says who it is before it is asked what its data uses.
    _note_joined = _note_profiled

    def _note_turned_away(self, event: Mapping[str, Any]) -> None:
        self.refusals[event["cluster"]] += 1

    def _note_assigned(self, event: Mapping[str, Any]) -> None:
        self.assignment = dict(event)
        for cluster in event["experts"]:
            self._free_s[cluster] = event["time_s"]

    def _note_delivered(self, event: Mapping[str, Any]) -> None:
        if (lane := self.lane(event)) is None:
            return
        cluster = self.cluster(event) or ""
        from_s = max(self._last_arrival_s.get(event["node"], 0.0), self._free_s.get(cluster, 0.0))
        self._transfer(lane, event, from_s, is_down=True)
        if event["type"] == "train":
            devices = self.devices_of.get(event["node"], 1)
            step_s = self._step_s_of.get(event["node"], math.inf)
            until_s = event["time_s"] + step_s * (event.get("steps") or 1)
            self._began[event["message"]] = (lane, event["time_s"], until_s, devices)

    def _note_trained(self, event: Mapping[str, Any]) -> None:
        self._trained_s[event["message"]] = event["time_s"]
        self._worked(event)

    def _note_arrived(self, event: Mapping[str, Any]) -> None:
        if (lane := self.lane(event)) is None:
            return
        # A real network logs no end of the work: it ends, at the latest, when the reply is here.
        self._worked(event)
        from_s = self._trained_s.pop(event["message"], 0.0)
        self._transfer(lane, event, from_s, is_down=False)
        self._last_arrival_s[event["node"]] = event["time_s"]
        if (cluster := self.cluster(event)) and event["type"] == "train" and "error" not in event:
            self.steps[cluster] += (event.get("steps") or 0) * self.devices_of.get(event["node"], 1)

    def _note_expired(self, event: Mapping[str, Any]) -> None:
        if (lane := self.lane(event)) is None:
            return
        self._worked(event)
        self._trained_s.pop(event["message"], None)
        self.unfinished[event["event"], event["phase"]] += 1
        self._transfer(lane, event, 0.0, is_down=event["phase"] in ("down", "landing"), is_whole=False)

    _note_unfinished = _note_expired

    def _note_lost(self, event: Mapping[str, Any]) -> None:
        self._worked(event)

    def _note_refused(self, event: Mapping[str, Any]) -> None:
        self.refusals[self.cluster(event) or "?"] += 1

    def _note_merged(self, event: Mapping[str, Any]) -> None:
        updates = event["updates"]
        self._free_s[event["cluster"]] = event["time_s"]
        ages = [age for update in updates for age in update["staleness"].values()]
        for update in updates:
            for expert, age in update["staleness"].items():
                self.staleness[age, update["discount"][expert]] += 1
        examples = sum(update["num_examples"] for update in updates)
        losses = sum(update["num_examples"] * update["train_loss"] for update in updates)
        self.merges.append(
            Merge(
                number=event["merges"],
                time_s=event["time_s"],
                cluster=event["cluster"],
                num_updates=len(updates),
                num_examples=examples,
                train_loss=losses / max(examples, 1),
                mean_staleness=sum(ages) / max(len(ages), 1),
            )
        )

    def _note_evaluated(self, event: Mapping[str, Any]) -> None:
        self.evaluations.append(
            Evaluation(
                time_s=event["time_s"],
                merges=event["merges"],
                merged=_under("merged-loss.", event),
                own=_under("own-loss.", event),
                num_bytes=self.num_bytes,
                steps=dict(self.steps),
            )
        )

    def _worked(self, event: Mapping[str, Any]) -> None:
        if (work := self._began.pop(event["message"], None)) is not None:
            lane, began_s, until_s, devices = work
            if event["event"] in ("trained", "arrived"):
                until_s = event["time_s"]
            begins, ends = self.training.setdefault(lane, (array("d"), array("d")))
            begins.extend([began_s] * devices)
            ends.extend([min(until_s, event["time_s"])] * devices)

    def _transfer(
        self, lane: str, event: Mapping[str, Any], from_s: float, *, is_down: bool, is_whole: bool = True
    ) -> None:
        self.num_bytes += event["bytes"]
        self.train_messages += is_whole and event["type"] == "train"
        way, crossed = "down" if is_down else "up", event["crossed"]
        self.crossed[self.cluster(event) or "", way] += event["bytes"]
        if not crossed and is_whole:
            self.arrivals.setdefault(lane, []).append((event["time_s"], way, event["bytes"]))
        of_cluster = self.passes.setdefault(lane, {})
        for at, (rise_s, carried) in enumerate(crossed):
            traffic = of_cluster.setdefault(rise_s, PassTraffic())
            transfer = traffic.down if is_down else traffic.up
            transfer.num_bytes += carried
            transfer.from_s = min(transfer.from_s, max(from_s, rise_s))
            if is_whole and at == len(crossed) - 1:
                transfer.messages += 1
                transfer.to_s = max(transfer.to_s, event["time_s"])
            else:
                transfer.carried_over += carried > 0
                transfer.to_s = float("inf")

    def training_now(self, lane: str, until_s: float) -> list[tuple[float, int]]:
        """Return how many devices train from when on, as steps of a staircase; work ends by ``until_s``."""
        begins, ends = self.training.get(lane, (array("d"), array("d")))
        changes = Counter[float](begins)
        for time_s in ends:
            changes[min(time_s, until_s)] -= 1
        for its_lane, began_s, ends_s, devices in self._began.values():
            if its_lane == lane:
                changes[began_s] += devices
                if ends_s <= until_s:
                    changes[ends_s] -= devices
        steps, count = [], 0
        for time_s in sorted(changes):
            count += changes[time_s]
            steps.append((time_s, count))
        return steps


def _under(prefix: str, event: Mapping[str, Any]) -> dict[str, float]:
    return {key.removeprefix(prefix): value for key, value in event.items() if key.startswith(prefix)}


def _ranges(numbers: list[int]) -> str:
    """Return ``"0-3, 7"`` for 0, 1, 2, 3, 7."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


@dataclass(slots=True)
class LogEnd:
    """How a log on disk ends: whole, or cut at a line, with that line's number and why."""

    bad_line: int = 0
    reason: str = ""


def whole_events(path: Path, end: LogEnd) -> Iterator[dict[str, Any]]:
    """Yield the events of a log up to the first line that is none; ``end`` then says which.

    Unlike `server.record.event_log.read_events` it takes what a killed run left, and holds one line at a
    time.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                event = json.loads(line)
                if not isinstance(event, dict) or "event" not in event or "time_s" not in event:
                    raise ValueError("it is no event")
            except ValueError as error:
                end.bad_line, end.reason = number, str(error)
                return
            yield event
