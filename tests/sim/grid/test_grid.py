"""The simulated sky as a strategy meets it, on skies worked out by hand."""

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.serde import recorddict_to_proto

from sim.grid.message_bytes import ERROR_BYTES, content_bytes
from tests.fake_grid import FakeGrid
from tests.sim.grid.skies import answering, flat, payload, run_until, sky, train

ONE_CLUSTER = {"A": [flat(100.0, 200.0, 10.0, 5.0), flat(1000.0, 1100.0, 10.0, 5.0)]}


def test_a_message_goes_down_in_a_contact_trains_through_the_gap_and_comes_up_in_the_next() -> None:
    grid, log = sky(ONE_CLUSTER, {"A": [30.0]})
    (message_id,) = grid.push_messages([train(1, 500)])
    replies = run_until(grid, lambda: len(log) == 3, {message_id})
    # 500 bytes at 10 B/s from the rise at 100 s; 850 s to the next rise hold 28 steps of 30 s; 100 bytes at
    # 5 B/s.
    delivered, trained, arrived = log
    assert delivered == {
        "event": "delivered",
        "time_s": 150.0,
        "node": 1,
        "cluster": "A",
        "message": "m000000",
        "type": "train",
        "steps": 28,
        "bytes": 500,
        "crossed": [[100.0, 500]],
    }
    assert (trained["event"], trained["time_s"], trained["bytes"]) == ("trained", 150.0 + 28 * 30.0, 100)
    assert (arrived["event"], arrived["time_s"], arrived["crossed"]) == ("arrived", 1020.0, [[1000.0, 100]])
    assert grid.now_s == 1020.0
    assert [reply.metadata.reply_to_message_id for reply in replies] == ["m000000"]
    assert replies[0].metadata.src_node_id == 1


def test_a_transfer_stops_at_set_and_goes_on_at_the_next_rise() -> None:
    grid, log = sky(ONE_CLUSTER, {"A": [30.0]})
    message_id = grid.push_messages([train(1, 1300)])[0]
    run_until(grid, lambda: len(log) == 1, {message_id})
    assert log[0]["time_s"] == 1030.0
    assert log[0]["crossed"] == [[100.0, 1000.0], [1000.0, 300.0]]


def test_a_message_that_exactly_fits_its_contact_is_across_at_set() -> None:
    grid, log = sky(ONE_CLUSTER, {"A": [30.0]})
    run_until(grid, lambda: len(log) == 1, set(grid.push_messages([train(1, 1000)])))
    assert (log[0]["time_s"], log[0]["crossed"]) == (200.0, [[100.0, 1000.0]])


def test_two_transfers_share_a_contact_equally_and_the_first_to_end_gives_way() -> None:
    grid, log = sky(ONE_CLUSTER, {"A": [1.0, 1.0]})
    ids = grid.push_messages([train(1, 200), train(2, 400)])
    run_until(grid, lambda: len(log) >= 2, set(ids))
    # 5 B/s each until 200 bytes are across at 140 s, then 200 bytes at 10 B/s.
    assert [(event["node"], event["time_s"]) for event in log[:2]] == [(1, 140.0), (2, 160.0)]


def test_light_time_delays_the_delivery_but_not_the_crossing() -> None:
    grid, log = sky({"A": [flat(100.0, 200.0, 10.0, 5.0, delay_s=0.25)]}, {"A": [30.0]})
    run_until(grid, lambda: len(log) == 1, set(grid.push_messages([train(1, 1000)])))
    assert (log[0]["time_s"], log[0]["crossed"]) == (200.25, [[100.0, 1000.0]])


def test_steps_are_bounded_and_queries_take_their_own() -> None:
    grid, log = sky(ONE_CLUSTER, {"A": [30.0, 30.0, 1000.0]}, min_steps=3, max_steps=20, query_steps=2)
    grid.push_messages([train(1, 100), train(2, 100, kind="query.routing"), train(3, 100)])
    run_until(grid, lambda: len(log) >= 3, set())
    assert {event["node"]: event["steps"] for event in log if event["event"] == "delivered"} == {
        1: 20,
        2: 2,
        3: 3,
    }


def test_what_a_node_only_keeps_takes_no_time_and_its_freight_counts_on_the_link() -> None:
    grid, log = sky(ONE_CLUSTER, {"A": [30.0]}, freight=lambda content: 400 if "x" in content else 0)
    ids = set(grid.push_messages([train(1, 100, kind="query.deliver")]))
    replies = run_until(grid, lambda: len(log) == 3, ids)
    # 500 bytes at 10 B/s, no step, and 100 at 5 B/s up: a reply carries no freight.
    assert [(event["event"], event["time_s"], event["bytes"]) for event in log] == [
        ("delivered", 150.0, 500),
        ("trained", 150.0, 100),
        ("arrived", 170.0, 100),
    ]
    assert log[0]["steps"] == 0 and len(replies) == 1


