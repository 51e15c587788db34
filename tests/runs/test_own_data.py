"""A deployed run whose nodes bring their own data: it works, says how it goes, and what leaves a node."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flwr.app import Message, RecordDict

from scenario.derive import population_from
from scenario.settings.config import Scalar
from scenario.settings.reading import read_config
from server.app import run
from tests.fake_grid import FakeGrid
from tests.report.documented import undocumented
from tests.runs.conftest import DOMAINS, Settings

Clients = Callable[..., FakeGrid]
LEAVES = {
    ("config", "cluster"), ("config", "devices"), ("config", "fingerprint"),
    ("metrics", "num-examples"), ("metrics", "memory-bytes"),
    ("metrics", "train-loss"), ("metrics", "local-steps"), ("metrics", "heldout-loss"),
}  # fmt: skip
"""Records and fields of a node's answers beside arrays; docs/deployment.md tells what each is."""


def deployed(tiny_run: Settings) -> Settings:
    return {
        **tiny_run,
        **{"sky.simulated": False, "sky.hours": 0.02, "profile.wait-hours": 0.001},
        **{"train.steps-wall-budget-s": 5.0, "population.clusters": 2, "train.max-steps": 2},
        **{"merge.max-merges": 4, "data.heldout-share": 0.25},
    }


def secret_file(folder: Path, name: str) -> Path:
    """Write texts of a domain with a word that must not leave the node."""
    rng, words = np.random.default_rng(3), DOMAINS[name].split()
    rows = [{"body": f"secretword{n} {' '.join(rng.permutation(words))}"} for n in range(40)]
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_nodes_train_on_their_own_files_and_nothing_else_leaves_them(
    tiny_run: Settings, clients: Clients, tmp_path: Path
) -> None:
    settings = deployed(tiny_run)
    names = [cluster.name for cluster in population_from(read_config(settings)).clusters]
    nodes: dict[int, dict[str, Scalar]] = {
        number: {"cluster": name, "data": str(secret_file(tmp_path, domain)), "text-column": "body"}
        for number, (name, domain) in enumerate(zip(names, list(DOMAINS)[:2], strict=True), start=1)
    }
    grid = clients(settings, node_configs=nodes)
    answer, answers = grid.client, list[RecordDict]()

    def listen(message: Message) -> RecordDict | None:
        content = answer(message)
        assert content is not None
        answers.append(content)
        return content

    grid.client = listen
    folder = run(grid, read_config(settings))
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    updates = [update for event in events if event["event"] == "merged" for update in event["updates"]]
    assert len(updates) >= 4 and all(0.0 < update["heldout_loss"] < 20.0 for update in updates)
    assert undocumented(events) == set()
    left = {(name, field) for content in answers for name, record in content.items() for field in record}
    assert {(name, field) for name, field in left if name != "arrays"} == LEAVES
    for content in answers:
        sent = b"".join(array.data for arrays in content.array_records.values() for array in arrays.values())
        assert b"secretword" not in sent and "secretword" not in repr(
            [*content.config_records.values(), *content.metric_records.values()]
        )


def test_a_node_whose_file_lacks_the_column_is_refused_by_name(
    tiny_run: Settings, clients: Clients, tmp_path: Path
) -> None:
    settings = deployed(tiny_run)
    names = [cluster.name for cluster in population_from(read_config(settings)).clusters]
    file = str(secret_file(tmp_path, next(iter(DOMAINS))))
    nodes: dict[int, dict[str, Scalar]] = {
        1: {"cluster": names[0], "data": file, "text-column": "body"},
        2: {"cluster": names[1], "data": file, "text-column": "nowhere"},
    }
    folder = run(clients(settings, node_configs=nodes), read_config(settings))
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    (reason, *_) = [event["reason"] for event in events if event["event"] == "refused"]
    assert "nowhere" in reason and "body" in reason
    assert {u["node"] for e in events if e["event"] == "merged" for u in e["updates"]} == {1}
