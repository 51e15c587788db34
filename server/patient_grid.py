"""Flower's own grid, made safe for nodes that go dark: for deployment, where no sky is simulated.

Measured on Flower 1.41: pulling the reply of a node that is offline consumes the message and loses
the reply, even one that is already there; and a pull blocks while any of its replies is still
uploading, so that a slow node holds up a fast one. Hence: pull only what belongs to nodes that are
online, one message id at a time, side by side.

A SuperNode that was killed and started again under the same key is online again, and never answers what it
was asked before. So who is online, uploads nothing and is silent for too long has lost it.

Nobody deals the devices out here: every SuperNode says which it hosts. One that names another's is turned
away, so that a device counts once, whatever the strategy.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any

from flwr.app import Error, Message, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from typing_extensions import override

from server.hosts import Hosts, read_host
from sim.grid.message_bytes import ERROR_BYTES, content_bytes
from strategy.messages import METRICS, TURNED_AWAY

MAX_PULLS = 32
"""Replies that are fetched side by side; each may block while its node uploads."""


@dataclass(slots=True)
class _Asked:
    """A message that was handed to Flower, without its content, and how long its node has been silent."""

    message: Message
    silent_s: float = 0.0

    @property
    def node_id(self) -> int:
        """Whom it went to."""
        return self.message.metadata.dst_node_id


class PatientGrid(Grid):
    """A grid that asks only for what can be had, and never twice at once.

    Parameters
    ----------
    inner : Grid
        Flower's.
    clock : callable
        Seconds since the run began, for the events.
    on_event : callable
        Gets ``delivered`` when a message is handed to Flower and ``arrived`` when its reply is here,
        with their bytes; ``crossed`` is empty, because nobody here knows the windows. ``joined`` when a node
        first says which devices it hosts, and ``turned-away`` when they are another's.
    horizon_s : float
        On the clock: `send_and_receive` waits no longer.
    silence_s : float
        Real seconds that a node may be online without answering a message before an error says that it is
        lost; what it does while it is away or uploads does not count. Twice as long for the next message,
        until it answers one.
    """

    def __init__(
        self,
        inner: Grid,
        *,
        clock: Callable[[], float],
        on_event: Callable[[dict[str, Any]], None],
        horizon_s: float = math.inf,
        silence_s: float = math.inf,
    ) -> None:
        self._inner, self._clock, self._on_event = inner, clock, on_event
        self._horizon_s, self._silence_s = horizon_s, silence_s
        self._hosts = Hosts()
        self._told: dict[int, str] = {}
        self._asked: dict[str, _Asked] = {}
        self._given_up_on: Counter[int] = Counter()  # messages to a node in a row
        self._looked_s = monotonic()
        self._pulls: dict[str, Future[list[Message]]] = {}
        self._pool = ThreadPoolExecutor(MAX_PULLS, thread_name_prefix="pull")

    def remember(self, node_id: int, devices: Sequence[int]) -> None:
        """Take in what a node said it hosts before this grid was made."""
        self._hosts.claim(node_id, devices, ())

    @override
    def set_run(self, run: Run) -> None:
        self._inner.set_run(run)

    @property
    @override
    def run(self) -> Run:
        return self._inner.run

    @override
    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return self._inner.create_message(content, message_type, dst_node_id, group_id, ttl)

    @override
    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes that are online and not turned away."""
        online = list(self._inner.get_node_ids())
        return [node_id for node_id in online if not self._hosts.is_turned_away(node_id, set(online))]

    @override
    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push one by one; a message Flower refuses has no id in the result."""
        pushed = []
        for message in messages:
            for message_id in self._inner.push_messages([message]):
                if message_id:
                    self._asked[message_id] = _Asked(make_message(message.metadata, RecordDict()))
                    pushed.append(message_id)
                    self._log("delivered", message_id, message.metadata.dst_node_id, message)
        return pushed

    @override
    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are here, without waiting for those that are not."""
        message_ids = list(message_ids)
        online = set(self._inner.get_node_ids())
        finished = [message_id for message_id, pull in self._pulls.items() if pull.done()]
        replies = [reply for message_id in finished for reply in self._pulls.pop(message_id).result()]
        for reply in replies:
            message_id = reply.metadata.reply_to_message_id
            node_id = self._asked.pop(message_id).node_id
            del self._given_up_on[node_id]
            self._log("arrived", message_id, node_id, reply)
        lost = self._given_up(finished)
        for message_id in message_ids:
            asked = self._asked.get(message_id)
            if asked and message_id not in self._pulls and asked.node_id in online:
                self._pulls[message_id] = self._pool.submit(self._pull, message_id)
        return [*(self._admitted(reply, online) for reply in replies), *lost]

    @override
    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """As Flower's, with patience for nodes that are away; ``timeout`` in real seconds."""
        waiting, replies = set(self.push_messages(messages)), list[Message]()
        end_s = None if timeout is None else monotonic() + timeout
        while waiting and (end_s is None or monotonic() < end_s) and self._clock() < self._horizon_s:
            arrived = list(self.pull_messages(waiting))
            replies += arrived
            waiting -= {reply.metadata.reply_to_message_id for reply in arrived}
            sleep(0.5)
        return replies

    def _given_up(self, looked_for: Collection[str]) -> list[Message]:
        """Return an error in place of each answer that a node in contact has owed for too long.

        Only what was just looked for in vain counts: a pull that goes on is an upload, and of a node that is
        away nothing is pulled. An answer that comes after all is never asked for.
        """
        now_s = monotonic()
        since_s, self._looked_s = now_s - self._looked_s, now_s
        lost = []
        for message_id in set(looked_for).intersection(self._asked):
            asked = self._asked[message_id]
            asked.silent_s += since_s
            # Twice as long each time: a node that is only slow must come to its end.
            if asked.silent_s >= self._silence_s * 2.0 ** self._given_up_on[asked.node_id]:
                reason = (
                    f"no answer in {asked.silent_s:.0f} s of contact: its SuperNode was started again, or it "
                    "needs longer than run.silence-s"
                )
                del self._asked[message_id]
                self._given_up_on[asked.node_id] += 1
                lost.append(Message(Error(ErrorCode.MESSAGE_UNAVAILABLE, reason), reply_to=asked.message))
        return lost

    def _admitted(self, reply: Message, online: set[int]) -> Message:
        """Return a reply, or an error in its place if the devices it is for are another node's."""
        if (host := read_host(reply)) is None:
            return reply
        (cluster, devices), node_id = host, reply.metadata.src_node_id
        reason = self._hosts.claim(node_id, devices, online)
        if self._told.get(node_id) != reason:
            self._told[node_id] = reason
            news = {"event": "turned-away", "reason": reason} if reason else {"event": "joined"}
            who = {"node": node_id, "cluster": cluster, "devices": list(devices)}
            self._on_event({"time_s": self._clock(), **news, **who})
        return make_message(reply.metadata, error=Error(TURNED_AWAY, reason)) if reason else reply

    def _log(self, kind: str, message_id: str, node_id: int, message: Message) -> None:
        carried = content_bytes(message.content) if message.has_content() else ERROR_BYTES
        self._on_event(
            _steps(message)
            | {
                "event": kind,
                "time_s": self._clock(),
                "node": node_id,
                "message": message_id,
                "type": message.metadata.message_type,
                "bytes": carried,
                "crossed": [],
            }
        )

    def _pull(self, message_id: str) -> list[Message]:
        return list(self._inner.pull_messages([message_id]))


def _steps(message: Message) -> dict[str, Any]:
    """Return the local steps that an update says each of its devices took; nothing for other messages."""
    metrics = message.content.metric_records.get(METRICS) if message.has_content() else None
    return {"steps": metrics["local-steps"]} if metrics is not None and "local-steps" in metrics else {}
