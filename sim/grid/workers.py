"""The real Flower nodes behind the simulated ones: they only lend their computing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import ceil
from time import monotonic, sleep
from typing import Any, NamedTuple

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from sim.grid.groups import OUT_OF_MEMORY, is_group, pack, unpack, wall_s

# Real messages must outlive any queue of real work; Flower's default of 12 h is wall time here.
INNER_TTL_S = 30 * 86400.0
FIRST_POLL_S, LAST_POLL_S = 0.001, 0.05  # doubling in between: fast for fakes, idle for hours of training
ON_WAIT_EVERY_S = 3.0

GROUP_WALL_S = 1.0
"""Computing that one message asks for, about: far more than a message costs, far less than a run."""
MOST_TOGETHER, FIRST_TOGETHER = 128, 8
"""Most nodes whose work travels in one message; and while nobody knows yet what the work of one takes."""


class WorkersLostError(RuntimeError):
    """A worker process died, and with it its place in Flower's pool, which cannot make another."""


class WorkerOutOfMemoryError(RuntimeError):
    """A worker has not the memory for the work of a simulated node."""


class Work(NamedTuple):
    """What a simulated node is to do."""

    work_id: str
    cluster: str
    content: RecordDict
    message_type: str
    group_id: str


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
    is_grouped : bool
        Whether work that is known at one time travels together (`sim.grid.groups`); the ClientApp must then
        have the mod `each_of_group`. Otherwise every node's work is a message of its own, Flower's own way.
    """

    inner: Grid
    on_wait: Callable[[str], None]
    reply_timeout_wall_s: float
    is_grouped: bool = False
    _real_ids: list[int] = field(default_factory=list)
    _numbers: Any = field(default_factory=count)
    _known: dict[str, Work] = field(default_factory=dict)  # not sent yet
    _sent_in: dict[str, str] = field(default_factory=dict)  # work -> real message
    _outstanding: dict[str, list[str]] = field(default_factory=dict)  # real message -> its work, in order
    _early: dict[str, RecordDict | Error] = field(default_factory=dict)  # came while another was awaited
    _next_node: int = 0
    _work_wall_s: float | None = None  # what the work of one node takes, lately
    # Time spent waiting since the last reply. It goes on from one wait to the next: when all workers are
    # dead, that is found out once, not once for each message.
    _silence_wall_s: float = 0.0

    def submit(self, cluster: str, content: RecordDict, message_type: str, group_id: str) -> str:
        """Take work of a simulated node and return its id; it is sent at the next `flush` or `result`."""
        work = Work(f"w{next(self._numbers)}", cluster, content, message_type, group_id)
        self._known[work.work_id] = work
        if not self.is_grouped:
            self.flush()
        return work.work_id

    def flush(self, *, unless_busy: bool = False) -> None:
        """Send everything that is known, in messages that leave no worker idle.

        With ``unless_busy`` it may wait for more to travel with, as long as every node has messages enough
        and what is known would not fill one.

        Work that the grid does not take for ``reply_timeout_wall_s`` has an error as its result.
        """
        if unless_busy and self._may_wait():
            return
        known, self._known = list(self._known.values()), {}
        # The work of a cluster together: it has the same experts, which travel and are loaded once.
        alike: dict[tuple[str, str], list[Work]] = {}
        for work in known:
            alike.setdefault((work.message_type, work.cluster), []).append(work)
        most = self._most_together(len(known)) if known else 1
        for works in alike.values():
            # Equal parts, rather than full ones and a rest.
            size = ceil(len(works) / ceil(len(works) / most))
            for start in range(0, len(works), size):
                self._send(works[start : start + size])

    def _may_wait(self) -> bool:
        if not self._known:
            return True
        if self._work_wall_s is None or len(self._known) * self._work_wall_s > GROUP_WALL_S / 2:
            return False
        self._find_nodes()
        if len(self._outstanding) > len(self._real_ids):
            self._pull(list(self._outstanding))  # some may be done
        return len(self._known) < MOST_TOGETHER and len(self._outstanding) > len(self._real_ids)

    def _most_together(self, num_known: int) -> int:
        """Return how many nodes' work may go into a message."""
        if not self.is_grouped:
            return 1
        together = FIRST_TOGETHER
        if self._work_wall_s is not None:
            together = min(MOST_TOGETHER, max(1, int(GROUP_WALL_S / max(self._work_wall_s, 1e-6))))
        self._find_nodes()
        # A share for every node that has nothing to do; with all at work, messages may as well be full.
        idle = max(1, len(self._real_ids) - len(self._outstanding))
        return min(together, ceil(num_known / idle))

    def _find_nodes(self) -> None:
        self._real_ids = self._real_ids or sorted(self.inner.get_node_ids())

    def _send(self, works: Sequence[Work]) -> None:
        """Send one message."""
        first = works[0]
        content = first.content if len(works) == 1 else pack([work.content for work in works])
        sent = self._push(content, first.message_type, first.group_id, f"{len(works)} of {first.cluster}")
        if isinstance(sent, Error):
            self._early |= dict.fromkeys((work.work_id for work in works), sent)
            return
        self._outstanding[sent] = [work.work_id for work in works]
        self._sent_in |= dict.fromkeys(self._outstanding[sent], sent)

    def _push(self, content: RecordDict, message_type: str, group_id: str, whose: str) -> str | Error:
        begin_wall_s = monotonic()
        next_word_wall_s = begin_wall_s + ON_WAIT_EVERY_S
        while True:
            self._find_nodes()
            if self._real_ids:
                real_id = self._real_ids[self._next_node % len(self._real_ids)]
                self._next_node += 1
                message = Message(content, real_id, message_type, ttl=INNER_TTL_S, group_id=group_id)
                # One a push: a refused message is None in one of Flower's grids and left out in the other.
                if (pushed := list(self.inner.push_messages([message]))) and pushed[0]:
                    if not self._outstanding:
                        self._silence_wall_s = 0.0
                    return pushed[0]
                self._real_ids = []  # the node may be gone: look again
            if monotonic() - begin_wall_s > self.reply_timeout_wall_s:
                reason = f"no Flower node took the work of {whose} in {self.reply_timeout_wall_s} s"
                return Error(ErrorCode.NODE_UNAVAILABLE, reason)
            if monotonic() > next_word_wall_s:
                next_word_wall_s += ON_WAIT_EVERY_S
                self.on_wait(f"waiting for a Flower node to take the work of {whose}; none is online")
            sleep(LAST_POLL_S)

    def result(self, work_id: str, node_id: int) -> RecordDict | Error:
        """Block until the work is done and return its content, or what went wrong.

        Raises
        ------
        WorkersLostError
            If the process that computed it died.
        WorkerOutOfMemoryError
            If the process that computed it, or other work meanwhile, had not the memory.
        """
        self.flush()
        begin_wall_s = monotonic()
        next_word_wall_s, poll_s = begin_wall_s + ON_WAIT_EVERY_S, FIRST_POLL_S
        while (outcome := self._take(work_id)) is None:
            wall_now_s = monotonic()
            if wall_now_s > next_word_wall_s or self._silence_wall_s > self.reply_timeout_wall_s:
                # Work ahead in the queue is progress too: look for it before giving up.
                self._pull(list(self._outstanding))
                if self._silence_wall_s > self.reply_timeout_wall_s:
                    break
            if wall_now_s > next_word_wall_s:
                next_word_wall_s = wall_now_s + ON_WAIT_EVERY_S
                self.on_wait(self._word(node_id, wall_now_s - begin_wall_s))
            sleep(poll_s)
            self._silence_wall_s += monotonic() - wall_now_s
            poll_s = min(2 * poll_s, LAST_POLL_S)
        if outcome is None:
            self.forget(work_id)
            reason = f"no reply of node {node_id} or any other for {self.reply_timeout_wall_s} s of wall time"
            return Error(ErrorCode.NODE_UNAVAILABLE, reason)
        return outcome

    def forget(self, work_id: str) -> None:
        """Take no more interest in work that was submitted."""
        self._known.pop(work_id, None)
        self._early.pop(work_id, None)
        message_id = self._sent_in.pop(work_id, None)
        if message_id and not any(other in self._sent_in for other in self._outstanding[message_id]):
            del self._outstanding[message_id]

    def _take(self, work_id: str) -> RecordDict | Error | None:
        """Return an outcome if it is here."""
        if work_id not in self._early:
            self._pull([self._sent_in[work_id]])
        return self._early.pop(work_id, None)

    def _pull(self, message_ids: list[str]) -> None:
        """Fetch what has come of these."""
        for reply in self.inner.pull_messages(message_ids):
            works = self._outstanding.pop(reply.metadata.reply_to_message_id, None)
            if works is None:
                continue
            self._silence_wall_s = 0.0
            for work_id, outcome in zip(works, self._outcomes(reply, len(works)), strict=True):
                if self._sent_in.pop(work_id, None):  # not forgotten
                    self._early[work_id] = outcome

    def _outcomes(self, reply: Message, num_works: int) -> Sequence[RecordDict | Error]:
        """Return what became of each node's work in a message.

        Lack of memory in a worker is this machine's, not the node's: the run's numbers must not know of it.
        """
        outcomes = self._all_outcomes(reply, num_works)
        for outcome in outcomes:
            if isinstance(outcome, Error) and (outcome.reason or "").startswith(OUT_OF_MEMORY):
                raise WorkerOutOfMemoryError(f"a worker ran {_first_line(outcome.reason)}")
        return outcomes

    def _all_outcomes(self, reply: Message, num_works: int) -> Sequence[RecordDict | Error]:
        if reply.has_error():
            if reply.error.code == ErrorCode.UNKNOWN:
                raise WorkersLostError(
                    "a worker process died (killed, or out of memory), and Flower's pool goes on without it: "
                    f"{_first_line(reply.error.reason)}"
                )
            return [reply.error] * num_works
        if num_works == 1 and not is_group(reply.content):
            return [reply.content]
        each_s = wall_s(reply.content) / num_works
        self._work_wall_s = each_s if self._work_wall_s is None else (self._work_wall_s + each_s) / 2
        return unpack(reply.content)

    def _word(self, node_id: int, waited_wall_s: float) -> str:
        """Return a sentence on what is awaited."""
        at_work = sum(map(len, self._outstanding.values()))
        word = f"waiting for node {node_id}, {waited_wall_s:.0f} s so far; {at_work} at work"
        if not list(self.inner.get_node_ids()):
            word += "; the Flower grid has lost all its nodes"
        return word


def _first_line(reason: str | None) -> str:
    lines = [line.strip() for line in (reason or "no reason given").splitlines() if line.strip()]
    return lines[0][:300] if lines else "no reason given"
