"""A node whose upload the link lost sends what it has kept, after a restart of its SuperNode too."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode

from client.kept_update import keep_update, kept_update
from scenario.derive import population_from
from scenario.settings.reading import read_config
from server.app import run
from server.record.state import load_state
from strategy.messages import ARRAYS, METRICS, read_task
from strategy.state import EmsFlState
from tests.fake_grid import FakeGrid
from tests.runs.conftest import Settings
from tests.runs.test_fedavg_rounds import one_at_a_time

Clients = Callable[..., FakeGrid]


def content_of(reply: RecordDict) -> dict[str, bytes]:
    return {name: array.data for name, array in reply.array_records[ARRAYS].items()}


@pytest.mark.parametrize("restarted", [False, True])
def test_what_the_link_lost_is_sent_again_and_not_trained_again(
    tiny_run: Settings, clients: Clients, tmp_path: Path, restarted: bool
) -> None:
    settings = {
        **tiny_run,
        **{"sky.simulated": False, "sky.hours": 0.05, "profile.wait-hours": 0.001, "merge.max-merges": 4},
        **{
            "train.steps-wall-budget-s": 60.0,
            "train.max-steps": 2,
            "population.clusters": 2,
            "merge.wait-s": 0.0,
        },
    }
    names = [cluster.name for cluster in population_from(read_config(settings)).clusters]
    nodes = {
        node: {"cluster": name} | ({"keep": str(tmp_path / "kept")} if node == 1 else {})
        for node, name in enumerate(names, start=1)
    }
    grid = one_at_a_time(clients(settings, node_configs=nodes))
    # A SuperNode that is started again has its disk and nothing else.
    client, fresh = grid.client, one_at_a_time(clients(settings, node_configs=nodes)).client
    answers: list[tuple[tuple[int, ...], Any]] = []

    def over_a_bad_link(message: Message) -> RecordDict | Error | None:
        if message.metadata.dst_node_id != 1 or message.metadata.message_type != "train":
            return client(message)
        lost = read_task(message).lost
        reply = (fresh if restarted and lost else client)(message)
        answers.append((lost, reply))
        return Error(ErrorCode.MESSAGE_UNAVAILABLE, "expired") if len(answers) == 1 else reply

    grid.client = over_a_bad_link
    folder = run(grid, read_config(settings))
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    (lost,) = [event for event in events if event["event"] == "lost"]
    assert lost["node"] == 1 and "expired" in lost["reason"]
    (told, first), (asked, again) = answers[0], answers[1]
    assert told == () and asked == (0,)
    assert content_of(again) == content_of(first)
    assert again.metric_records[METRICS]["dispatch"] == 0
    assert not [event for event in events if event["event"] == "refused"]
    if len(answers) > 2:
        assert answers[2][0] == () and "dispatch" not in answers[2][1].metric_records[METRICS]


def test_half_a_file_is_no_update_and_another_runs_is_not_ours(tmp_path: Path) -> None:

    def node(run_id: int) -> Context:
        config: dict[str, bool | float | int | str] = {"keep": str(tmp_path)}
        return Context(run_id=run_id, node_id=1, node_config=config, state=RecordDict(), run_config={})

    arrays = ArrayRecord({"0.1.fc_in.lora_B": Array(np.arange(6, dtype=np.int8).reshape(2, 3))})
    metrics = MetricRecord({"num-examples": 5, "train-loss": 1.5})
    keep_update(node(7), 3, RecordDict({ARRAYS: arrays, METRICS: metrics}))
    kept = kept_update(node(7), [2, 3])
    assert kept is not None and kept.dispatch == 3
    assert content_of(kept.update) == content_of(RecordDict({ARRAYS: arrays}))
    assert dict(kept.update.metric_records[METRICS]) == {"num-examples": 5, "train-loss": 1.5}
    # A disk that takes nothing: the node's state has it, as long as its SuperNode lives and for this run.
    (tmp_path / "full").write_text("a file where a folder should be")
    full: dict[str, bool | float | int | str] = {"keep": str(tmp_path / "full" / "kept")}
    alive = Context(run_id=7, node_id=1, node_config=full, state=RecordDict(), run_config={})
    keep_update(alive, 4, RecordDict({ARRAYS: arrays, METRICS: metrics}))
    (in_memory,) = [kept_update(alive, [4])]
    assert in_memory is not None and in_memory.dispatch == 4
    (tmp_path / "full").unlink()
    of_the_next_run = Context(run_id=8, node_id=1, node_config={}, state=alive.state, run_config={})
    assert kept_update(of_the_next_run, [4]) is None and kept_update(of_the_next_run, [4], ["6"]) is None
    # But a run that goes on with it asks for it by its name.
    gone_on = kept_update(node(8), [3], ["6", "7"])
    assert gone_on is not None and gone_on.dispatch == 3
    assert kept_update(node(8), [3]) is None and kept_update(node(7), [4]) is None
    wrong = Context(run_id=7, node_id=1, node_config={"keep": "here"}, state=RecordDict(), run_config={})
    with pytest.raises(ValueError, match="keep of --node-config must be an absolute folder, got 'here'"):
        keep_update(wrong, 3, RecordDict({ARRAYS: arrays, METRICS: metrics}))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:40])
    assert kept_update(node(7), [3]) is None


def lacks(state: EmsFlState, node: int, number: int) -> bool:
    """Say whether a saved state has no update of a node's training message."""
    under_way = {sent.node_id for sent in state.in_flight.values() if sent.versions}
    answered = state.dispatches.get(node, 0) - (node in under_way)
    return number >= answered or number in state.lost.get(node, {})


