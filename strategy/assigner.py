"""Who trains what, from what was heard: until everybody was, once everybody was, and anew as data drifts."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe.experts import ExpertId, held_with
from strategy.assignment import Assignment, assign_experts, with_cluster
from strategy.events import assigned_event
from strategy.settings import EmsFlSettings
from strategy.state import Arrival, EmsFlState

Event = dict[str, Any]


class Assigner:
    """Keeps the assignment of a run.

    Parameters
    ----------
    state : EmsFlState
        Read and changed.
    settings : EmsFlSettings
        Of the strategy.
    clock : callable
        Seconds since the run began.
    is_expected : callable
        Whether the answer to a message id can still come in the present contact.
    """

    def __init__(
        self,
        state: EmsFlState,
        settings: EmsFlSettings,
        clock: Callable[[], float],
        is_expected: Callable[[str], bool],
    ) -> None:
        self._state, self._settings = state, settings
        self._clock, self._is_expected = clock, is_expected
        self._num_looked_at = 0  # nodes, when nobody late was among them

    def assign_when_heard(self) -> Event | None:
        """Assign once every expected cluster has been heard, or the wait for them is over; return the event.

        So it is at the start, and after `watch` has found that data drifted: then of clusters that are not
        heard anew in time the old profiles count. A cluster that is heard later is taken in at once.
        """
        state, settings = self._state, self._settings
        since_s = 0.0 if state.assignment is None else state.drifted_at_s
        if not state.profiles:
            return None
        if since_s is None:
            return self._take_in_late()
        heard = {profile.cluster for node, profile in state.profiles.items() if node not in state.outdated}
        if self._clock() - since_s < settings.profile_wait_s and (
            settings.awaited(heard) or any(self._is_expected(asked) for asked in state.in_flight.questions())
        ):
            return None
        return self._replace(self._assign(), missing=set(settings.clusters or ()) - heard)

    def _take_in_late(self) -> Event | None:
        """Give a cluster that came after the assignment its experts, as ``settings.late`` says."""
        state, settings = self._state, self._settings
        assert state.assignment is not None
        if len(state.profiles) == self._num_looked_at:  # of ten thousand nodes only new ones are worth a look
            return None
        heard = {profile.cluster for profile in state.hosts.values()}
        new = settings.in_order(heard - state.assignment.experts.keys() - state.left_out)
        if not new:
            self._num_looked_at = len(state.profiles)
            return None
        if settings.late == "anew":
            return self._replace(self._assign(), missing=set(settings.clusters or ()) - heard)
        mass, limit = self._known_of(new[0])
        owned = [expert for experts in state.assignment.experts.values() for expert in experts]
        num_clusters = max(settings.num_clusters, len(state.assignment.experts) + 1)
        experts = choose_provisional(
            mass, settings.layers, limit, num_clusters, owned, method=settings.assign_method
        )
        if not experts:
            state.left_out.add(new[0])
            return {"event": "left-out", "cluster": new[0]}
        joined = with_cluster(state.assignment, new[0], experts, mass, settings.layers)
        return self._replace(joined, missing=set(settings.clusters or ()) - heard)

    def _replace(self, assignment: Assignment, *, missing: Collection[str]) -> Event:
        state = self._state
        before, state.assignment = state.assignment, assignment
        state.assignments += 1
        state.drifted_at_s, state.outdated, state.watched, state.left_out = None, set(), {}, set()
        self._keep_confirmed()
        return assigned_event(assignment, missing, before)

    def choose_provisional(self, cluster: str) -> None:
        """Give a cluster something to train until everybody was heard, if that is wanted."""
        state, settings = self._state, self._settings
        if state.assignment is not None or cluster in state.provisional or not settings.is_provisional:
            return
        mass, limit = self._known_of(cluster)
        taken = [expert for experts in state.provisional.values() for expert in experts]
        state.provisional[cluster] = choose_provisional(
            mass, settings.layers, limit, settings.num_clusters, taken, method=settings.assign_method
        )

    def watch(self, clusters: Iterable[str]) -> Event | None:
        """Look at what the updates that are about to be merged say of capture; return the event of a drift.

        The first pass of a cluster after an assignment is what later ones are measured by: the sub-model's
        own routing, on the same blocks, so that nothing but the data and what was learned differs. Where it
        has fallen by ``settings.watch`` of it, everybody is asked anew at the next contacts; until then the
        clusters go on with what they have.
        """
        state, settings = self._state, self._settings
        if not settings.watch or state.drifted_at_s is not None:
            return None
        for cluster in clusters:
            now = captured(state.arrivals[cluster], state.assignments)
            if now is None:
                continue
            first = state.watched.setdefault(cluster, now)
            if now < (1.0 - settings.watch) * first:
                state.drifted_at_s, state.outdated = self._clock(), set(state.profiles)
                return {"event": "drifted", "cluster": cluster, "capture": now, "capture_at_first": first}
        return None

    def _keep_confirmed(self) -> None:
        """Of the updates that wait keep what the assignment gives their clusters."""
        state = self._state
        for cluster, waiting in list(state.arrivals.items()):
            kept = [confirmed(arrival, state.experts_of(cluster)) for arrival in waiting]
            state.arrivals[cluster] = [arrival for arrival in kept if arrival is not None]
            if not state.arrivals[cluster]:
                del state.arrivals[cluster]

    def _known_of(self, cluster: str) -> tuple[list[Any], int]:
        """Return the routing mass of a cluster's nodes, and how many experts of a layer it may have."""
        profiles = [profile for profile in self._state.hosts.values() if profile.cluster == cluster]
        mass = [sum(layers) for layers in zip(*(profile.mass for profile in profiles), strict=True)]
        return mass, self._settings.max_experts(cluster, min(profile.memory_bytes for profile in profiles))

    def _assign(self) -> Assignment:
        state, settings = self._state, self._settings
        heard = {profile.cluster for profile in state.hosts.values()}
        known = {name: self._known_of(name) for name in settings.in_order(heard)}
        mass = {name: of_cluster for name, (of_cluster, _) in known.items()}
        limit = {name: most for name, (_, most) in known.items()}
        owned: Mapping[str, Sequence[ExpertId]] = state.assignment.experts if state.assignment else {}
        return assign_experts(
            mass,
            settings.layers,
            limit,
            method=settings.assign_method,
            seed=settings.seed,
            owned=owned,
            stay=settings.stay,
        )


