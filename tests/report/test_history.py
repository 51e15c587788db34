"""What an event log says over time, from events whose sums are known."""

import json
from pathlib import Path

from server.record.history import History, LogEnd, whole_events
from server.report.run_files import history_for
from tests.report.made_up import EVENTS, SCENE


def history() -> History:
    found = history_for(SCENE)
    for event in EVENTS:
        found.note(event)
    return found


def test_a_message_over_two_passes_fills_both_and_is_counted_once() -> None:
    first, second = history().passes["east"][100.0].up, history().passes["east"][3000.0].up
    assert (first.num_bytes, first.messages, first.carried_over) == (4700, 1, 1)
    assert (second.num_bytes, second.messages, second.carried_over) == (2000, 1, 0)
    # It began when the work ended, and in the second pass with its rise.
    assert (second.from_s, second.to_s) == (3000.0, 3100.0)


def test_bytes_add_up_by_cluster_and_way() -> None:
    found = history()
    assert found.crossed == {("east", "down"): 2030, ("east", "up"): 6700}
    assert found.num_bytes == 8730
    # Three training messages crossed whole: two down, one up.
    assert found.train_messages == 3


def test_devices_train_from_delivery_until_their_work_ends() -> None:
    # Node 1 has two devices. Nothing is heard of its second training, five steps of 120 s.
    assert history().training_now("east", 7200.0) == [(200.0, 2), (800.0, 0), (3200.0, 2), (3800.0, 0)]


def test_work_that_goes_on_shows_while_it_goes_on() -> None:
    found = history_for(SCENE)
    for event in EVENTS[:-1]:
        found.note(event)
    assert found.training_now("east", 3400.0)[-1] == (3200.0, 2)


def test_steps_are_those_of_all_devices_of_a_node_whose_update_came_up() -> None:
    assert history().steps == {"east": 10}
    assert [point.steps for point in history().evaluations] == [{}, {"east": 10}]


def test_staleness_is_counted_for_each_expert_with_its_discount() -> None:
    assert history().staleness == {(0, 1.0): 1, (2, 0.577): 1}
    assert history().merges[0].mean_staleness == 1.0


def test_faults_and_unfinished_messages_are_counted() -> None:
    assert history().refusals == {"west": 1}
    assert history().unfinished == {("unfinished", "working"): 1}


def test_lanes_of_a_real_network_are_its_nodes_by_name() -> None:
    found = History({}, {}, by_node=True)
    for event in EVENTS:
        found.note(
            {key: value for key, value in event.items() if key != "cluster" or event["event"] != "arrived"}
        )
    assert found.lanes(("east", "west")) == {"node 1": ("east 0-1", "east")}
    assert found.training_now("node 1", 7200.0)[0][0] == 200.0


def test_a_node_of_a_real_network_is_known_from_when_it_joins() -> None:
    found = History({}, {}, by_node=True)
    who = {"time_s": 1.0, "node": 77, "cluster": "east", "devices": [2, 3]}
    found.note({"event": "joined"} | who)
    assert found.lanes(("east",)) == {"node 77": ("east 2-3", "east")}
    found.note({"event": "turned-away", "reason": "taken"} | who)
    assert found.refusals == {"east": 1}


def test_a_log_cut_inside_a_line_gives_what_is_before_it(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    log.write_text(json.dumps(EVENTS[0]) + "\n" + json.dumps(EVENTS[1])[:40])
    end = LogEnd()
    assert list(whole_events(log, end)) == EVENTS[:1]
    assert end.bad_line == 2


def test_a_line_that_is_no_event_ends_the_log(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    log.write_text(json.dumps(EVENTS[0]) + "\n[1, 2]\n" + json.dumps(EVENTS[1]) + "\n")
    end = LogEnd()
    assert list(whole_events(log, end)) == EVENTS[:1]
    assert (end.bad_line, end.reason) == (2, "it is no event")
