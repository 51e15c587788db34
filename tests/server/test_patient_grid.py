"""Flower's grid made patient: nothing is asked of a node that is away, and nobody waits for the slow."""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode

from server.patient_grid import PatientGrid
from tests.fake_grid import FakeGrid


class Deployed(FakeGrid):
    """A fake that behaves as Flower 1.41: a pull for an offline node consumes the message."""

    def __init__(self, **more: Any) -> None:
        super().__init__(lambda _: RecordDict(), num_nodes=3, **more)
        self.offline: set[int] = set()
        self.lost: list[str] = []
        self.blocks: dict[str, threading.Event] = {}

    def get_node_ids(self) -> list[int]:
        return [node for node in self.node_ids if node not in self.offline]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        message_ids = list(message_ids)
        assert len(message_ids) == 1, "one id a pull"
        message = self._waiting.get(message_ids[0])
        if message is not None and message.metadata.dst_node_id in self.offline:
            self.lost.append(message_ids[0])
            del self._waiting[message_ids[0]]
        if message_ids[0] in self.blocks:
            self.blocks[message_ids[0]].wait(10)
        return super().pull_messages(message_ids)


def patient(inner: FakeGrid) -> tuple[PatientGrid, list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    return PatientGrid(inner, clock=lambda: 1.0, on_event=events.append), events


def pull_until(grid: PatientGrid, ids: list[str], enough: Callable[[list[Message]], bool]) -> list[Message]:
    replies: list[Message] = []
    for _ in range(500):
        replies += grid.pull_messages(ids)
        if enough(replies):
            return replies
        time.sleep(0.01)
    raise AssertionError(f"only {len(replies)} replies came")


def test_the_reply_of_a_node_that_is_away_is_kept_for_its_return() -> None:
    inner = Deployed()
    grid, _ = patient(inner)
    ids = list(grid.push_messages([Message(RecordDict(), node, "train") for node in (1, 2)]))
    inner.offline = {2}
    first = pull_until(grid, ids, lambda replies: len(replies) == 1)
    assert first[0].metadata.src_node_id == 1
    for _ in range(20):
        assert not list(grid.pull_messages(ids))
    assert not inner.lost
    inner.offline = set()
    assert pull_until(grid, ids, lambda replies: len(replies) == 1)[0].metadata.src_node_id == 2


def test_a_reply_that_is_still_uploading_holds_up_nobody() -> None:
    inner = Deployed()
    grid, _ = patient(inner)
    ids = list(grid.push_messages([Message(RecordDict(), node, "train") for node in (1, 2)]))
    inner.blocks[ids[0]] = threading.Event()
    replies = pull_until(grid, ids, lambda replies: len(replies) == 1)
    assert replies[0].metadata.src_node_id == 2
    inner.blocks[ids[0]].set()
    assert pull_until(grid, ids, lambda replies: len(replies) == 1)[0].metadata.src_node_id == 1


def test_events_say_what_went_down_and_what_came_up() -> None:
    grid, events = patient(Deployed())
    ids = list(grid.push_messages([Message(RecordDict(), 3, "query")]))
    pull_until(grid, ids, lambda replies: len(replies) == 1)
    assert [(e["event"], e["node"], e["type"], e["crossed"]) for e in events] == [
        ("delivered", 3, "query", []),
        ("arrived", 3, "query", []),
    ]
    assert all(event["bytes"] >= 1 and event["message"] == ids[0] for event in events)


def test_send_and_receive_waits_for_all_or_for_its_timeout() -> None:
    inner = Deployed()
    grid, _ = patient(inner)
    assert len(list(grid.send_and_receive([Message(RecordDict(), n, "train") for n in (1, 2, 3)]))) == 3
    inner.offline = {2}
    some = list(grid.send_and_receive([Message(RecordDict(), n, "train") for n in (1, 2)], timeout=0.6))
    assert [reply.metadata.src_node_id for reply in some] == [1]
    assert not inner.lost


def test_a_message_for_an_unknown_node_has_no_id() -> None:
    grid, _ = patient(Deployed())
    assert list(grid.push_messages([Message(RecordDict(), 99, "train")])) == []


def test_what_a_node_in_contact_is_silent_about_for_too_long_is_lost_and_its_late_answer_nobodys() -> None:
    inner = Deployed(delay=lambda number: 10**9 if number == 0 else 0)
    events: list[dict[str, Any]] = []
    grid = PatientGrid(inner, clock=lambda: 1.0, on_event=events.append, silence_s=0.2)
    ids = list(grid.push_messages([Message(RecordDict(), node, "train") for node in (1, 2)]))
    replies = pull_until(grid, ids, lambda replies: len(replies) == 2)
    assert [(reply.metadata.reply_to_message_id, reply.has_error()) for reply in replies] == [
        (ids[1], False),
        (ids[0], True),
    ]
    error = replies[1].error
    assert error.code == ErrorCode.MESSAGE_UNAVAILABLE and "its SuperNode was started again" in str(
        error.reason
    )
    inner._pulls_left[ids[0]] = 0
    for _ in range(20):
        assert not list(grid.pull_messages(ids))
    assert [event["message"] for event in events if event["event"] == "arrived"] == [ids[1]]
    # The next one is waited for twice as long.
    inner._delay = lambda _: 10**9
    began_s = time.monotonic()
    again = list(grid.push_messages([Message(RecordDict(), 1, "train")]))
    assert pull_until(grid, again, lambda replies: len(replies) == 1)[0].has_error()
    assert time.monotonic() - began_s >= 0.4


def test_silence_counts_neither_while_a_node_is_away_nor_while_it_uploads() -> None:
    inner = Deployed(delay=lambda _: 10**9)
    grid = PatientGrid(inner, clock=lambda: 1.0, on_event=lambda _: None, silence_s=0.2)
    ids = list(grid.push_messages([Message(RecordDict(), node, "train") for node in (1, 2)]))
    inner.offline = {1}
    inner.blocks[ids[1]] = threading.Event()
    end_s = time.monotonic() + 0.6
    while time.monotonic() < end_s:
        assert not list(grid.pull_messages(ids))
        time.sleep(0.01)
    inner._pulls_left = dict.fromkeys(ids, 0)
    inner.offline = set()
    inner.blocks[ids[1]].set()
    assert not any(reply.has_error() for reply in pull_until(grid, ids, lambda replies: len(replies) == 2))
