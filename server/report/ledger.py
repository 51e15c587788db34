"""Sums over the event log: who exchanged what, trained how long, failed how often.

The log is the one source: a resumed run and a finished one are counted the same way.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Self

DELIVERY = "query.deliver"
"""Type of the messages that bring pieces of the model."""
TELLS_CLUSTER = ("profiled", "joined")
"""Events that say which cluster a node belongs to."""


@dataclass(slots=True)
class ClusterAccount:
    """What one cluster did so far.

    Parameters
    ----------
    rises_s : set[float]
        Rise of every contact in which at least one byte crossed.
    bytes_down, bytes_up : int
        That crossed, those of messages that never got through included.
    model_bytes_down : int
        Of ``bytes_down``, those of pieces of the model.
    local_steps, merges, failures : int
        Steps of devices whose update was merged; merges; refused or failed replies. Stock strategies log
        none of these.
    """

    rises_s: set[float] = field(default_factory=set)
    bytes_down: int = 0
    model_bytes_down: int = 0
    bytes_up: int = 0
    local_steps: int = 0
    merges: int = 0
    failures: int = 0


class Ledger:
    """Accounts by cluster, kept event by event.

    Parameters
    ----------
    clusters : iterable of str
        By name; others are added as nodes tell of them.
    cluster_of : Mapping[int, str]
        Cluster of every node; what an unknown node did is nobody's.
    """

    def __init__(self, clusters: Iterable[str], cluster_of: Mapping[int, str]) -> None:
        self.accounts = {name: ClusterAccount() for name in (*clusters, *sorted(set(cluster_of.values())))}
        self.train_messages_down = 0
        self.train_messages_up = 0
        # Of each device of a node, over its updates that came up; what is known of stock strategies too.
        self.steps_by_node: Counter[int] = Counter()
        self.assignment: dict[str, Any] | None = None
        # Of a deployed run: how many devices every node hosts, and why others take no part.
        self.num_hosted: dict[int, int] = {}
        self.turned_away: dict[int, str] = {}
        # Of nodes that bring data: the first and the last loss on what they hold out of what they were sent.
        self.heldout: dict[int, tuple[float, float]] = {}
        self.outliers: Counter[int] = Counter()  # updates of a node far longer than their companions
        self.brought: set[int] = set()  # nodes that were sent pieces of the model
        self._cluster_of = dict(cluster_of)

    def nodes_of(self, cluster: str) -> list[int]:
        """Return the nodes that are known to belong to a cluster."""
        return [node for node, name in self._cluster_of.items() if name == cluster]

    def heldout_of(self, cluster: str) -> tuple[float, float] | None:
        """Return what a cluster's nodes measured on what they hold out, at first and last; None if nothing.

        The mean over its nodes, of the sub-model that each was sent: before a training, not after it.
        """
        said = [self.heldout[node] for node in self.nodes_of(cluster) if node in self.heldout]
        return (fmean(first for first, _ in said), fmean(last for _, last in said)) if said else None

    @classmethod
    def read(cls, log: Path, clusters: Iterable[str], cluster_of: Mapping[int, str]) -> Self:
        """Return the ledger of an event log on disk."""
        events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        told = {event["node"]: event["cluster"] for event in events if event["event"] in TELLS_CLUSTER}
        ledger = cls(clusters, {**cluster_of, **told})
        for event in events:
            ledger.note(event)
        return ledger

    def note(self, event: Mapping[str, Any]) -> None:
        """Take in one event; those that are no account's business are ignored."""
        kind = event["event"]
        if kind == "assigned":
            self.assignment = dict(event)
        elif kind == "merged":
            account = self.accounts[event["cluster"]]
            account.merges += 1
            for update in event["updates"]:
                account.local_steps += update["local_steps"] * len(update["devices"])
                if (loss := update.get("heldout_loss")) is not None:
                    first, _ = self.heldout.get(update["node"], (loss, loss))
                    self.heldout[update["node"]] = first, loss
        elif kind == "refused" and event["node"] in self._cluster_of:
            self.accounts[self._cluster_of[event["node"]]].failures += 1
        elif kind == "outlier":
            self.outliers[event["node"]] += 1
        elif kind == "joined":
            self.num_hosted[event["node"]] = len(event["devices"])
            self.turned_away.pop(event["node"], None)
        elif kind == "turned-away":
            self.turned_away[event["node"]] = event["reason"]
        elif kind == "delivered":
            self._note_transfer(event, down=True)
            self.train_messages_down += event["type"] == "train"
            if event["type"] == DELIVERY:
                self.brought.add(event["node"])
        elif kind == "arrived":
            self._note_transfer(event, down=False)
            self.train_messages_up += event["type"] == "train"
            self.steps_by_node[event["node"]] += event.get("steps") or 0
        elif kind in ("expired", "unfinished"):
            self._note_transfer(event, down=event["phase"] in ("down", "landing"))

    def _note_transfer(self, event: Mapping[str, Any], *, down: bool) -> None:
        cluster = event.get("cluster") or self._cluster_of.get(event["node"])
        if cluster is None:
            return
        account = self.accounts[cluster]
        account.rises_s.update(rise_s for rise_s, carried in event["crossed"] if carried > 0)
        if down:
            account.bytes_down += round(event["bytes"])
            account.model_bytes_down += round(event["bytes"]) if event["type"] == DELIVERY else 0
        else:
            account.bytes_up += round(event["bytes"])
