"""The real Flower nodes behind the simulated ones: they only lend their computing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic, sleep

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

# Real messages must outlive any queue of real work; Flower's default of 12 h is wall time here.
INNER_TTL_S = 30 * 86400.0
FIRST_POLL_S, LAST_POLL_S = 0.001, 0.05  # doubling in between: fast for fakes, idle for hours of training
ON_WAIT_EVERY_S = 3.0


@dataclass(slots=True, kw_only=True)
class Workers:
    """Sends the work of simulated nodes to the nodes of a Flower grid and waits for it.

    Parameters
    ----------
    inner : Grid
        Flower's grid.
    on_wait : Callable[[str], None]
        Called about every 3 s of wall time while blocked, with a sentence on what is awaited.
    reply_timeout_wall_s : float
        Give up on a reply when no reply at all has come for so long.
    """

    inner: Grid
    on_wait: Callable[[str], None]
    reply_timeout_wall_s: float
    _real_ids: list[int] = field(default_factory=list)
    _outstanding: dict[str, None] = field(default_factory=dict)  # as an ordered set
    _early: dict[str, Message] = field(default_factory=dict)  # came while another was awaited
    # Time spent waiting since the last reply. It goes on from one wait to the next: when all workers are
    # dead, that is found out once, not once for each message.
    _silence_wall_s: float = 0.0

    def submit(self, node_id: int, content: RecordDict, message_type: str, group_id: str) -> str | Error:
        """Send work of a simulated node to its real one and return the real message's id.

        Returns
        -------
        str or Error
            An error when the grid has no node, or refuses the message, for ``reply_timeout_wall_s``.
        """
        begin_wall_s = monotonic()
        next_word_wall_s = begin_wall_s + ON_WAIT_EVERY_S
        while True:
            self._real_ids = self._real_ids or sorted(self.inner.get_node_ids())
            if self._real_ids:
                real_id = self._real_ids[node_id % len(self._real_ids)]
                message = Message(content, real_id, message_type, ttl=INNER_TTL_S, group_id=group_id)
                # One a push: a refused message is None in one of Flower's grids and left out in the other.
                if (pushed := list(self.inner.push_messages([message]))) and pushed[0]:
                    if not self._outstanding:
                        self._silence_wall_s = 0.0
                    self._outstanding[pushed[0]] = None
                    return pushed[0]
                self._real_ids = []  # the node may be gone: look again
            if monotonic() - begin_wall_s > self.reply_timeout_wall_s:
                reason = f"no Flower node took the work of node {node_id} in {self.reply_timeout_wall_s} s"
                return Error(ErrorCode.NODE_UNAVAILABLE, reason)
            if monotonic() > next_word_wall_s:
                next_word_wall_s += ON_WAIT_EVERY_S
                self.on_wait(f"waiting for a Flower node to take the work of node {node_id}; none is online")
            sleep(LAST_POLL_S)

    def result(self, worker_id: str, node_id: int) -> RecordDict | Error:
        """Block until the work is done and return its content, or what went wrong."""
        begin_wall_s = monotonic()
        next_word_wall_s, poll_s = begin_wall_s + ON_WAIT_EVERY_S, FIRST_POLL_S
        while (reply := self._take(worker_id)) is None:
            wall_s = monotonic()
            if wall_s > next_word_wall_s or self._silence_wall_s > self.reply_timeout_wall_s:
                # Work ahead in the queue is progress too: look for it before giving up.
                self._pull(list(self._outstanding))
                if self._silence_wall_s > self.reply_timeout_wall_s:
                    break
            if wall_s > next_word_wall_s:
                next_word_wall_s = wall_s + ON_WAIT_EVERY_S
                self.on_wait(self._word(node_id, wall_s - begin_wall_s))
            sleep(poll_s)
            self._silence_wall_s += monotonic() - wall_s
            poll_s = min(2 * poll_s, LAST_POLL_S)
        self._outstanding.pop(worker_id, None)
        if reply is None:
            reason = f"no reply of node {node_id} or any other for {self.reply_timeout_wall_s} s of wall time"
            return Error(ErrorCode.NODE_UNAVAILABLE, reason)
        return reply.error if reply.has_error() else reply.content

    def forget(self, worker_id: str) -> None:
        """Take no more interest in work that was submitted."""
        self._outstanding.pop(worker_id, None)
        self._early.pop(worker_id, None)

    def _take(self, worker_id: str) -> Message | None:
        """Return a reply if it is here."""
        if worker_id not in self._early:
            self._pull([worker_id])
        return self._early.pop(worker_id, None)

    def _pull(self, worker_ids: list[str]) -> None:
        """Fetch what has come of these."""
        for reply in self.inner.pull_messages(worker_ids):
            done = reply.metadata.reply_to_message_id
            if done in self._outstanding:
                del self._outstanding[done]
                self._early[done] = reply
                self._silence_wall_s = 0.0

    def _word(self, node_id: int, waited_wall_s: float) -> str:
        """Return a sentence on what is awaited."""
        word = f"waiting for node {node_id}, {waited_wall_s:.0f} s so far; {len(self._outstanding)} at work"
        if not list(self.inner.get_node_ids()):
            word += "; the Flower grid has lost all its nodes"
        return word
