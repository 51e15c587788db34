"""Updates that the link lost: asked for again, merged once, by the versions that they began from."""

from typing import Any

import numpy as np
from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode

from strategy.flights import InFlight
from strategy.messages import (
    METRICS,
    kept_reply,
    profile_instruction,
    read_task,
    said_dispatch,
    train_instruction,
)
from strategy.replies import receive_reply
from strategy.state import EmsFlState
from tests.strategy.test_shared_parts import OWN, rules, state_of
from tests.strategy.world import ArithmeticClient, play, settings


def events_of(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == kind]


CUT = Error(ErrorCode.MESSAGE_UNAVAILABLE, "the object-push session expired")


class CutOff:
    """A node of one cluster whose link loses the uploads of these training messages, by their number."""

    def __init__(self, lost: set[int], *, keeps: bool = True) -> None:
        self.node = ArithmeticClient({1: "A", 2: "B"}, {"A": 0, "B": 1})
        self.lost, self.keeps = lost, keeps
        self.kept: dict[int, tuple[int, RecordDict]] = {}
        self.trained: list[tuple[int, int]] = []
        self.asked: list[tuple[int, ...]] = []

    def __call__(self, message: Message) -> RecordDict | Error:
        node = message.metadata.dst_node_id
        if message.metadata.message_type == "query":
            return self.node(message)
        task = read_task(message)
        dispatch, update = self.kept.get(node, (-1, RecordDict()))
        if dispatch in task.lost and self.keeps:
            content = kept_reply(update, dispatch, message).content
        else:
            content = self.node(message)
            self.kept[node] = (task.dispatch, content)
            self.trained.append((node, task.dispatch))
        if node == 1:
            self.asked.append(task.lost)
        return CUT if node == 1 and task.dispatch in self.lost else content


def ended(client: CutOff, merges: int = 6) -> tuple[EmsFlState, list[dict[str, Any]]]:
    strategy, events = play(client, 2, settings(("A", "B"), max_failures=2), max_merges=merges)  # type: ignore[arg-type]
    return strategy.state, events


def test_a_kept_update_is_sent_again_and_merged_once_as_if_nothing_had_been_lost() -> None:
    client = CutOff({1})
    state, events = ended(client)
    usual, all_usual = ended(CutOff(set()))
    assert [event["node"] for event in events_of(events, "lost")] == [1]
    assert not events_of(events, "refused") and not state.failures and not state.lost
    # Each was trained once, and the same was learned from as many merges of each cluster.
    assert len(client.trained) == len(set(client.trained))
    assert client.asked[:4] == [(), (), (1,), ()]
    assert state.assignment is not None
    for events_of_run in (events, all_usual):
        assert [event["cluster"] for event in events_of(events_of_run, "merged")].count("A") == 3
    own = [key for key in usual.values if key.expert in state.assignment.experts["A"]]
    assert own and all(np.array_equal(state.values[key], usual.values[key]) for key in own)


def test_one_that_is_lost_again_and_again_is_no_failure_of_its_node() -> None:
    client = CutOff({1, 2, 3, 4})
    state, events = ended(client, merges=12)
    assert len(events_of(events, "lost")) == 4
    assert client.asked[:6] == [(), (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]
    assert 1 not in state.refused and [d for node, d in client.trained if node == 1][:3] == [0, 1, 6]


def test_a_node_that_has_it_no_more_trains_anew() -> None:
    client = CutOff({1}, keeps=False)
    state, events = ended(client)
    assert [dispatch for node, dispatch in client.trained if node == 1][:3] == [0, 1, 2]
    assert not state.lost and events_of(events, "merged")


def test_it_is_as_stale_as_the_versions_that_it_began_from_say() -> None:
    state, expert = state_of(), OWN["A"].expert
    now, began = {expert: 5}, {expert: 2}
    state.dispatches[1] = 4
    node = ArithmeticClient({1: "A"}, {"A": 0})
    for number, (versions, dispatch) in enumerate(((began, 3), (now, 4))):
        message = train_instruction(
            1, {OWN["A"]: state.values[OWN["A"]]}, dispatch, lost=state.lost.get(1, ())
        )
        message.metadata.__dict__["_message_id"] = f"m{number}"
        state.in_flight.add(f"m{number}", InFlight(node_id=1, cluster="A", versions=versions))
        if number == 0:
            receive_reply(Message(CUT, reply_to=message), state, rules(), 0.0)
            assert state.lost == {1: {3: began}}
    answer = node(message)
    arrays = answer.array_records["arrays"]
    for name in list(arrays):
        arrays[name] = type(arrays[name])(np.zeros(2, np.float32))
    reply = kept_reply(answer, 3, message)
    assert said_dispatch(reply) == 3 and read_task(message).lost == (3,)
    assert receive_reply(reply, state, rules(), 0.0) is None
    assert state.arrivals["A"][0].versions == began and not state.lost
    assert "dispatch" not in node(message).metric_records[METRICS]


def test_an_error_of_the_superlink_is_of_the_node_that_was_asked_and_no_failure() -> None:
    state = state_of()
    for number, versions in enumerate(({OWN["A"].expert: 2}, {})):
        message = profile_instruction(7) if not versions else train_instruction(7, {}, 0)
        message.metadata.__dict__["_message_id"] = f"m{number}"
        state.dispatches[7] = 1
        state.in_flight.add(
            f"m{number}", InFlight(node_id=7, cluster="A" if versions else "", versions=versions)
        )
        reply = Message(Error(ErrorCode.NODE_UNAVAILABLE, "no heartbeat"), reply_to=message)
        reply.metadata.__dict__["_src_node_id"] = 1  # as Flower does: the SuperLink's own number
        event = receive_reply(reply, state, rules(), 0.0)
        assert event == {
            "event": "lost",
            "node": 7,
            "message": f"m{number}",
            "reason": f"Flower error {ErrorCode.NODE_UNAVAILABLE}: no heartbeat",
        }
    assert state.lost == {7: {0: {OWN["A"].expert: 2}}} and not state.failures and not state.in_flight
