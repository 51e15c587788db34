"""Everything of the strategy that survives a merge: enough to stop anywhere and resume."""

from dataclasses import dataclass, field

from moe.experts import ExpertArrays, ExpertId, held_with
from strategy.assignment import Assignment
from strategy.flights import Flights
from strategy.messages import ExpertUpdate, Profile

ORDERS_UNSAVED = 8
"""Training messages that a node may have had after the last save of a run that was killed: one, since its
update is merged and saved before the next, and one more for each that the link lost."""


@dataclass(slots=True, kw_only=True)
class Arrival:
    """One update that waits for the end of its cluster's pass.

    Parameters
    ----------
    node_id : int
        Who sent it.
    versions : dict[ExpertId, int]
        Version of every expert when the update started.
    update : ExpertUpdate
        What it carries.
    arrived_s : float
        When, on the run's clock.
    """

    node_id: int
    versions: dict[ExpertId, int]
    update: ExpertUpdate
    arrived_s: float


@dataclass(slots=True, kw_only=True)
class EmsFlState:
    """The one mutable value of a run.

    Parameters
    ----------
    values : ExpertArrays
        Server values of every tuned array; replaced, never changed in place.
    versions : dict[ExpertId, int]
        Merges so far, per expert; an expert that is missing has had none.
    profiles : dict[int, Profile]
        By node id.
    refused : dict[int, str]
        Nodes that cannot take part, with the reason.
    assignment : Assignment or None
        None until enough clusters have been heard.
    provisional : dict[str, tuple[ExpertId, ...]]
        What a cluster that was heard trains until then, by cluster.
    in_flight : Flights
        What has not been answered.
    arrivals : dict[str, list[Arrival]]
        By cluster, since its last merge.
    dispatches : dict[int, int]
        Training messages sent so far, by node id.
    failures : dict[int, int]
        Faults in a row, by node id.
    lost : dict[int, dict[int, dict[ExpertId, int]]]
        Updates that nodes made and the link lost on their way up: by node id and number of the training
        message, the versions that they began from. The node is to send again which it still has.
    held : dict[int, set[str]]
        What a node said it holds of the model, by node id; see `strategy.delivery.pieces.Held`.
    assignments : int
        Assignments so far.
    watched : dict[str, float]
        By cluster, what its experts caught of its data at the first pass after the last assignment.
    drifted_at_s : float or None
        When a cluster was found to have drifted, until experts are assigned anew.
    outdated : set[int]
        Nodes whose profiles are to be asked anew since.
    left_out : set[str]
        Clusters that came after the assignment, for whom no expert was left.
    merges : int
        Merges so far, all clusters together.
    evaluated_at : int
        ``merges`` at the last evaluation; -1 before the first.
    """

    values: ExpertArrays
    versions: dict[ExpertId, int] = field(default_factory=dict)
    profiles: dict[int, Profile] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    assignment: Assignment | None = None
    provisional: dict[str, tuple[ExpertId, ...]] = field(default_factory=dict)
    in_flight: Flights = field(default_factory=Flights)
    arrivals: dict[str, list[Arrival]] = field(default_factory=dict)
    dispatches: dict[int, int] = field(default_factory=dict)
    failures: dict[int, int] = field(default_factory=dict)
    lost: dict[int, dict[int, dict[ExpertId, int]]] = field(default_factory=dict)
    held: dict[int, set[str]] = field(default_factory=dict)
    assignments: int = 0
    watched: dict[str, float] = field(default_factory=dict)
    drifted_at_s: float | None = None
    outdated: set[int] = field(default_factory=set)
    left_out: set[str] = field(default_factory=set)
    merges: int = 0
    evaluated_at: int = -1

    def begin_anew(self) -> None:
        """Take no more interest in messages that ended with an earlier run; what was trained for is lost.

        Lost is what was in flight, and what the earlier run may have sent after it saved this. Those numbers
        are used up: a node that had none of them trains, and one that has an update sends it.
        """
        for sent in self.in_flight.values():
            if sent.versions:
                # A node has one training at a time, and this was the last it was asked for.
                self.lost.setdefault(sent.node_id, {})[self.dispatches[sent.node_id] - 1] = sent.versions
        self.in_flight.forget_all()
        for node_id, profile in self.profiles.items():
            if experts := self.experts_of(profile.cluster):
                held = held_with(set(experts), self.values)
                first = self.dispatches.get(node_id, 0)
                self.dispatches[node_id] = first + ORDERS_UNSAVED
                for dispatch in range(first, first + ORDERS_UNSAVED):
                    versions = {key.expert: self.version(key.expert) for key in held}
                    self.lost.setdefault(node_id, {})[dispatch] = versions

    def version(self, expert: ExpertId) -> int:
        """Return how often the expert has been merged."""
        return self.versions.get(expert, 0)

    def experts_of(self, cluster: str) -> tuple[ExpertId, ...]:
        """Return what a cluster trains now."""
        of_clusters = self.assignment.experts if self.assignment else self.provisional
        return of_clusters.get(cluster, ())

    @property
    def hosts(self) -> dict[int, Profile]:
        """Profiles of the nodes that host the devices now: one that took over another's stands for both."""
        holder = {device: node for node, profile in self.profiles.items() for device in profile.devices}
        return {
            node: profile
            for node, profile in self.profiles.items()
            if all(holder[device] == node for device in profile.devices)
        }
