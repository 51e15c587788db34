"""Messages moving between the sky and the ground, in the order of simulated time.

The life of a message: *pushed*, its bytes cross down in the contacts of its cluster (`sim.grid.channel`);
*delivered*, its node works for a number of local steps; *trained*, its bytes cross up; *arrived*. The clock
jumps from event to event. What the node really answers is computed meanwhile by Flower's nodes
(`sim.grid.workers`) and awaited only when its simulated time has come, so the result does not depend on how
fast they are.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass, field
from math import inf
from typing import Any

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode

from sim.grid.capacity import Capacity
from sim.grid.channel import Crossing, SharedChannel
from sim.grid.event_queue import Event, EventQueue
from sim.grid.local_steps import StepRule
from sim.grid.transit import Journey, Phase
from sim.grid.view import View
from sim.grid.workers import Workers
from sim.plans.plan import DIRECTIONS, ContactPlan, Direction
from sim.population import Population

Link = tuple[str, Direction]  # cluster, direction


@dataclass(slots=True, kw_only=True)
class Traffic:
    """All messages in flight, and the clock.

    Parameters
    ----------
    plan, population
        As `sim.grid.grid.SatelliteGrid`.
    workers : Workers
        Compute what the nodes answer.
    rule : StepRule
        Local steps.
    on_event : Callable[[dict], None]
        Gets every log entry, in order.
    """

    plan: ContactPlan
    population: Population
    workers: Workers
    rule: StepRule
    on_event: Callable[[dict[str, Any]], None]
    now_s: float = 0.0
    is_over: bool = False
    inbox: dict[str, Message] = field(default_factory=dict)  # arrived, not pulled, in order of arrival
    journeys: dict[str, Journey] = field(default_factory=dict)
    view: View = field(init=False)
    queue: EventQueue = field(default_factory=EventQueue)
    channels: dict[Link, SharedChannel] = field(default_factory=dict)
    changed: dict[Link, None] = field(default_factory=dict)  # channels to look at again, in order
    finish_events: dict[Link, int] = field(default_factory=dict)  # sequence of each channel's valid event
    free_s: dict[int, float] = field(default_factory=dict)  # when a node ends the work it has

    def __post_init__(self) -> None:
        self.view = View(plan=self.plan, population=self.population)
        for cluster in self.plan.contacts:
            for direction in DIRECTIONS:
                capacity = Capacity(contacts=self.plan.contacts[cluster], direction=direction)
                self.channels[cluster, direction] = SharedChannel(capacity)
        self.view.schedule_first(self.queue)
        self._run_instant(0.0, ())

    def capacity(self, cluster: str, direction: Direction) -> Capacity:
        """Return what a cluster's link carries by when."""
        return self.channels[cluster, direction].capacity

    # ---- the strategy's side

    def launch(self, message: Message, down_bytes: int) -> None:
        """Send a message that has its id on its way."""
        node = self.population.node(message.metadata.dst_node_id)
        journey = Journey(instruction=message, node=node, down_bytes=down_bytes, pushed_s=self.now_s)
        self.journeys[journey.message_id] = journey
        self.view.occupy(node)
        self._start(journey, "down", down_bytes)
        if journey.expires_s is not None:
            self.queue.schedule(journey.expires_s, "expired", journey.message_id)

    def advance(self, wanted: Container[str], until_s: float = inf) -> None:
        """Move the clock to the next thing a strategy may act on, or to ``until_s``, or to the horizon.

        That is an arrival of a wanted message, a rise of a cluster with an idle node, or a set. All events of
        that instant happen.
        """
        while not self.is_over:
            self._look_at_channels()
            event = self.queue.peek()
            next_s = event.time_s if event else inf
            if next_s > until_s and until_s <= self.plan.horizon_s:
                self.now_s = max(self.now_s, until_s)
                return
            if next_s > self.plan.horizon_s:
                self._end()
                return
            self.now_s = max(self.now_s, next_s)
            if self._run_instant(next_s, wanted):
                return

    def expects(self, message_id: str) -> bool:
        """Say whether a reply could still arrive in the present contact of its cluster."""
        if message_id in self.inbox:
            return True
        journey = self.journeys.get(message_id)
        contact = self.view.contact(journey.node.cluster) if journey else None
        if journey is None or contact is None:
            return False
        if journey.phase is Phase.RETURNING:
            return True
        if journey.phase is Phase.UP:
            return self._fits_alone(journey, "up", contact.set_s)
        if journey.phase is Phase.WORKING:
            return journey.trained_s < contact.set_s
        if journey.phase is Phase.DOWN and not self._fits_alone(journey, "down", contact.set_s):
            return False
        return self._earliest_trained_s(journey, contact.rise_s) < contact.set_s

    def _fits_alone(self, journey: Journey, direction: Direction, until_s: float) -> bool:
        """Say whether a transfer could end by a time if all others stopped."""
        channel = self.channels[journey.node.cluster, direction]
        left_bytes = channel.left_bytes(journey.message_id, self.now_s) - channel.slack_bytes
        return left_bytes <= channel.capacity.bytes_at(until_s) - channel.capacity.bytes_at(self.now_s)

    def _earliest_trained_s(self, journey: Journey, rise_s: float) -> float:
        """Return a bound below the end of the work of a message that lands now or later in this contact."""
        begin_s = max(self.now_s, self.free_s.get(journey.node.node_id, 0.0))
        if not journey.is_training:
            return begin_s + self.rule.query_steps * journey.node.step_time_s
        # Steps fill the time until the next rise to less than one step, within the bounds.
        step_s = journey.node.step_time_s
        filled_s = self._next_rise_s(journey.node.cluster, rise_s) - step_s
        longest_s = begin_s + self.rule.max_steps * step_s
        return min(max(filled_s, begin_s + self.rule.min_steps * step_s), longest_s)

    # ---- the events

    def _run_instant(self, time_s: float, wanted: Container[str]) -> bool:
        """Run all events of an instant; say whether the strategy may act on one."""
        may_act = False
        while (event := self.queue.peek()) and event.time_s <= time_s:
            may_act |= self._run(self.queue.pop(), wanted)
            self._look_at_channels()
        return may_act

    def _run(self, event: Event, wanted: Container[str]) -> bool:
        """Run one event; say whether the strategy may act on it."""
        if event.kind == "rise":
            return self.view.rise(event.key, self.queue)
        if event.kind == "set":
            self.view.set(event.key, self.queue)
            return True
        if event.kind in DIRECTIONS:
            self._crossed((event.key, "down" if event.kind == "down" else "up"), event)
            return False
        journey = self.journeys.get(event.key)
        if journey is None:  # it expired
            return False
        if event.kind == "delivered":
            self._delivered(journey)
        elif event.kind == "trained":
            self._trained(journey)
        elif event.kind == "arrived":
            self._arrived(journey)
        else:
            self._expired(journey)
        return event.key in wanted and event.key in self.inbox

    def _look_at_channels(self) -> None:
        """Schedule anew the next end of every channel that transfers joined or left."""
        for link in self.changed:
            self.finish_events.pop(link, None)
            if finish := self.channels[link].next_finish():
                self.finish_events[link] = self.queue.schedule(finish[0], link[1], link[0])
        self.changed.clear()

    def _start(self, journey: Journey, direction: Direction, size_bytes: int) -> None:
        """Begin a transfer now."""
        link = (journey.node.cluster, direction)
        self.channels[link].start(journey.message_id, size_bytes, self.now_s)
        self.changed[link] = None

    def _crossed(self, link: Link, event: Event) -> None:
        """Take the transfer that ends now off its channel; its last byte lands after the light time."""
        if self.finish_events.get(link) != event.sequence:
            return  # transfers joined or left since this was scheduled
        finish = self.channels[link].next_finish()
        assert finish is not None
        crossing = self.channels[link].finish(finish[1], event.time_s)
        self.changed[link] = None
        journey = self.journeys[finish[1]]
        journey.crossed = _as_lists(crossing)
        landing = link[1] == "down"
        journey.phase = Phase.LANDING if landing else Phase.RETURNING
        kind = "delivered" if landing else "arrived"
        self.queue.schedule(event.time_s + crossing.delay_s, kind, journey.message_id)

    def _delivered(self, journey: Journey) -> None:
        """Give the node its work."""
        node = journey.node
        # A node does one thing at a time, as a SuperNode does.
        begin_s = max(self.now_s, self.free_s.get(node.node_id, 0.0))
        rise_s = journey.crossed[-1][0] if journey.crossed else 0.0
        free_s = self._next_rise_s(node.cluster, rise_s) - begin_s
        journey.steps = self.rule.steps(
            is_training=journey.is_training, free_s=free_s, step_time_s=node.step_time_s
        )
        journey.delivered_s, journey.phase = self.now_s, Phase.WORKING
        journey.trained_s = self.free_s[node.node_id] = begin_s + journey.steps * node.step_time_s
        self.submit(journey)
        if self._can_answer(journey):
            self.queue.schedule(journey.trained_s, "trained", journey.message_id)
        carried = {"bytes": journey.down_bytes, "crossed": journey.crossed}
        self._log(journey, "delivered", steps=journey.steps, **carried)

    def submit(self, journey: Journey) -> None:
        """Have the real reply computed, if it can ever be sent; also after a restart."""
        if not self._can_answer(journey):
            return
        metadata = journey.instruction.metadata
        work = self.workers.submit(
            journey.node.node_id, journey.work(), metadata.message_type, metadata.group_id
        )
        if isinstance(work, Error):
            journey.outcome = work
        else:
            journey.worker_id = work

    def _can_answer(self, journey: Journey) -> bool:
        """Say whether the work ends before the last set of the cluster and the end of the message's TTL.

        If not, nothing of it will ever be seen: computing it would be hours of real time for nothing.
        """
        last_set_s = self.plan.contacts[journey.node.cluster][-1].set_s
        expires_s = inf if journey.expires_s is None else journey.expires_s
        return journey.trained_s < min(last_set_s, expires_s)

    def _trained(self, journey: Journey) -> None:
        """Wait for the real reply and start it on its way up."""
        if journey.outcome is None:
            journey.outcome = self.workers.result(journey.worker_id, journey.node.node_id)
        up_capacity = self.capacity(journey.node.cluster, "up")
        journey.take_outcome(up_capacity.total_bytes)
        journey.phase, journey.worker_id = Phase.UP, ""
        self._start(journey, "up", journey.up_bytes)
        self._log(journey, "trained", bytes=journey.up_bytes, steps=journey.steps)

    def _arrived(self, journey: Journey) -> None:
        """Put the reply where the strategy finds it."""
        self._land(journey)
        self._log(journey, "arrived", steps=journey.steps, bytes=journey.up_bytes, crossed=journey.crossed)

    def _expired(self, journey: Journey) -> None:
        """Give up a message whose time to live is over, wherever it is."""
        carried = self._abandon(journey)
        reason = f"message {journey.message_id} to node {journey.node.node_id} outlived its TTL"
        journey.outcome = Error(ErrorCode.MESSAGE_UNAVAILABLE, reason)
        self._land(journey)
        self._log(journey, "expired", **carried)

    def _end(self) -> None:
        """Stop at the horizon; what is in flight never arrives."""
        self.now_s, self.is_over = self.plan.horizon_s, True
        for journey in list(self.journeys.values()):
            self._log(journey, "unfinished", **self._abandon(journey))
        self.journeys.clear()

    def _land(self, journey: Journey) -> None:
        """Take a journey that is over out of the air."""
        del self.journeys[journey.message_id]
        self.view.release(journey.node)
        self.inbox[journey.message_id] = journey.reply(self.now_s)

    def _abandon(self, journey: Journey) -> dict[str, Any]:
        """Stop what a journey is doing and return the bytes its present transfer has carried."""
        if journey.phase is Phase.WORKING:
            self.workers.forget(journey.worker_id)
        if journey.phase in ("down", "up"):
            link: Link = (journey.node.cluster, "down" if journey.phase is Phase.DOWN else "up")
            journey.crossed = _as_lists(self.channels[link].cancel(journey.message_id, self.now_s))
            self.changed[link] = None
        elif journey.phase is Phase.WORKING:
            journey.crossed = []
        return {
            "phase": str(journey.phase),
            "bytes": sum(carried for _, carried in journey.crossed),
            "crossed": journey.crossed,
        }

    def _next_rise_s(self, cluster: str, after_s: float) -> float:
        """Return the next rise, or the horizon if there is none."""
        rise_s = self.plan.next_rise_s(cluster, after_s)
        return self.plan.horizon_s if rise_s is None else rise_s

    def _log(self, journey: Journey, event: str, **more: Any) -> None:
        """Hand out a log entry."""
        self.on_event(journey.describe(event, self.now_s, **more))


def _as_lists(crossing: Crossing) -> list[list[float]]:
    """Return a crossing as the log has it."""
    return [[rise_s, carried] for rise_s, carried in crossing.by_contact]
