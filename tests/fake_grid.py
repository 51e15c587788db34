"""The one fake of Flower's Grid: a plain Python function is the client, in this process.

    grid = FakeGrid(lambda message: RecordDict({...}), num_nodes=2)

Tests of strategies and of the sky use it; nothing else stands in for Flower.
"""

import threading
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

# Any: a wrapper around a grid's client should not have to tell an error from a reply.
Client = Callable[[Message], Any]


class FakeGrid(Grid):
    """Answer every message by calling ``client``.

    Parameters
    ----------
    client : Callable[[Message], RecordDict | Error | None]
        Returns the reply's content, or the error in its place; None means it never answers; what it raises
        becomes an error reply, as in Flower.
    num_nodes : int
        Nodes 1 .. num_nodes.
    delay : Callable[[int], int]
        Given the running number of a message, after how many pulls of its id it is answered: stands in for
        slow and fast workers. 0 by default.
    """

    def __init__(
        self, client: Client, *, num_nodes: int = 1, delay: Callable[[int], int] = lambda _: 0
    ) -> None:
        # A Message needs a run to belong to; in a real run Flower sets these.
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
        self.client = client
        self.node_ids = list(range(1, num_nodes + 1))
        self.pushed: list[Message] = []  # every message, in order, for tests to look at
        self._delay = delay
        self._run = Run.create_empty(1)
        self._numbers = count()
        self._waiting: dict[str, Message] = {}
        self._pulls_left: dict[str, int] = {}
        self._one_at_a_time = threading.Lock()

    def get_node_ids(self) -> list[int]:
        return list(self.node_ids)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        pushed = []
        for message in messages:
            if message.metadata.dst_node_id not in self.node_ids:
                continue  # as Flower's in-memory grid: left out, not refused
            number = next(self._numbers)
            message.metadata.__dict__["_message_id"] = f"real-{number}"
            self.pushed.append(message)
            self._waiting[f"real-{number}"] = message
            self._pulls_left[f"real-{number}"] = self._delay(number)
            pushed.append(f"real-{number}")
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        # Its nodes are one process with one model; a grid in real time pulls from several threads.
        with self._one_at_a_time:
            return self._pull(message_ids)

    def _pull(self, message_ids: Iterable[str]) -> list[Message]:
        replies = []
        for message_id in list(message_ids):
            if message_id not in self._waiting:
                continue
            if self._pulls_left[message_id] > 0:
                self._pulls_left[message_id] -= 1
                continue
            message = self._waiting[message_id]
            if (reply := self._answer(message)) is not None:
                del self._waiting[message_id]
                replies.append(reply)
        return replies

    def _answer(self, message: Message) -> Message | None:
        """Run the client."""
        try:
            content = self.client(message)
        except Exception as fault:
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, repr(fault)), reply_to=message)
        return None if content is None else Message(content, reply_to=message)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Answer at once; what never answers is left out."""
        del timeout  # nothing here takes time
        pushed = self.push_messages(messages)
        for message_id in pushed:
            self._pulls_left[message_id] = 0
        return self.pull_messages(pushed)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run
