"""SatelliteGrid: a Flower Grid whose messages move only inside contacts, on a simulated clock.

A Flower strategy touches the world only through its Grid, so the sky is one: an unmodified strategy pushes
and pulls, and this grid decides when. In deployment the wrapper is absent and the real link does the
delaying.
"""

from collections.abc import Callable, Iterable, Set
from typing import Any, Literal

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from sim.faults import raise_faults
from sim.grid.local_steps import StepRule
from sim.grid.message_bytes import content_bytes
from sim.grid.simulator import Simulator
from sim.grid.snapshot import restore_simulator, snapshot_simulator
from sim.grid.workers import Workers
from sim.plans.plan import ContactPlan
from sim.population import Population


def ignore(_: Any) -> None:
    """Do nothing with an event or a word."""


class SatelliteGrid(Grid):
    """Show a strategy the nodes of a population, reached only through the contacts of a plan.

    Parameters
    ----------
    inner : Grid
        Flower's grid. Its nodes (any number, at least one) only lend their computing: simulated node i runs
        on real node i modulo their number, so client apps must keep no state by real node.
    plan : ContactPlan
        When each cluster can be reached and what it carries then; must know every cluster of the population.
    population : Population
        Who is on the ground; their node ids are what the strategy sees.
    min_steps, max_steps : int
        Bounds of the local steps of one training, 1 <= min_steps <= max_steps.
    query_steps : int
        Local steps a query or an evaluation takes, >= 1.
    visibility : {"in-view", "all"}
        Whether `get_node_ids` shows the nodes in view now, or all: stock synchronous strategies wait on the
        wall clock for a quorum of nodes, and this clock moves only when they pull.
    on_event : Callable[[dict], None]
        Gets each event in order of simulated time: ``delivered``, ``trained``, ``arrived``, ``expired`` (its
        TTL ended) and, at the horizon, ``unfinished``. Keys: event, time_s, node, cluster, message, type,
        and where known bytes, steps, ``crossed`` ([rise_s, bytes] of each contact used), error (Flower's
        code).
    on_wait : Callable[[str], None]
        Called about every 3 s of wall time while blocked on real replies, with a sentence.
    reply_timeout_wall_s : float
        A real reply that has not come when no reply came for so long becomes an error reply.
    is_grouped : bool
        Whether the work of many nodes travels in one message of Flower's grid. The events are the same; the
        ClientApp must have the mod `sim.grid.groups.each_of_group`.
    freight : Callable[[RecordDict], int]
        Bytes that a content stands for beside its own: what crosses the link and need not cross this machine.

    Raises
    ------
    ValueError
        If the steps are impossible or the plan lacks a cluster.
    """

    def __init__(
        self,
        inner: Grid,
        plan: ContactPlan,
        population: Population,
        *,
        min_steps: int,
        max_steps: int,
        query_steps: int = 1,
        visibility: Literal["in-view", "all"] = "in-view",
        on_event: Callable[[dict[str, Any]], None] = ignore,
        on_wait: Callable[[str], None] = ignore,
        reply_timeout_wall_s: float = 600.0,
        is_grouped: bool = False,
        freight: Callable[[RecordDict], int] = lambda _: 0,
    ) -> None:
        if visibility not in ("in-view", "all"):
            raise ValueError(f"visibility must be 'in-view' or 'all', got {visibility!r}")
        self._inner, self._freight = inner, freight
        self._population = population
        self._shows_all = visibility == "all"
        self._num_pushed = 0
        self._simulator = Simulator(
            plan=plan,
            population=population,
            workers=Workers(
                inner=inner,
                on_wait=on_wait,
                reply_timeout_wall_s=reply_timeout_wall_s,
                is_grouped=is_grouped,
            ),
            rule=StepRule(min_steps=min_steps, max_steps=max_steps, query_steps=query_steps),
            on_event=on_event,
        )

    # ---- the clock

    @property
    def now_s(self) -> float:
        """Simulated seconds since the scenario's start; never decreases."""
        return self._simulator.now_s

    @property
    def is_over(self) -> bool:
        """Whether the horizon is reached; from then on nothing arrives."""
        return self._simulator.is_over

    def expects(self, message_id: str) -> bool:
        """Say whether a message's reply could still arrive in the present contact of its cluster.

        False out of contact, when its work ends after the set, and when its bytes would not fit even alone.
        """
        return self._simulator.expects(message_id)

    def snapshot(self) -> dict[str, Any]:
        """Return the clock and all that is in flight, as JSON-able values and bytes."""
        return {"num_pushed": self._num_pushed, "traffic": snapshot_simulator(self._simulator)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `snapshot` taken of a grid with the same plan, population and steps.

        Work that was being computed is computed anew, so clients must be deterministic.

        Raises
        ------
        ValueError
            If the snapshot is of another plan or population.
        """
        restore_simulator(self._simulator, state["traffic"])
        self._num_pushed = state["num_pushed"]

    # ---- Flower's Grid

    def get_node_ids(self) -> list[int]:
        """Return the nodes in view now, or all (``visibility``), ascending."""
        if self._shows_all:
            return [node.node_id for node in self._population.nodes]
        return self._simulator.view.node_ids()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Start the messages on their way down and return their ids, in order.

        Raises
        ------
        ValueError
            If a message is for an unknown node, has no content, or is larger than all contacts of its cluster
            together carry down; then none is sent.
        """
        messages = list(messages)
        sizes: dict[int, int] = {}  # a strategy sends the same content to many: measure it once
        for message in messages:
            if message.has_content() and id(message.content) not in sizes:
                sizes[id(message.content)] = content_bytes(message.content) + self._freight(message.content)
        raise_faults([fault for message in messages if (fault := self._fault(message, sizes))])
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"m{self._num_pushed:06d}"  # in place, as Flower does
            self._num_pushed += 1
            self._simulator.launch(message, sizes[id(message.content)])
        return [message.metadata.message_id for message in messages]

    def _fault(self, message: Message, sizes: dict[int, int]) -> str | None:
        """Say what forbids sending a message."""
        node_id = message.metadata.dst_node_id
        if not 1 <= node_id <= len(self._population.nodes):
            return f"no node {node_id} to push a message to; nodes are 1 to {len(self._population.nodes)}"
        if not message.has_content():
            return f"a message to node {node_id} has no content; only replies can be errors"
        cluster, size_bytes = self._population.node(node_id).cluster, sizes[id(message.content)]
        total_bytes = self._simulator.capacity(cluster, "down").total_bytes
        if size_bytes > total_bytes:
            return (
                f"a message of {size_bytes} bytes to node {node_id} can never be delivered: all contacts of"
                f" cluster {cluster!r} together carry {total_bytes:.0f} bytes down; send less, or give the"
                " link more"
            )
        return None

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are here; if there are none, move the clock until something happens.

        It moves to the next arrival of one of ``message_ids``, rise of a cluster with an idle node, or set
        of a cluster, whichever is first, so that a strategy can act on it; the list may still be empty then.
        Unknown ids are ignored. Pass a set (or a dict's keys): anything else is copied into one.
        """
        wanted = message_ids if isinstance(message_ids, Set) else set(message_ids)
        if not (replies := self._take(wanted)):
            self._simulator.advance(wanted)
            replies = self._take(wanted)
        return replies

    def _take(self, wanted: Set[str]) -> list[Message]:
        """Remove and return the wanted replies, in order of arrival."""
        inbox = self._simulator.inbox
        return [inbox.pop(message_id) for message_id in [key for key in inbox if key in wanted]]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push, then pull until all replies are here, ``timeout`` simulated seconds pass, or all is over."""
        waiting = set(self.push_messages(messages))
        until_s = float("inf") if timeout is None else self.now_s + timeout
        replies = self._take(waiting)
        while len(replies) < len(waiting) and not self.is_over and self.now_s < until_s:
            self._simulator.advance(waiting, until_s)
            replies += self._take(waiting)
        return replies

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message (deprecated in Flower; use ``Message``)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def set_run(self, run: Run) -> None:
        """Set the run of Flower's grid."""
        self._inner.set_run(run)

    @property
    def run(self) -> Run:
        """Run of Flower's grid."""
        return self._inner.run
