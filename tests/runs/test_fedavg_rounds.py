"""FedAvg from beginning to end: it stops at the horizon, says so, and runs over a real link."""

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message, RecordDict

from scenario.derive import population_from
from scenario.settings.reading import read_config
from server.app import run
from tests.fake_grid import FakeGrid
from tests.runs.conftest import Settings

Clients = Callable[..., FakeGrid]


def one_at_a_time(grid: FakeGrid) -> FakeGrid:
    """Let no two clients run at once: here they share the models that on real nodes each has for itself."""
    alone, client = threading.Lock(), grid.client

    def guarded(message: Message) -> RecordDict | None:
        with alone:
            return client(message)

    grid.client = guarded
    return grid


def read_log(folder: Path, kind: str) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == kind]


def test_more_rounds_than_fit_end_at_the_horizon_and_the_report_says_how_many_are_done(
    tiny_run: Settings,
    clients: Clients,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "flwr")
    settings = {**tiny_run, "strategy": "fedavg", "fedavg.rounds": 200}
    folder = run(clients(settings), read_config(settings))
    rounds, evaluated = read_log(folder, "round"), read_log(folder, "evaluated")
    done = [event for event in rounds if not event["is_cut"]]
    assert 0 < len(done) <= len(rounds) < len(done) + 2
    assert all(event["answered"] == event["asked"] == 8 for event in done)
    # Measured at the start and after every round that changed the model, never again for the same one.
    changed = [event["round"] for event in rounds if event["answered"]]
    assert [event["merges"] for event in evaluated] == [0, *changed]
    reason = json.loads((folder / "summary.json").read_text())["stop_reason"]
    assert reason.startswith(f"the horizon was reached: {len(done)} of 200 rounds are done")
    assert [f"round {event['round']} was cut" in reason for event in rounds if event["is_cut"]] in (
        [],
        [True],
    )
    said = capsys.readouterr().out
    assert f"round {len(done)}: 8 of 8 nodes answered, train loss" in said
    assert "MetricRecord" not in said + caplog.text


def test_fedavg_over_a_real_link_counts_a_device_once(
    tiny_run: Settings, clients: Clients, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {
        **tiny_run,
        "strategy": "fedavg",
        "fedavg.rounds": 2,
        "sky.simulated": False,
        "sky.hours": 0.05,
        "profile.wait-hours": 0.001,
        "train.steps-wall-budget-s": 5.0,
        "train.max-steps": 2,
        "population.clusters": 2,
    }
    names = [cluster.name for cluster in population_from(read_config(settings)).clusters]
    nodes = dict(enumerate(({"cluster": names[0]}, {"cluster": names[1]}, {"devices": "7"}), start=1))
    folder = run(one_at_a_time(clients(settings, node_configs=nodes, num_nodes=3)), read_config(settings))
    # Whoever of nodes 2 and 3 was first holds device 7.
    (turned_away,) = read_log(folder, "turned-away")
    assert turned_away["node"] in (2, 3) and 7 in turned_away["devices"]
    assert [(event["asked"], event["answered"]) for event in read_log(folder, "round")] == [(3, 2), (2, 2)]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["stop_reason"] == "2 of 2 rounds are done"
    (warning,) = summary["warnings"]
    assert f"node {turned_away['node']} was refused" in warning and "hosts already" in warning
    assert all(cluster["bytes_up"] > 0 and cluster["local_steps"] > 0 for cluster in summary["clusters"])
    assert f"node {turned_away['node']} refused" in capsys.readouterr().out


def test_a_deployed_ems_fl_run_names_the_node_whose_devices_are_anothers(
    tiny_run: Settings, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.ems_fl_run.POLL_INTERVAL_S", 0.1)
    settings = {
        **tiny_run,
        "sky.simulated": False,
        "sky.hours": 0.05,
        "profile.wait-hours": 0.001,
        "train.steps-wall-budget-s": 5.0,
        "train.max-steps": 2,
        "population.clusters": 2,
        "merge.max-merges": 3,
        "merge.wait-s": 0.0,
    }
    names = [cluster.name for cluster in population_from(read_config(settings)).clusters]
    nodes = {1: {"cluster": names[0]}, 2: {"cluster": names[1]}, 3: {"cluster": names[1]}}
    folder = run(one_at_a_time(clients(settings, node_configs=nodes, num_nodes=3)), read_config(settings))
    (turned_away,) = read_log(folder, "turned-away")
    assert turned_away["node"] in (2, 3)
    trained = {update["node"] for event in read_log(folder, "merged") for update in event["updates"]}
    assert turned_away["node"] not in trained
    (refused,) = read_log(folder, "refused")
    assert refused["node"] == turned_away["node"] and refused["reason"] == turned_away["reason"]
    warnings = json.loads((folder / "summary.json").read_text())["warnings"]
    assert any(f"node {turned_away['node']} was refused" in warning for warning in warnings)