def test_freight_that_no_contacts_together_carry_is_refused() -> None:
    grid, _ = sky(ONE_CLUSTER, {"A": [30.0]}, freight=lambda _: 2000)
    with pytest.raises(ValueError, match="a message of 2100 bytes to node 1 can never be delivered"):
        grid.push_messages([train(1, 100, kind="query.deliver")])


def test_after_the_last_contact_steps_fill_the_time_to_the_horizon() -> None:
    grid, log = sky({"A": [flat(0.0, 100.0, 10.0, 5.0)]}, {"A": [30.0]}, horizon_s=1000.0)
    grid.push_messages([train(1, 100)])
    run_until(grid, lambda: False, set())
    assert log[0]["steps"] == 33  # (1000 - 10) / 30


def test_work_that_ends_after_the_last_contact_is_not_computed() -> None:
    inner = FakeGrid(answering(100))
    grid, log = sky(ONE_CLUSTER, {"A": [30.0, 2000.0, 30.0]}, inner=inner)
    grid.push_messages([train(1, 100), train(2, 100), train(3, 100, ttl=500.0)])
    run_until(grid, lambda: False, set())
    computed = [message.content.config_records["sky"]["node"] for message in inner.pushed]
    assert computed == [1]  # node 2 ends at 2130 s, the last set is at 1100 s; node 3's TTL ends in the gap
    assert [event["node"] for event in log if event["event"] == "delivered"] == [1, 2, 3]


def test_a_node_does_one_thing_at_a_time() -> None:
    grid, log = sky(ONE_CLUSTER, {"A": [30.0]}, query_steps=2)
    grid.push_messages([train(1, 100, kind="query"), train(1, 100, kind="evaluate")])
    run_until(grid, lambda: grid.now_s > 300.0, set())
    trained = [event["time_s"] for event in log if event["event"] == "trained"]
    assert trained == [180.0, 240.0]  # both delivered at 120 s


def test_the_client_is_told_what_the_sky_decided() -> None:
    seen: list[ConfigRecord] = []

    def client(message: Message) -> RecordDict:
        seen.append(message.content.config_records["sky"])
        return payload(50)

    grid, _ = sky(ONE_CLUSTER, {"A": [30.0, 30.0]}, client=client)
    run_until(grid, lambda: bool(seen), set(grid.push_messages([train(2, 500)])))
    assert dict(seen[0]) == {"cluster": "A", "devices": [1], "local-steps": 28, "time-s": 150.0, "node": 2}


def test_only_nodes_in_view_are_shown_unless_all_are_asked_for() -> None:
    contacts = {"A": [flat(0.0, 100.0, 1.0, 1.0)], "B": [flat(50.0, 200.0, 1.0, 1.0)]}
    grid, _ = sky(contacts, {"A": [1.0, 1.0], "B": [1.0]})
    seen = [(grid.now_s, grid.get_node_ids())]
    while not grid.is_over:
        grid.pull_messages([])
        seen.append((grid.now_s, grid.get_node_ids()))
    assert seen == [(0.0, [1, 2]), (50.0, [1, 2, 3]), (100.0, [3]), (200.0, []), (10_000.0, [])]
    assert sky(contacts, {"A": [1.0, 1.0], "B": [1.0]}, visibility="all")[0].get_node_ids() == [1, 2, 3]


def test_pulling_wakes_at_a_rise_only_when_the_cluster_has_an_idle_node() -> None:
    grid, log = sky(ONE_CLUSTER, {"A": [2000.0]})
    ids = set(grid.push_messages([train(1, 500)]))
    wakes = []
    while not grid.is_over:
        grid.pull_messages(ids)
        wakes.append(grid.now_s)
    # Busy from the push on: no wake at 100 s or 1000 s, but at the sets and the horizon.
    assert wakes == [200.0, 1100.0, 10_000.0]
    assert [event["event"] for event in log] == ["delivered", "unfinished"]


def test_replies_that_are_here_are_returned_without_moving_the_clock() -> None:
    grid, log = sky(ONE_CLUSTER, {"A": [30.0, 30.0]})
    ids = grid.push_messages([train(1, 100), train(2, 100)])
    run_until(grid, lambda: len(log) == 6, {ids[0]})
    now_s = grid.now_s
    assert len(grid.pull_messages([ids[1]])) == 1
    assert grid.now_s == now_s


