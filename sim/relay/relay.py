"""A TCP relay between nodes and a SuperLink that carries bytes only inside contacts, at the plan's rates.

Each node has a port of its own. What comes there waits until the plan says that it is across, and is then
written on the other side. Outside contacts nothing moves: who is connected sees a link that is silent, as a
radio's is, not one that was closed, and who connects anew is refused. (By radio it would wait for an answer;
here this machine would answer, and TLS would begin and fail.) The bytes are not looked at: TLS goes through.

The nodes of a cluster share its link: whose bytes are there first cross first.
"""

import asyncio
import math
import socket
import struct
import time
from asyncio import Queue, StreamReader, StreamWriter
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from sim.grid.capacity import Capacity
from sim.plans.plan import DIRECTIONS, Contact, ContactPlan, Direction
from sim.relay.crossing import Crossing

CHUNK_BYTES = 16_384
"""Most bytes that cross as one: on a slow link others wait behind them."""
_IN_FLIGHT = 64
"""Chunks that are across and wait for the light to arrive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What a node's link carried in one contact."""

    cluster: str
    port: int
    rise_s: float
    set_s: float
    down_bytes: int
    up_bytes: int


class Relay:
    """The links of some nodes, for as long as the plan lasts.

    Parameters
    ----------
    plan : ContactPlan
        When each cluster is reached, and at which rates.
    nodes : Mapping[int, str]
        Port to listen on -> cluster of the plan.
    host : str
        Address to listen on.
    superlink : tuple of str and int
        Host and port of the other side.
    speed : float
        Seconds of the plan in a real second, > 0. Rates grow by it too, so that a contact carries the same
        bytes.
    loss : float
        As of `Crossing`.
    seed : int
        Of what is lost.
    on_contact : callable
        Receives a cluster's contact when it begins.
    on_carried : callable
        Receives what each node's link carried, when the contact is over.
    """

    def __init__(
        self,
        plan: ContactPlan,
        nodes: Mapping[int, str],
        superlink: tuple[str, int],
        *,
        host: str = "127.0.0.1",
        speed: float = 1.0,
        loss: float = 0.0,
        seed: int = 0,
        on_contact: Callable[[str, Contact], None] = lambda _cluster, _contact: None,
        on_carried: Callable[[Carried], None] = lambda _carried: None,
    ) -> None:
        self._plan, self._nodes, self._superlink, self._host = plan, dict(nodes), superlink, host
        self._speed, self._on_contact, self._on_carried = speed, on_contact, on_carried
        rng = np.random.default_rng(seed)
        self._links = {
            (cluster, direction): Crossing(
                Capacity(contacts=plan.contacts[cluster], direction=direction), loss, rng
            )
            for cluster in sorted(set(self._nodes.values()))
            for direction in DIRECTIONS
        }
        self._counts: Counter[tuple[int, float, Direction]] = Counter()
        self._began_s = math.nan
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def now_s(self) -> float:
        """Seconds of the plan."""
        return (time.monotonic() - self._began_s) * self._speed

    async def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Carry bytes until the plan's horizon.

        Raises
        ------
        OSError
            If a port cannot be listened on.
        """
        for port in self._nodes:
            (await asyncio.start_server(self._accept(port), self._host, port)).close()  # it can be had
        self._began_s = time.monotonic()
        watches = [
            asyncio.ensure_future(self._watch(cluster)) for cluster in sorted(set(self._nodes.values()))
        ]
        try:
            on_ready()
            await asyncio.gather(self._until(self._plan.horizon_s), *watches)
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, port: int) -> Callable[[StreamReader, StreamWriter], None]:
        def accept(reader: StreamReader, writer: StreamWriter) -> None:
            task = asyncio.ensure_future(self._connect(port, reader, writer))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

        return accept

    async def _connect(self, port: int, node: StreamReader, to_node: StreamWriter) -> None:
        """Carry one connection both ways until either side ends it."""
        try:
            superlink, to_superlink = await asyncio.open_connection(*self._superlink)
        except OSError:
            _reset(to_node)
            return
        ways = [
            asyncio.ensure_future(self._carry(port, "up", node, to_superlink)),
            asyncio.ensure_future(self._carry(port, "down", superlink, to_node)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for writer in (to_node, to_superlink):
                writer.close()

    async def _carry(self, port: int, way: Direction, reader: StreamReader, writer: StreamWriter) -> None:
        """Carry one way of a connection: onto the link when it is free, then as far as light takes."""
        flying: Queue[tuple[float, bytes]] = Queue(_IN_FLIGHT)
        cluster = self._nodes[port]
        # A group, so that a side that is gone ends the reading too, also where it waits for room.
        async with asyncio.TaskGroup() as both:
            both.create_task(self._land(flying, writer))
            while chunk := await reader.read(CHUNK_BYTES):
                across_s = self._links[cluster, way].across_s(self.now_s, len(chunk))
                await self._until(across_s)
                contact = self._contact_of(cluster, across_s)
                self._counts[port, contact.rise_s, way] += len(chunk)
                await flying.put((across_s + contact.delay_s, chunk))
            await flying.put((self.now_s, b""))

    async def _land(self, flying: "Queue[tuple[float, bytes]]", writer: StreamWriter) -> None:
        while True:
            lands_s, chunk = await flying.get()
            await self._until(lands_s)
            if not chunk:
                with suppress(OSError):
                    writer.write_eof()
                return
            writer.write(chunk)
            await writer.drain()

    def _contact_of(self, cluster: str, time_s: float) -> Contact:
        """Return the contact in which bytes cross; they may be across in the instant of its set."""
        return next(c for c in reversed(self._plan.contacts[cluster]) if c.rise_s <= time_s)

    async def _watch(self, cluster: str) -> None:
        """Let a cluster's nodes connect in each contact; tell of it as it begins, and what it carried."""
        ports = [port for port, of in self._nodes.items() if of == cluster]
        for contact in self._plan.contacts[cluster]:
            await self._until(contact.rise_s)
            servers = [await asyncio.start_server(self._accept(port), self._host, port) for port in ports]
            try:
                self._on_contact(cluster, contact)
                await self._until(contact.set_s)
            finally:
                for server in servers:
                    server.close()
            for port in ports:
                self._on_carried(self._carried(cluster, port, contact))

    def _carried(self, cluster: str, port: int, contact: Contact) -> Carried:
        down, up = (self._counts[port, contact.rise_s, way] for way in DIRECTIONS)
        return Carried(
            cluster=cluster,
            port=port,
            rise_s=contact.rise_s,
            set_s=contact.set_s,
            down_bytes=down,
            up_bytes=up,
        )

    async def _until(self, time_s: float) -> None:
        """Wait for a time of the plan; for good where it never comes."""
        if math.isinf(time_s):
            await asyncio.Event().wait()
        # The clock may be a hair early when the wait is over; nothing may cross before its time.
        while (left_s := (time_s - self.now_s) / self._speed) > 0:
            await asyncio.sleep(left_s)


def _reset(writer: StreamWriter) -> None:
    """End a connection by a reset, as near to "refused" as can be: it is no end that TLS could take for one.

    Without the option, a close resets only where bytes lie unread in the kernel.
    """
    at_once = struct.pack("ii", 1, 0)  # struct linger: on, 0 s
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    writer.transport.abort()
