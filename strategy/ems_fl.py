"""EMS-FL: profile, assign, dispatch, merge. Start reading at :meth:`EmsFl.start`.

    until the horizon:
        profile    ask every node that comes into view which experts its data uses
        assign     once every cluster was heard: experts to clusters, no expert twice; until then each
                   trains what its own data uses most and nobody else does
        deliver    to every node in contact and idle what it lacks of its experts, where they are delivered
        dispatch   to every node in contact and idle, the newest version of its cluster's experts
        receive    what comes up waits for the end of its cluster's pass
        watch      where a cluster's experts catch less of its data than at first, ask everybody anew
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

from moe.experts import ExpertArrays, ExpertId, held_with
from strategy.assigner import Assigner
from strategy.delivery.messages import piece_names
from strategy.delivery.pieces import Delivery
from strategy.flights import InFlight
from strategy.merging import merge_pass
from strategy.messages import profile_instruction, train_instruction
from strategy.replies import receive_reply
from strategy.settings import EmsFlSettings
from strategy.state import EmsFlState
from strategy.wire.arrays import decode_arrays, encode_arrays

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
        self._newest_of: tuple[object, object] = (None, None)
        self._assigner = Assigner(self.state, settings, clock, self._is_expected)

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
            assigned = self._assigner.assign_when_heard()
            self._log(assigned)
            self._push(grid, self._delivery.messages(self._idle(), self._needs, state.held))
            self._push(grid, self.configure_train(state.merges, initial_arrays, ConfigRecord(), grid))
            # Over a simulated sky this alone moves the clock, to the next thing to act on.
            for reply in grid.pull_messages(state.in_flight.keys()):
                self._log(receive_reply(reply, state, self.settings, self._clock()))
            self._in_view = set(grid.get_node_ids())
            has_merged = self._merge_due()
            self._evaluate(evaluate_fn, result)
            if assigned or has_merged:
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
                watch = state.assignments if self.settings.watch else 0
                messages.append(
                    train_instruction(
                        node_id,
                        values,
                        dispatch,
                        frozen,
                        reply_with=self.reply_with,
                        watch=watch,
                        lost=state.lost.get(node_id, ()),
                        lost_of=self.settings.earlier_runs,
                    )
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
        return [
            profile_instruction(node_id)
            for node_id in self._idle()
            if (node_id not in state.profiles or node_id in state.outdated)
            and self._delivery.is_complete((), state.held.get(node_id, ()))
        ]

    def _idle(self) -> list[int]:
        """Return the nodes that are in contact and owe no answer, ascending."""
        return sorted(self._in_view - self.state.in_flight.nodes - set(self.state.refused))

    def _needs(self, node_id: int) -> Sequence[ExpertId]:
        """Return the experts a node is to train."""
        profile = self.state.profiles.get(node_id)
        if profile is None:
            return ()
        self._assigner.choose_provisional(profile.cluster)
        return self.state.experts_of(profile.cluster)

    def _values_for(self, cluster: str) -> ExpertArrays:
        state, values = self.state, self.state.values
        of = (state.assignments, len(state.provisional))
        if self._newest_of[0] is not values or self._newest_of[1] != of:  # a merge replaces the values
            self._newest, self._newest_of = {}, (values, of)
        if cluster not in self._newest:
            experts = set(state.experts_of(cluster))
            self._newest[cluster] = held_with(experts, values) if experts else {}
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
            self._log(self._assigner.watch(clusters))
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
            or 0 < self.settings.min_updates <= len(waiting)
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