def test_expects_says_whether_a_reply_can_come_in_the_present_contact() -> None:
    contacts = {
        "A": [flat(0.0, 100.0, 10.0, 5.0), flat(1000.0, 1100.0, 10.0, 5.0)],
        "B": [flat(0.0, 2000.0, 1.0, 1.0)],
    }
    grid, _ = sky(contacts, {"A": [30.0, 30.0], "B": [1.0]}, query_steps=2, client=answering(30))
    training, query, never = grid.push_messages([train(1, 300), train(2, 100, kind="query"), train(2, 1500)])
    assert not grid.expects(training)  # ends just before the next rise
    assert grid.expects(query)
    assert not grid.expects(never)  # 1500 bytes do not fit into 1000
    assert not grid.expects("m000099")
    grid.send_and_receive([train(3, 20)], timeout=85.0)
    assert grid.now_s == 85.0
    assert not grid.expects(training)
    assert grid.expects(query)
    run_until(grid, lambda: grid.now_s >= 100.0, {training, never})
    assert grid.expects(query)  # arrived, not pulled


def test_a_reply_that_cannot_fit_what_is_left_of_the_contact_is_not_expected() -> None:
    contacts = {"A": [flat(0.0, 100.0, 100.0, 5.0)], "far": [flat(5000.0, 5100.0, 100.0, 5.0)]}
    for reply_bytes, fits in ((200, True), (445, True), (446, False)):  # 89 s x 5 B/s = 445 bytes
        grid, _ = sky(contacts, {"A": [10.0], "far": [1.0]}, client=answering(reply_bytes))
        (query,) = grid.push_messages([train(1, 100, kind="query")])
        grid.send_and_receive([train(2, 20)], timeout=5.0)
        assert grid.expects(query)  # how large the reply will be is not known yet
        grid.send_and_receive([train(2, 20)], timeout=7.0)
        assert grid.expects(query) == fits


def test_a_message_larger_than_all_contacts_is_refused_with_the_numbers() -> None:
    grid, log = sky(ONE_CLUSTER, {"A": [30.0]})
    with pytest.raises(
        ValueError, match=r"2001 bytes to node 1 .* cluster 'A' together carry 2000 bytes down"
    ):
        grid.push_messages([train(1, 100), train(1, 2001)])
    grid.push_messages([train(1, 2000)])
    run_until(grid, lambda: bool(log), set())
    assert [event["message"] for event in log] == ["m000000"]  # of the refused push, nothing was sent


def test_unknown_nodes_are_refused_all_at_once() -> None:
    grid, _ = sky(ONE_CLUSTER, {"A": [30.0]})
    with pytest.raises(ValueError, match=r"no node 2 .*\n.*no node 7 .*nodes are 1 to 1"):
        grid.push_messages([train(2, 100), train(1, 100), train(7, 100)])


def test_a_client_that_raises_gives_a_small_error_reply() -> None:
    def client(_: Message) -> RecordDict:
        raise RuntimeError("no data")

    grid, log = sky(ONE_CLUSTER, {"A": [30.0]}, client=client)
    (reply,) = run_until(grid, lambda: len(log) == 3, set(grid.push_messages([train(1, 500)])))
    assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert "no data" in (reply.error.reason or "")
    assert (log[2]["bytes"], log[2]["error"]) == (ERROR_BYTES, ErrorCode.CLIENT_APP_RAISED_EXCEPTION)


def test_a_client_that_never_answers_gives_an_error_reply_and_the_run_goes_on() -> None:
    def client(message: Message) -> RecordDict | None:
        return None if message.content["sky"]["node"] == 1 else payload(100)

    grid, log = sky(ONE_CLUSTER, {"A": [30.0, 30.0]}, client=client, reply_timeout_wall_s=0.1)
    replies = run_until(grid, lambda: len(log) == 6, set(grid.push_messages([train(1, 100), train(2, 100)])))
    assert {reply.metadata.src_node_id: reply.has_error() for reply in replies} == {1: True, 2: False}


def test_dead_workers_are_found_out_once_not_once_for_each_message(monkeypatch: pytest.MonkeyPatch) -> None:
    slept_s = [0.0]

    def sleep(seconds: float) -> None:
        slept_s[0] += seconds

    monkeypatch.setattr("sim.grid.workers.sleep", sleep)
    monkeypatch.setattr("sim.grid.workers.monotonic", lambda: slept_s[0])
    grid, log = sky({"A": [flat(0.0, 9000.0, 1e6, 1e6)]}, {"A": [30.0] * 20}, client=lambda _: None)
    ids = set(grid.push_messages([train(node_id, 20, kind="query") for node_id in range(1, 21)]))
    replies = run_until(grid, lambda: len(log) == 60, ids)
    assert [reply.error.code for reply in replies] == [ErrorCode.NODE_UNAVAILABLE] * 20
    assert 600.0 < slept_s[0] < 700.0


