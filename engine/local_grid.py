"""A Flower Grid that calls the ClientApp itself, for notebooks, debuggers, tests and experiments.

What a strategy, a sky or a client sees is Flower's own: messages, contexts, error replies. What is gone is
the SuperLink, its database, Ray, and the polling between them.
"""

from collections.abc import Iterable
from itertools import count
from time import monotonic, sleep
from typing import Protocol

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from typing_extensions import override

POLL_S = 0.005


class Computer(Protocol):
    """Computes the replies to messages, in this process or elsewhere."""

    @property
    def num_workers(self) -> int:
        """How many messages it computes side by side, >= 1."""

    def start(self, message: Message) -> None:
        """Take a message that has its id; returns at once."""

    def finished(self, message_id: str) -> Message | None:
        """Return the reply to a message it took and forget it; None while there is none."""

    def close(self) -> None:
        """End what it started."""


class LocalGrid(Grid):
    """Nodes 1, 2, ... that lend the workers of a `Computer`.

    Parameters
    ----------
    computer : Computer
        Computes the replies.
    run_id : int
        Of the one run this grid serves.
    """

    def __init__(self, computer: Computer, run_id: int = 1) -> None:
        self._computer = computer
        self._run = Run.create_empty(run_id)
        self._numbers = count()
        self._waiting: set[str] = set()

    @override
    def get_node_ids(self) -> list[int]:
        """Return a node for each worker, ascending."""
        return list(range(1, self._computer.num_workers + 1))

    @override
    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Have the replies computed; returns the messages' ids, in order."""
        pushed = []
        for message in messages:
            message_id = f"local-{next(self._numbers)}"
            message.metadata.__dict__["_message_id"] = message_id  # in place, as Flower's grids do
            self._computer.start(message)
            self._waiting.add(message_id)
            pushed.append(message_id)
        return pushed

    @override
    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are here; without workers they are computed now."""
        replies = []
        for message_id in list(message_ids):
            if message_id in self._waiting and (reply := self._computer.finished(message_id)):
                self._waiting.discard(message_id)
                replies.append(reply)
        return replies

    @override
    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push, then wait for all replies or until ``timeout`` seconds have passed."""
        waiting, replies = set(self.push_messages(messages)), list[Message]()
        end_s = None if timeout is None else monotonic() + timeout
        while waiting:
            arrived = self.pull_messages(waiting)
            replies += arrived
            waiting -= {reply.metadata.reply_to_message_id for reply in arrived}
            if end_s is not None and monotonic() >= end_s:
                break
            if waiting and not arrived:
                sleep(POLL_S)
        return replies

    @override
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

    @override
    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    @override
    def run(self) -> Run:
        """The run."""
        return self._run
