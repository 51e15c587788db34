"""A run that knows no cluster beforehand: its population is whoever connects, with data of their own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message, RecordDict

from scenario.settings.config import Scalar
from scenario.settings.reading import read_config
from server.app import run
from server.report.first_screen import heading, lead
from server.report.run_files import read_run
from server.report.summary import read_summary
from tests.fake_grid import FakeGrid
from tests.report.documented import undocumented
from tests.runs.conftest import DOMAINS, Settings
from tests.runs.test_own_data import deployed, secret_file

Clients = Callable[..., FakeGrid]
Nodes = dict[int, dict[str, Scalar]]
PLACES = {1: "Vík í Mýrdal", 2: "Nuuk", 3: "Esrange"}


def on_contact(tiny_run: Settings) -> Settings:
    return deployed(tiny_run) | {"population.known": "on-contact", "merge.wait-s": 5.0}


def nodes_of(folder: Path, count: int = 2) -> Nodes:
    return {
        number: {"cluster": PLACES[number], "data": str(secret_file(folder, domain)), "text-column": "body"}
        for number, domain in zip(range(1, count + 1), DOMAINS, strict=False)
    }


def events_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def lies(grid: FakeGrid, name: str) -> None:
    """Have the second node give its cluster another name than it was started with."""
    answer = grid.client

    def lie(message: Message) -> RecordDict | None:
        content = answer(message)
        assert isinstance(content, RecordDict)
        if message.metadata.dst_node_id == 2 and "config" in content.config_records:
            content.config_records["config"]["cluster"] = name
        return content

    grid.client = lie


def test_clusters_that_the_server_never_heard_of_train_and_are_told_of(
    tiny_run: Settings, clients: Clients, tmp_path: Path
) -> None:
    settings = on_contact(tiny_run)
    folder = run(clients(settings, node_configs=nodes_of(tmp_path)), read_config(settings))
    events = events_of(folder)
    assert undocumented(events) == set()
    (assigned,) = [event for event in events if event["event"] == "assigned"]
    assert assigned["experts"].keys() == {"Vík í Mýrdal", "Nuuk"}
    merged = [event for event in events if event["event"] == "merged"]
    assert {(event["cluster"], *update["devices"]) for event in merged for update in event["updates"]} == {
        ("Vík í Mýrdal", 1),
        ("Nuuk", 2),
    }
    summary = read_summary(folder)
    assert [cluster.name for cluster in summary.clusters] == ["Nuuk", "Vík í Mýrdal"]
    for cluster in summary.clusters:
        said = [
            update["heldout_loss"]
            for event in merged
            if event["cluster"] == cluster.name
            for update in event["updates"]
        ]
        assert (cluster.own_loss_before, cluster.own_loss_after) == (said[0], said[-1])
        assert cluster.merged_loss_after is None and cluster.merges == len(said)
        assert cluster.bytes_up > 0 and cluster.domain == "its nodes' own"
    measured = [event for event in events if event["event"] == "evaluated"]
    assert all({key for key in event if "loss." in key} == {"merged-loss.the server"} for event in measured)
    assert summary.server_loss_before == measured[0]["loss"] and summary.server_loss_after is not None
    card = (folder / "adapter" / "README.md").read_text()
    assert "nodes of 2 clusters, as they connected" in card
    told = read_run(folder)
    assert "2 devices in 2 clusters on a real network" in heading(told) and "merged model" in lead(told)
    assert "Nuuk" in (folder / "report.html").read_text()


def test_one_more_cluster_comes_while_the_run_goes_on(
    tiny_run: Settings, clients: Clients, tmp_path: Path
) -> None:
    settings = on_contact(tiny_run) | {"merge.max-merges": 8}
    grid = clients(settings, node_configs=nodes_of(tmp_path, 3))
    answer = grid.client

    def listen(message: Message) -> RecordDict | None:
        if message.metadata.message_type == "train" and len(grid.pushed) > 6 and 3 not in grid.node_ids:
            grid.node_ids.append(3)
        content = answer(message)
        assert content is None or isinstance(content, RecordDict)
        return content

    grid.client = listen
    folder = run(grid, read_config(settings))
    events = events_of(folder)
    first, second = [event for event in events if event["event"] == "assigned"]
    assert second["experts"].keys() - first["experts"].keys() == {"Esrange"}
    assert {cluster.name: bool(cluster.merges) for cluster in read_summary(folder).clusters}["Esrange"]


def test_a_server_without_text_measures_nothing_and_says_so(
    tiny_run: Settings, clients: Clients, tmp_path: Path
) -> None:
    settings = on_contact(tiny_run) | {"data.source": "none"}
    folder = run(clients(settings, node_configs=nodes_of(tmp_path)), read_config(settings))
    assert not [event for event in events_of(folder) if event["event"] == "evaluated"]
    summary = read_summary(folder)
    assert summary.server_loss_after is None
    assert all(cluster.own_loss_after is not None for cluster in summary.clusters)
    assert 'data.source is "none", and the server has no text' in " ".join(summary.warnings)
    assert "Held-out loss, merged model" in (folder / "adapter" / "README.md").read_text()
    assert read_run(folder).clusters == ("Nuuk", "Vík í Mýrdal")


def test_fedavg_takes_whoever_comes(tiny_run: Settings, clients: Clients, tmp_path: Path) -> None:
    settings = on_contact(tiny_run) | {"strategy": "fedavg", "fedavg.rounds": 2, "data.source": "none"}
    folder = run(clients(settings, node_configs=nodes_of(tmp_path)), read_config(settings))
    rounds = [event for event in events_of(folder) if event["event"] == "round"]
    assert [(event["asked"], event["answered"]) for event in rounds] == [(2, 2), (2, 2)]


def test_a_run_goes_on_with_the_clusters_it_had(tiny_run: Settings, clients: Clients, tmp_path: Path) -> None:
    settings, nodes = on_contact(tiny_run), nodes_of(tmp_path)
    folder = run(clients(settings, node_configs=nodes), read_config(settings))
    more = settings | {"merge.max-merges": 6, "run.resume": str(folder)}
    assert run(clients(more, node_configs=nodes), read_config(more)) == folder
    assert read_summary(folder).clusters[0].name == "Nuuk"
    assert [event["merges"] for event in events_of(folder) if event["event"] == "merged"][-1] == 6


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"cluster": "Nuuk"}, "a node names its cluster and its data"),
        ({"cluster": "Nuuk", "devices": "0", "data": "/x.csv"}, "and no devices, which nobody has numbered"),
        ({"cluster": "Nu\nuk", "data": "/x.csv"}, "must hold printable characters only"),
    ],
)
def test_a_node_that_does_not_say_what_it_brings_is_refused(
    tiny_run: Settings, clients: Clients, tmp_path: Path, config: dict[str, Scalar], reason: str
) -> None:
    settings = on_contact(tiny_run) | {"population.clusters": 1}
    nodes = {1: nodes_of(tmp_path)[1], 2: config}
    events = events_of(run(clients(settings, node_configs=nodes), read_config(settings)))
    refusals = [event["reason"] for event in events if event["event"] == "refused"]
    assert refusals and all(reason in refusal for refusal in refusals)


def test_a_node_of_a_cluster_that_the_run_does_not_have_does_not_spoil_its_end(
    tiny_run: Settings, clients: Clients
) -> None:
    settings = deployed(tiny_run)
    grid = clients(settings, node_configs={1: {"cluster": "Iqaluit"}, 2: {"cluster": "Khatgal"}}, num_nodes=2)
    lies(grid, "Atlantis")
    folder = run(grid, read_config(settings))
    reasons = [event["reason"] for event in events_of(folder) if event["event"] == "refused"]
    assert reasons and all("Atlantis" in reason for reason in reasons)
    assert [cluster.name for cluster in read_summary(folder).clusters] == ["Iqaluit", "Khatgal"]


def test_a_name_that_a_hostile_node_makes_up_is_looked_at_by_the_server_too(
    tiny_run: Settings, clients: Clients, tmp_path: Path
) -> None:
    settings = on_contact(tiny_run) | {"population.clusters": 1}
    grid = clients(settings, node_configs=nodes_of(tmp_path))
    lies(grid, "Nu\nuk")
    refused = [e for e in events_of(run(grid, read_config(settings))) if e["event"] == "refused"]
    assert refused and all("the name of its cluster must hold printable" in e["reason"] for e in refused)