def test_a_grid_without_nodes_says_so_and_gives_an_error_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.grid.workers.ON_WAIT_EVERY_S", 0.02)
    inner = FakeGrid(answering(100))
    words: list[str] = []
    inner.node_ids.clear()
    grid, log = sky(ONE_CLUSTER, {"A": [30.0]}, inner=inner, reply_timeout_wall_s=0.2, on_wait=words.append)
    (reply,) = run_until(grid, lambda: len(log) == 3, set(grid.push_messages([train(1, 100)])))
    assert reply.error.code == ErrorCode.NODE_UNAVAILABLE
    assert any("none is online" in word for word in words)


def test_nodes_lost_while_waiting_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.grid.workers.ON_WAIT_EVERY_S", 0.02)
    words: list[str] = []

    def client(_: Message) -> None:
        inner.node_ids.clear()

    inner = FakeGrid(client)
    grid, log = sky(ONE_CLUSTER, {"A": [30.0]}, inner=inner, reply_timeout_wall_s=0.2, on_wait=words.append)
    run_until(grid, lambda: len(log) == 3, set(grid.push_messages([train(1, 100)])))
    assert any("lost all its nodes" in word for word in words)


def test_a_chosen_ttl_ends_in_simulated_time_wherever_the_message_is() -> None:
    for ttl, phase, carried in ((150.0, "down", 500.0), (500.0, "working", 0), (1015.0, "up", 75.0)):
        grid, log = sky(ONE_CLUSTER, {"A": [30.0]})
        ids = set(grid.push_messages([train(1, 1000 if phase == "down" else 500, ttl=ttl)]))
        replies: list[Message] = []
        while not replies:
            replies = grid.pull_messages(ids)
        assert replies[0].error.code == ErrorCode.MESSAGE_UNAVAILABLE
        assert (grid.now_s, log[-1]["event"]) == (ttl, "expired")
        assert (log[-1]["phase"], log[-1]["bytes"]) == (phase, carried)


def test_flowers_default_ttl_means_until_the_horizon() -> None:
    contacts = {"A": [flat(0.0, 100.0, 10.0, 5.0), flat(90_000.0, 90_100.0, 10.0, 5.0)]}
    grid, log = sky(contacts, {"A": [30.0]}, horizon_s=100_000.0)
    (reply,) = run_until(grid, lambda: len(log) == 3, set(grid.push_messages([train(1, 100)])))
    assert reply.has_content()


def test_a_reply_too_large_for_all_contacts_becomes_an_error() -> None:
    grid, log = sky(ONE_CLUSTER, {"A": [30.0]}, client=answering(1001))
    (reply,) = run_until(grid, lambda: len(log) == 3, set(grid.push_messages([train(1, 100)])))
    assert "1001 bytes" in (reply.error.reason or "")


def test_after_the_horizon_nothing_arrives_for_ever() -> None:
    grid, log = sky(ONE_CLUSTER, {"A": [30.0]}, client=answering(900))
    ids = set(grid.push_messages([train(1, 100)]))
    while not grid.is_over:
        grid.pull_messages(ids)
    assert (grid.now_s, log[-1]["event"], log[-1]["phase"]) == (10_000.0, "unfinished", "up")
    assert log[-1]["crossed"] == [[1000.0, 500.0]]
    assert [grid.pull_messages(ids), grid.send_and_receive([train(1, 100)])] == [[], []]


def test_a_timeout_is_in_simulated_seconds() -> None:
    grid, _ = sky(ONE_CLUSTER, {"A": [30.0]})
    assert grid.send_and_receive([train(1, 100)], timeout=500.0) == []
    assert grid.now_s == 500.0


def test_a_plan_without_one_of_the_clusters_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks clusters of the population: B; it has: A"):
        sky(ONE_CLUSTER, {"A": [30.0], "B": [1.0]})


@pytest.mark.parametrize("options", [{"min_steps": 0}, {"min_steps": 5, "max_steps": 4}, {"query_steps": 0}])
def test_impossible_step_bounds_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="1 <= min_steps <= max_steps and query_steps >= 1"):
        sky(ONE_CLUSTER, {"A": [30.0]}, **options)


def test_the_size_of_a_content_is_that_of_its_arrays_and_of_the_rest() -> None:
    array = Array(np.arange(1000, dtype=np.float32))
    content = RecordDict(
        {"arrays": ArrayRecord({"w": array}), "config": ConfigRecord({"lr": 0.1, "name": "x"})}
    )
    assert len(array.data) == 4128  # 4 x 1000 and the header of the npy format
    assert 0 <= recorddict_to_proto(content).ByteSize() - content_bytes(content) < 16
    assert content_bytes(RecordDict()) == 1
