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
from sim.grid.in_view import InView
from sim.grid.local_steps import StepRule
from sim.grid.transit import MessageInTransit, Phase
from sim.grid.workers import Workers
from sim.plans.plan import DIRECTIONS, ContactPlan, Direction
from sim.population import Population

Link = tuple[str, Direction]  # cluster, direction


@dataclass(slots=True, kw_only=True)
class Simulator:
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
    in_transit: dict[str, MessageInTransit] = field(default_factory=dict)
    view: InView = field(init=False)
    queue: EventQueue = field(default_factory=EventQueue)
    channels: dict[Link, SharedChannel] = field(default_factory=dict)
    changed: dict[Link, None] = field(default_factory=dict)  # channels to look at again, in order
    finish_events: dict[Link, int] = field(default_factory=dict)  # sequence of each channel's valid event
    free_s: dict[int, float] = field(default_factory=dict)  # when a node ends the work it has

    def __post_init__(self) -> None:
        self.view = InView(plan=self.plan, population=self.population)
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
        transit = MessageInTransit(instruction=message, node=node, down_bytes=down_bytes, pushed_s=self.now_s)
        self.in_transit[transit.message_id] = transit
        self.view.occupy(node)
        self._start(transit, "down", down_bytes)
        if transit.expires_s is not None:
            self.queue.schedule(transit.expires_s, "expired", transit.message_id)

    def advance(self, wanted: Container[str], until_s: float = inf) -> None:
        """Move the clock to the next thing a strategy may act on, or to ``until_s``, or to the horizon.

        That is an arrival of a wanted message, a rise of a cluster with an idle node, or a set. All events of
        that instant happen. All work that became known meanwhile is under way afterwards.
        """
        self._advance(wanted, until_s)
        self.workers.flush(unless_busy=True)

    def _advance(self, wanted: Container[str], until_s: float) -> None:
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
        transit = self.in_transit.get(message_id)
        contact = self.view.contact(transit.node.cluster) if transit else None
        if transit is None or contact is None:
            return False
        if transit.phase is Phase.RETURNING:
            return True
        if transit.phase is Phase.UP:
            return self._fits_alone(transit, "up", contact.set_s)
        if transit.phase is Phase.WORKING:
            return transit.trained_s < contact.set_s
        if transit.phase is Phase.DOWN and not self._fits_alone(transit, "down", contact.set_s):
            return False
        return self._earliest_trained_s(transit, contact.rise_s) < contact.set_s

    def _fits_alone(self, transit: MessageInTransit, direction: Direction, until_s: float) -> bool:
        """Say whether a transfer could end by a time if all others stopped."""
        channel = self.channels[transit.node.cluster, direction]
        left_bytes = channel.left_bytes(transit.message_id, self.now_s) - channel.slack_bytes
        return left_bytes <= channel.capacity.bytes_at(until_s) - channel.capacity.bytes_at(self.now_s)

    def _earliest_trained_s(self, transit: MessageInTransit, rise_s: float) -> float:
        """Return a bound below the end of the work of a message that lands now or later in this contact."""
        begin_s = max(self.now_s, self.free_s.get(transit.node.node_id, 0.0))
        if transit.asks != "train":
            return begin_s + self.rule.fixed_steps(transit.asks) * transit.node.step_time_s
        # Steps fill the time until the next rise to less than one step, within the bounds.
        step_s = transit.node.step_time_s
        filled_s = self._next_rise_s(transit.node.cluster, rise_s) - step_s
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
        transit = self.in_transit.get(event.key)
        if transit is None:  # it expired
            return False
        if event.kind == "delivered":
            self._delivered(transit)
        elif event.kind == "trained":
            self._trained(transit)
        elif event.kind == "arrived":
            self._arrived(transit)
        else:
            self._expired(transit)
        return event.key in wanted and event.key in self.inbox

    def _look_at_channels(self) -> None:
        """Schedule anew the next end of every channel that transfers joined or left."""
        for link in self.changed:
            self.finish_events.pop(link, None)
            if finish := self.channels[link].next_finish():
                self.finish_events[link] = self.queue.schedule(finish[0], link[1], link[0])
        self.changed.clear()

    def _start(self, transit: MessageInTransit, direction: Direction, size_bytes: int) -> None:
        """Begin a transfer now."""
        link = (transit.node.cluster, direction)
        self.channels[link].start(transit.message_id, size_bytes, self.now_s)
        self.changed[link] = None

    def _crossed(self, link: Link, event: Event) -> None:
        """Take the transfer that ends now off its channel; its last byte lands after the light time."""
        if self.finish_events.get(link) != event.sequence:
            return  # transfers joined or left since this was scheduled
        finish = self.channels[link].next_finish()
        assert finish is not None
        crossing = self.channels[link].finish(finish[1], event.time_s)
        self.changed[link] = None
        transit = self.in_transit[finish[1]]
        transit.crossed = _as_lists(crossing)
        landing = link[1] == "down"
        transit.phase = Phase.LANDING if landing else Phase.RETURNING
        kind = "delivered" if landing else "arrived"
        self.queue.schedule(event.time_s + crossing.delay_s, kind, transit.message_id)

    def _delivered(self, transit: MessageInTransit) -> None:
        """Give the node its work."""
        node = transit.node
        # A node does one thing at a time, as a SuperNode does.
        begin_s = max(self.now_s, self.free_s.get(node.node_id, 0.0))
        rise_s = transit.crossed[-1][0] if transit.crossed else 0.0
        free_s = self._next_rise_s(node.cluster, rise_s) - begin_s
        transit.steps = self.rule.steps(transit.asks, free_s=free_s, step_time_s=node.step_time_s)
        transit.delivered_s, transit.phase = self.now_s, Phase.WORKING
        transit.trained_s = self.free_s[node.node_id] = begin_s + transit.steps * node.step_time_s
        self.submit(transit)
        if self._can_answer(transit):
            self.queue.schedule(transit.trained_s, "trained", transit.message_id)
        carried = {"bytes": transit.down_bytes, "crossed": transit.crossed}
        self._log(transit, "delivered", steps=transit.steps, **carried)

    def submit(self, transit: MessageInTransit) -> None:
        """Have the real reply computed, if it can ever be sent; also after a restart."""
        if not self._can_answer(transit):
            return
        metadata = transit.instruction.metadata
        transit.worker_id = self.workers.submit(
            transit.node.cluster, transit.work(), metadata.message_type, metadata.group_id
        )

    def _can_answer(self, transit: MessageInTransit) -> bool:
        """Say whether the work ends before the last set of the cluster and the end of the message's TTL.

        If not, nothing of it will ever be seen: computing it would be hours of real time for nothing.
        """
        last_set_s = self.plan.contacts[transit.node.cluster][-1].set_s
        expires_s = inf if transit.expires_s is None else transit.expires_s
        return transit.trained_s < min(last_set_s, expires_s)

    def _trained(self, transit: MessageInTransit) -> None:
        """Wait for the real reply and start it on its way up."""
        if transit.outcome is None:
            transit.outcome = self.workers.result(transit.worker_id, transit.node.node_id)
        up_capacity = self.capacity(transit.node.cluster, "up")
        transit.take_outcome(up_capacity.total_bytes)
        transit.phase, transit.worker_id = Phase.UP, ""
        self._start(transit, "up", transit.up_bytes)
        self._log(transit, "trained", bytes=transit.up_bytes, steps=transit.steps)

    def _arrived(self, transit: MessageInTransit) -> None:
        """Put the reply where the strategy finds it."""
        self._land(transit)
        self._log(transit, "arrived", steps=transit.steps, bytes=transit.up_bytes, crossed=transit.crossed)

    def _expired(self, transit: MessageInTransit) -> None:
        """Give up a message whose time to live is over, wherever it is."""
        carried = self._abandon(transit)
        reason = f"message {transit.message_id} to node {transit.node.node_id} outlived its TTL"
        transit.outcome = Error(ErrorCode.MESSAGE_UNAVAILABLE, reason)
        self._land(transit)
        self._log(transit, "expired", **carried)

    def _end(self) -> None:
        """Stop at the horizon; what is in flight never arrives."""
        self.now_s, self.is_over = self.plan.horizon_s, True
        for transit in list(self.in_transit.values()):
            self._log(transit, "unfinished", **self._abandon(transit))
        self.in_transit.clear()

    def _land(self, transit: MessageInTransit) -> None:
        """Take a message that is over out of the air."""
        del self.in_transit[transit.message_id]
        self.view.release(transit.node)
        self.inbox[transit.message_id] = transit.reply(self.now_s)

    def _abandon(self, transit: MessageInTransit) -> dict[str, Any]:
        """Stop what a message is doing and return the bytes its present transfer has carried."""
        if transit.phase is Phase.WORKING:
            self.workers.forget(transit.worker_id)
        if transit.phase in ("down", "up"):
            link: Link = (transit.node.cluster, "down" if transit.phase is Phase.DOWN else "up")
            transit.crossed = _as_lists(self.channels[link].cancel(transit.message_id, self.now_s))
            self.changed[link] = None
        elif transit.phase is Phase.WORKING:
            transit.crossed = []
        return {
            "phase": str(transit.phase),
            "bytes": sum(carried for _, carried in transit.crossed),
            "crossed": transit.crossed,
        }

    def _next_rise_s(self, cluster: str, after_s: float) -> float:
        """Return the next rise, or the horizon if there is none."""
        rise_s = self.plan.next_rise_s(cluster, after_s)
        return self.plan.horizon_s if rise_s is None else rise_s

    def _log(self, transit: MessageInTransit, event: str, **more: Any) -> None:
        """Hand out a log entry."""
        self.on_event(transit.describe(event, self.now_s, **more))


def _as_lists(crossing: Crossing) -> list[list[float]]:
    """Return a crossing as the log has it."""
    return [[rise_s, carried] for rise_s, carried in crossing.by_contact]