@pytest.mark.parametrize("num_nodes", [1, 2])
@pytest.mark.parametrize("dies_at", [(1,), (3,), (1, 1), (3, 1, 2)], ids=str)
def test_a_run_that_goes_on_is_sent_what_its_state_lacks_and_nothing_twice(
    tiny_run: Settings, clients: Clients, tmp_path: Path, dies_at: tuple[int, ...], num_nodes: int
) -> None:
    settings = {
        **tiny_run,
        **{"sky.simulated": False, "sky.hours": 0.05, "profile.wait-hours": 0.001, "merge.max-merges": 9},
        **{"train.steps-wall-budget-s": 60.0, "train.max-steps": 2, "population.clusters": 2},
    }
    names = [cluster.name for cluster in population_from(read_config(settings)).clusters]
    nodes = {
        node: {"cluster": name, "keep": str(tmp_path / f"kept-{node}")}
        for node, name in enumerate(names[:num_nodes], start=1)
    }
    runs, killed = tmp_path / "runs", tmp_path / "killed"
    made: dict[int, tuple[int, Any]] = {}  # by node, the number of the message of its last update, and that
    sent_again: dict[int, list[tuple[int, Any]]]

    def begin(flower_run: int, dies_after: float) -> Path:
        """Run in Flower's run of this number until it has been sent so many updates."""
        folders = list(runs.glob("*"))
        of_run = settings | ({"run.resume": str(folders[0])} if folders else {})
        grid = one_at_a_time(clients(of_run, node_configs=nodes, run_id=flower_run))
        grid.node_ids = list(nodes)
        client, count = grid.client, 0

        def answer(message: Message) -> RecordDict | None:
            nonlocal count
            if message.metadata.message_type != "train":
                return client(message)
            if count < dies_after:
                count += 1
                reply, node, task = client(message), message.metadata.dst_node_id, read_task(message)
                said = reply.metric_records[METRICS].get("dispatch")
                if said is None:
                    made[node] = task.dispatch, reply
                else:
                    sent_again[node].append((said, reply))
                assert task.lost_of == tuple(map(str, range(1, flower_run))) or not task.lost
            if count >= dies_after:
                # The ServerApp is killed; the node's work is done and kept. Nothing is saved from here on.
                if not killed.exists():
                    shutil.copytree(runs, killed)
                raise KeyboardInterrupt
            return reply

        grid.client = answer
        return run(grid, read_config(of_run))

    for flower_run, after in enumerate(dies_at, start=1):
        sent_again = {node: [] for node in nodes}
        with pytest.raises(KeyboardInterrupt):
            begin(flower_run, after)
        shutil.rmtree(runs)
        killed.rename(runs)
    (folder,) = runs.iterdir()
    state, _, _ = load_state(folder)
    lacking = {node: last for node, last in made.items() if lacks(state, node, last[0])}
    assert lacking
    sent_again = {node: [] for node in nodes}
    begin(len(dies_at) + 1, float("inf"))
    for node, found in sent_again.items():
        wanted = [lacking[node]] if node in lacking else []
        assert [number for number, _ in found] == [number for number, _ in wanted]
        assert [content_of(reply) for _, reply in found] == [content_of(reply) for _, reply in wanted]
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [event["merges"] for event in events if event["event"] == "merged"] == [*range(1, 10)]
    assert not [event for event in events if event["event"] == "refused"]
