"""EMS-FL: profile, assign, dispatch, merge. Start reading at :meth:`EmsFl.start`.

    until the horizon:
        profile    ask every node that comes into view which experts its data uses
        assign     once every cluster was heard: experts to clusters, no expert twice; until then each
                   trains what its own data uses most and nobody else does
        deliver    to every node in contact and idle what it lacks of its experts, where they are delivered
        dispatch   to every node in contact and idle, the newest version of its cluster's experts
        receive    what comes up waits for the end of its cluster's pass
        merge      new = old + server_learning_rate * sum(n * f(staleness) * delta) / sum(n), per expert

Source of the idea: Xu, Zhang, Liu, Cui, "EMS-FL: Federated Tuning of Mixture-of-Experts in
Satellite-Terrestrial Networks via Expert-Driven Model Splitting", arXiv 2602.19485 (abstract).
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from typing_extensions import override

from moe.experts import ExpertArrays, ExpertId
from strategy.assignment import Assignment, assign_experts
from strategy.delivery.messages import piece_names
from strategy.delivery.pieces import Delivery
from strategy.events import assigned_event
from strategy.flights import InFlight
from strategy.merging import merge_pass
from strategy.messages import decode_arrays, encode_arrays, profile_instruction, train_instruction
from strategy.provisional import choose_provisional, confirmed
from strategy.replies import receive_reply
from strategy.settings import EmsFlSettings
from strategy.state import EmsFlState

Event = dict[str, Any]
EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]


def _ignore(_: object) -> None:
    """Take no notice."""


class EmsFl(Strategy):
    """Expert-driven splitting with stale-aware asynchronous aggregation.

    The strategy touches the world only through a Flower ``Grid``: over ``sim.grid.grid.SatelliteGrid``
    nodes come and go with the satellites and time is simulated, over Flower's own grid the real
    link does the delaying.

    Parameters
    ----------
    settings : EmsFlSettings
        What may be varied; see there.
    clock : callable
        Seconds since the run began: the grid's simulated time, or real time.
    expects : callable, optional
        Whether the answer to a message id can still arrive in its cluster's present contact;
        without it, an answer is expected from whoever is in contact.
    on_event : callable, optional
        Receives every event as a dict, in order.
    delivery : Delivery, optional
        How the model comes to the nodes; without it, they all have it.
    on_settled : callable, optional
        Receives the state at the start, after the assignment, after merges and at the end: the moments
        to save it.
    state : EmsFlState, optional
        Of an earlier run, to resume.
    """

    reply_with = "delta"
    """What a device answers with: what it changed, or ``values``."""

    def __init__(
        self,
        settings: EmsFlSettings,
        *,
        clock: Callable[[], float],
        expects: Callable[[str], bool] | None = None,
        on_event: Callable[[Event], None] = _ignore,
        on_settled: Callable[[EmsFlState], None] = _ignore,
        delivery: Delivery | None = None,
        state: EmsFlState | None = None,
    ) -> None:
        self.settings = settings
        self.state = state or EmsFlState(values={})
        self._clock = clock
        self._expects = expects
        self._on_event = on_event
        self._on_settled = on_settled
        self._delivery = delivery or Delivery()
        self._in_view: set[int] = set()
        self._newest: dict[str, ExpertArrays] = {}  # by cluster
        self._newest_of: ExpertArrays | None = None

    @override
    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 0,
        timeout: float = 86_400.0,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: EvaluateFn | None = None,
    ) -> Result:
        """Run until the horizon, the number of merges or the target.

        As ``Strategy.start``, with ``num_rounds`` the number of merges (0: no limit) and
        ``timeout`` the horizon in seconds of the run's clock.
        """
        state, result = self.state, Result()
        state.values = state.values or decode_arrays(initial_arrays)
        if state.evaluated_at < 0:
            self._evaluate(evaluate_fn, result, at_start=True)
            self._on_settled(state)

        while not self._is_finished(num_rounds, timeout, result):
            self._in_view = set(grid.get_node_ids())
            self._push(grid, self._profile_questions())
            is_assigned_now = self._assign_when_heard()
            self._push(grid, self._delivery.messages(self._idle(), self._needs, state.held))
            self._push(grid, self.configure_train(state.merges, initial_arrays, ConfigRecord(), grid))
            # Over a simulated sky this alone moves the clock, to the next thing to act on.
            for reply in grid.pull_messages(state.in_flight.keys()):
                self._log(receive_reply(reply, state, self.settings, self._clock()))
            self._in_view = set(grid.get_node_ids())
            has_merged = self._merge_due()
            self._evaluate(evaluate_fn, result)
            if is_assigned_now or has_merged:
                self._on_settled(state)
            time.sleep(self.settings.poll_interval_s)

        self._merge_due(at_end=True)
        self._evaluate(evaluate_fn, result, at_end=True)
        self._on_settled(state)
        result.arrays = encode_arrays(state.values)
        return result

    @override
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return a message with the newest experts for every node that is in contact and idle.

        A cluster whose updates wait for the end of the pass gets none: its nodes would start from
        experts that are about to change.
        """
        state = self.state
        messages = []
        for node_id in self._idle():
            profile, held = state.profiles.get(node_id), state.held.get(node_id, ())
            if profile is None or self._awaits_merge(profile.cluster):
                continue
            is_ready = self._delivery.is_complete(self._needs(node_id), held)
            if is_ready and (values := self._values_for(profile.cluster)):
                frozen = set(state.experts_of(profile.cluster)) - {key.expert for key in values}
                dispatch = state.dispatches.get(node_id, 0)
                messages.append(
                    train_instruction(node_id, values, dispatch, frozen, reply_with=self.reply_with)
                )
        return messages

    @override
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take in replies and merge every cluster they come from at once."""
        for reply in replies:
            self._log(receive_reply(reply, self.state, self.settings, self._clock()))
        self._merge_due(at_end=True)
        return encode_arrays(self.state.values), None

    @override
    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask nobody: windows are for experts; evaluation is the server's ``evaluate_fn``."""
        return []

    @override
    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return nothing, since nobody was asked."""
        return None

    @override
    def summary(self) -> None:
        """Log nothing: the run's own report says more."""

    def _profile_questions(self) -> Sequence[Message]:
        state = self.state
        strangers = [node_id for node_id in self._idle() if node_id not in state.profiles]
        return [
            profile_instruction(node_id)
            for node_id in strangers
            if self._delivery.is_complete((), state.held.get(node_id, ()))
        ]

    def _idle(self) -> list[int]:
        """Return the nodes that are in contact and owe no answer, ascending."""
        return sorted(self._in_view - self.state.in_flight.nodes - set(self.state.refused))

    def _needs(self, node_id: int) -> Sequence[ExpertId]:
        """Return the experts a node is to train."""
        profile = self.state.profiles.get(node_id)
        if profile is None:
            return ()
        self._choose_provisional(profile.cluster)
        return self.state.experts_of(profile.cluster)

    def _assign_when_heard(self) -> bool:
        """Assign once every expected cluster has been heard, or the wait for them is over; say if now."""
        state, settings = self.state, self.settings
        if state.assignment is not None or not state.profiles:
            return False
        missing = set(settings.clusters) - {profile.cluster for profile in state.profiles.values()}
        if self._clock() < settings.profile_wait_s and (
            missing or any(self._is_expected(asked) for asked in state.in_flight.questions())
        ):
            return False
        state.assignment = self._assign()
        self._newest_of = None
        self._keep_confirmed()
        self._log(assigned_event(state.assignment, missing))
        return True

    def _choose_provisional(self, cluster: str) -> None:
        """Give a cluster something to train until everybody was heard, if that is wanted."""
        state, settings = self.state, self.settings
        if state.assignment is not None or cluster in state.provisional or not settings.is_provisional:
            return
        mass, limit = self._known_of(cluster)
        taken = [expert for experts in state.provisional.values() for expert in experts]
        state.provisional[cluster] = choose_provisional(
            mass, settings.layers, limit, len(settings.clusters), taken, method=settings.assign_method
        )
        self._newest_of = None

    def _keep_confirmed(self) -> None:
        """Of the updates that wait keep what the assignment gives their clusters."""
        state = self.state
        for cluster, waiting in list(state.arrivals.items()):
            kept = [confirmed(arrival, state.experts_of(cluster)) for arrival in waiting]
            state.arrivals[cluster] = [arrival for arrival in kept if arrival is not None]
            if not state.arrivals[cluster]:
                del state.arrivals[cluster]

    def _known_of(self, cluster: str) -> tuple[list[Any], int]:
        """Return the routing mass of a cluster's nodes, and how many experts of a layer it may have."""
        profiles = [profile for profile in self.state.hosts.values() if profile.cluster == cluster]
        mass = [sum(layers) for layers in zip(*(profile.mass for profile in profiles), strict=True)]
        return mass, self.settings.max_experts(cluster, min(profile.memory_bytes for profile in profiles))

    def _assign(self) -> Assignment:
        heard = {profile.cluster for profile in self.state.hosts.values()}
        known = {name: self._known_of(name) for name in self.settings.clusters if name in heard}
        mass = {name: of_cluster for name, (of_cluster, _) in known.items()}
        limit = {name: most for name, (_, most) in known.items()}
        return assign_experts(
            mass, self.settings.layers, limit, method=self.settings.assign_method, seed=self.settings.seed
        )

    def _values_for(self, cluster: str) -> ExpertArrays:
        values = self.state.values
        if self._newest_of is not values:  # a merge replaces them
            self._newest, self._newest_of = {}, values
        if cluster not in self._newest:
            experts = set(self.state.experts_of(cluster))
            self._newest[cluster] = {key: value for key, value in values.items() if key.expert in experts}
        return self._newest[cluster]

    def _push(self, grid: Grid, messages: Iterable[Message]) -> None:
        # One at a time: Flower's in-memory grid drops a refused message from its list of ids.
        for message in messages:
            for message_id in grid.push_messages([message]):
                self._note_sent(message_id, message)

    def _note_sent(self, message_id: str, message: Message) -> None:
        state, node_id, cluster, versions = self.state, message.metadata.dst_node_id, "", {}
        if message.metadata.message_type == "train":
            state.dispatches[node_id] = state.dispatches.get(node_id, 0) + 1
            cluster = state.profiles[node_id].cluster
            versions = {key.expert: state.version(key.expert) for key in self._values_for(cluster)}
        sent = InFlight(node_id=node_id, cluster=cluster, versions=versions, pieces=piece_names(message))
        state.in_flight.add(message_id, sent)

    def _merge_due(self, *, at_end: bool = False) -> bool:
        """Merge what is due, or all that waits; say whether there was anything."""
        due = self._due(at_end=at_end)
        for clusters in due:
            for event in self._merge(clusters):
                self._log(event)
        return bool(due)

    def _merge(self, clusters: Sequence[str]) -> Iterable[Event]:
        return merge_pass(clusters, self.state, self.settings)

    def _awaits_merge(self, cluster: str) -> bool:
        return cluster in self.state.arrivals

    def _due(self, *, at_end: bool = False) -> list[Sequence[str]]:
        """Return the clusters whose pass is over, each to be merged by itself; none before the assignment."""
        state, now_s = self.state, self._clock()
        if state.assignment is None:
            return []
        return [
            (cluster,)
            for cluster, waiting in state.arrivals.items()
            if at_end
            or now_s - waiting[0].arrived_s >= self.settings.merge_wait_s
            or not any(map(self._is_expected, state.in_flight.training(cluster)))
        ]

    def _is_expected(self, message_id: str) -> bool:
        if self._expects is not None:
            return self._expects(message_id)
        return self.state.in_flight[message_id].node_id in self._in_view

    def _is_finished(self, max_merges: int, horizon_s: float, result: Result) -> bool:
        losses = [cast(float, metrics["loss"]) for metrics in result.evaluate_metrics_serverapp.values()]
        return (
            self._clock() >= horizon_s
            or 0 < max_merges <= self.state.merges
            or bool(losses and losses[-1] <= self.settings.target_loss)
        )

    def _evaluate(
        self, evaluate_fn: EvaluateFn | None, result: Result, *, at_start: bool = False, at_end: bool = False
    ) -> None:
        merges, every = self.state.merges, self.settings.evaluate_every_merges
        since = merges - self.state.evaluated_at
        if evaluate_fn is None or not (at_start or (at_end and since) or (every and since >= every)):
            return
        self.state.evaluated_at = merges
        metrics = evaluate_fn(merges, encode_arrays(self.state.values))
        if metrics is not None:
            result.evaluate_metrics_serverapp[merges] = metrics
            self._log({"event": "evaluated", "merges": merges} | dict(metrics))

    def _log(self, event: Event | None) -> None:
        if event is not None:
            self._on_event({"time_s": self._clock()} | event)