def captured(arrivals: Iterable[Arrival], assignments: int) -> float | None:
    """Return what the kept experts of a pass's nodes catch of their data's routing, weighted by examples.

    None where no update says so of the present assignment.
    """
    told = [
        (arrival.update.num_examples, arrival.update.capture)
        for arrival in arrivals
        if arrival.update.capture is not None and arrival.update.capture_of == assignments
    ]
    return sum(n * share for n, share in told) / sum(n for n, _ in told) if told else None


def choose_provisional(
    mass: Sequence[NDArray[np.float64]],
    layers: Sequence[int],
    limit: int,
    num_clusters: int,
    taken: Iterable[ExpertId],
    *,
    method: str,
) -> tuple[ExpertId, ...]:
    """Return the experts of a cluster apart from the others: until the assignment, or when it came after it.

    None where a layer has none left.

    Parameters
    ----------
    mass : sequence of arrays [E]
        Of the cluster, summed gate mass of each expert for every layer of ``layers``.
    layers : sequence of int
        Decoder layers, in the order of ``mass``.
    limit : int
        Experts of a layer that the cluster can tune and send, >= 1.
    num_clusters : int
        Clusters that may still come: each shall have an equal share.
    taken : iterable of ExpertId
        What other clusters train.
    method : str
        As of `strategy.assignment.assign_experts`: ``all`` and ``overlap`` take what others have; what
        ``random`` gives cannot be known before everybody was heard.

    Examples
    --------
    >>> choose_provisional([np.array([1.0, 5.0, 3.0, 0.0])], [0], 2, 4, [ExpertId(0, 1)], method="optimal")
    (ExpertId(layer=0, index=2),)
    """
    if method == "random":
        return ()
    held: set[ExpertId] = set() if method in ("all", "overlap") else set(taken)
    chosen: list[ExpertId] = []
    for layer, mass_E in zip(layers, mass, strict=True):
        count = len(mass_E) if method == "all" else min(limit, max(1, len(mass_E) // num_clusters))
        free = [ExpertId(layer, int(at)) for at in np.argsort(-mass_E, kind="stable")]
        free = [expert for expert in free if expert not in held][:count]
        if not free:
            return ()
        chosen += sorted(free)
    return tuple(chosen)


def confirmed(arrival: Arrival, experts: Collection[ExpertId]) -> Arrival | None:
    """Return what an update carries of these experts, and of what all share; None for nothing."""
    arrays = held_with(experts, arrival.update.arrays)
    if not arrays:
        return None
    return Arrival(
        node_id=arrival.node_id,
        versions={expert: arrival.versions[expert] for expert in sorted({key.expert for key in arrays})},
        update=replace(arrival.update, arrays=arrays),
        arrived_s=arrival.arrived_s,
    )
