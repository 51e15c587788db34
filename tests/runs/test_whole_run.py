"""One configuration from beginning to end: what is left behind, and the laws that hold of it."""

import json
import shutil
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message
from peft import PeftModel
from transformers import AutoModelForCausalLM

from moe.disk.layout import read_layout
from moe.tuning.adapters import MergedModel, initial_arrays
from scenario.contact_plan import plan_from
from scenario.derive import population_from, tuning_from
from scenario.settings.reading import read_config
from server.app import run
from server.job import prepare
from server.record.state import load_state
from sim.plan_files.files import write_plan
from tests.fake_grid import FakeGrid
from tests.runs.conftest import Settings
from tests.runs.served import served_by

Clients = Callable[..., FakeGrid]


def read_log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def read_summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


def test_a_run_leaves_everything_behind_and_its_numbers_add_up(whole_run: Path) -> None:
    left = {path.name for path in whole_run.iterdir()}
    assert {"config.toml", "events.jsonl", "curves", "state.safetensors", "adapter", "summary.json"} <= left
    summary, events = read_summary(whole_run), read_log(whole_run)
    assert [c["domain"] for c in summary["clusters"]] == ["rivers", "numbers", "code", "orders"]
    for cluster in summary["clusters"]:
        mine = [event for event in events if event.get("cluster") == cluster["name"]]
        assert cluster["merges"] == sum(event["event"] == "merged" for event in mine) > 0
        down = [e for e in mine if e["event"] == "delivered"]
        unfinished = [e for e in mine if e["event"] == "unfinished" and e["phase"] in ("down", "landing")]
        assert cluster["bytes_down"] == pytest.approx(sum(e["bytes"] for e in down + unfinished), abs=2)
        assert cluster["experts_per_layer"] == [1, 1]
        assert 0.0 < cluster["capture"] <= 1.0 and cluster["random_capture"] == 0.25
        assert cluster["own_loss_after"] is not None and cluster["merged_loss_after"] is not None
    card = (whole_run / "adapter" / "README.md").read_text()
    assert "8 devices in 4 clusters" in card and "nats a token" in card
    assert summary["spent"]["trainable_parameters"] * 4 == summary["full_adapter"]["trainable_parameters"]


def test_no_message_crosses_outside_a_contact_or_above_its_capacity(
    tiny_run: Settings, clients: Clients
) -> None:
    """Law 7, on the log of a whole run."""
    slow = {**tiny_run, "link.preset": "fixed", "link.down-bytes-per-s": 40.0, "link.up-bytes-per-s": 12.0}
    config = read_config(slow)
    folder = run(clients(slow), config)
    plan = plan_from(config, population_from(config), print)
    carried: dict[tuple[str, str, float], float] = defaultdict(float)
    for event in read_log(folder):
        if "crossed" not in event:
            continue
        way = "down" if event["event"] == "delivered" or event.get("phase") in ("down", "landing") else "up"
        if event["event"] in ("delivered", "arrived"):
            assert sum(sent for _, sent in event["crossed"]) == pytest.approx(event["bytes"], rel=1e-6)
        for rise_s, sent in event["crossed"]:
            carried[event["cluster"], way, rise_s] += sent
    assert len(carried) > 10
    spread_over_windows = [e for e in read_log(folder) if len(e.get("crossed", ())) > 1]
    assert spread_over_windows, "the slow link must make some message take several contacts"
    for (cluster, way, rise_s), sent in carried.items():
        contact = next(c for c in plan.contacts[cluster] if c.rise_s == rise_s)
        assert sent <= contact.capacity_bytes("down" if way == "down" else "up") * (1 + 1e-9)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_seed_gives_the_same_log_whatever_the_workers_do(
    tiny_run: Settings, clients: Clients, seed: int
) -> None:
    """Law 8: other numbers of nodes, other speeds of workers, the same bytes."""
    settings = {**tiny_run, "seed": seed, "merge.max-merges": 6}
    one = run(clients(settings, num_nodes=1), read_config(settings))
    other = run(clients(settings, num_nodes=3, delay=lambda n: (n * 7) % 5), read_config(settings))
    assert (one / "events.jsonl").read_bytes() == (other / "events.jsonl").read_bytes()
    assert load_state(one)[0].merges == 6


@pytest.mark.parametrize("stop_after", [3, 13, 27])
def test_a_run_that_was_stopped_and_resumed_equals_one_that_was_not(
    tiny_run: Settings, clients: Clients, whole_run: Path, stop_after: int
) -> None:
    """Law 9: the same model and the same log, wherever it was stopped."""
    messages = 0

    def cut(_: Message) -> None:
        nonlocal messages
        messages += 1
        if messages == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(clients(tiny_run, spoil=cut), read_config(tiny_run))
    (stopped,) = Path(str(tiny_run["run.dir"])).iterdir()
    assert not (stopped / "summary.json").exists()
    resumed = run(clients(tiny_run), read_config({**tiny_run, "run.resume": str(stopped)}))
    assert resumed == stopped
    assert (whole_run / "events.jsonl").read_bytes() == (resumed / "events.jsonl").read_bytes()
    one, other = load_state(whole_run)[0], load_state(resumed)[0]
    assert one.values.keys() == other.values.keys()
    for key in one.values:
        np.testing.assert_array_equal(one.values[key], other.values[key])


def test_a_run_that_ended_can_go_on_and_takes_home_the_newer_adapter(
    tiny_run: Settings, clients: Clients
) -> None:
    settings = {**tiny_run, "merge.max-merges": 3, "run.export-merged": True}
    folder = run(clients(settings), read_config(settings))
    first = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    more = {**settings, "merge.max-merges": 6, "run.resume": str(folder)}
    assert run(clients(settings), read_config(more)) == folder
    assert load_state(folder)[0].merges == 6
    assert (folder / "adapter" / "adapter_model.safetensors").read_bytes() != first


def test_a_deployed_run_that_was_stopped_goes_on_without_the_messages_that_were_lost(
    tiny_run: Settings, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a real link messages in flight end with Flower's run: their nodes must be asked anew."""
    monkeypatch.setattr("server.ems_fl_run.POLL_INTERVAL_S", 0.1)  # the clock here is the wall's
    settings = {
        **tiny_run,
        "sky.simulated": False,
        "sky.hours": 0.01,
        "profile.wait-hours": 0.001,
        "train.steps-wall-budget-s": 5.0,
        "population.clusters": 2,
        "train.max-steps": 2,
        "merge.max-merges": 4,
    }
    clusters = [cluster.name for cluster in population_from(read_config(settings)).clusters]
    nodes = {number: {"cluster": name} for number, name in enumerate(clusters, start=1)}
    messages = 0

    def cut(_: Message) -> None:
        nonlocal messages
        messages += 1
        if messages == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(clients(settings, node_configs=nodes, spoil=cut, delay=lambda _: 3), read_config(settings))
    stopped = next(Path(str(settings["run.dir"])).iterdir())
    asked = load_state(stopped)[0]
    assert asked.in_flight and asked.merges < 4
    run(clients(settings, node_configs=nodes), read_config({**settings, "run.resume": str(stopped)}))
    assert load_state(stopped)[0].merges == 4


def test_a_plan_from_a_file_drives_a_run_exactly_as_the_computed_one(
    tiny_run: Settings, clients: Clients, whole_run: Path, tmp_path: Path
) -> None:
    config = read_config(tiny_run)
    write_plan(plan_from(config, population_from(config), print), tmp_path / "plan.parquet")
    settings = {**tiny_run, "sky.plan-file": str(tmp_path / "plan.parquet"), "sky.altitude-km": 900.0}
    read = run(clients(settings), read_config(settings))
    assert (whole_run / "events.jsonl").read_bytes() == (read / "events.jsonl").read_bytes()


def test_the_exported_adapter_on_the_base_gives_the_servers_logits(
    tiny_run: Settings, clients: Clients, checkpoint: Path
) -> None:
    """Law 10, on what a run really learned."""
    config = read_config({**tiny_run, "run.export-merged": True})
    folder = run(clients(tiny_run), config)
    values, tuning = load_state(folder)[0].values, tuning_from(config, ())
    initial = initial_arrays(checkpoint, tuning, read_layout(checkpoint).experts)
    tokens = torch.randint(0, 250, (3, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain, own, server = (
            MergedModel(checkpoint, tuning).set(arrays).model(tokens).logits
            for arrays in (initial, values, served_by(folder, checkpoint))
        )
        merged = AutoModelForCausalLM.from_pretrained(folder / "merged").eval()(tokens).logits
    assert (server - plain).abs().max() > 1e-3, "the run must have changed the model"
    assert (server - own).abs().max() > 1e-4, "the merged model takes less than the whole change"
    torch.testing.assert_close(merged, server, rtol=1e-5, atol=1e-5)
    for name, expected in (("adapter", server), ("adapter-own", own)):
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            base = AutoModelForCausalLM.from_pretrained(checkpoint)
            taken_home = PeftModel.from_pretrained(base, folder / name).eval()(tokens).logits
        torch.testing.assert_close(taken_home, expected, rtol=1e-5, atol=1e-5)


def test_fedavg_runs_on_the_same_sky_and_its_average_is_merged(tiny_run: Settings, clients: Clients) -> None:
    settings = {**tiny_run, "strategy": "fedavg", "fedavg.rounds": 2, "sky.hours": 24.0}
    settings["population.devices-per-node"] = 2
    folder = run(clients(settings), read_config(settings))
    summary = read_summary(folder)
    assert summary["strategy"] == "fedavg"
    assert all(c["own_loss_before"] is None and c["experts_per_layer"] == [4, 4] for c in summary["clusters"])
    assert any(c["merged_loss_before"] != c["merged_loss_after"] for c in summary["clusters"])
    assert summary["spent"]["trainable_parameters"] == summary["full_adapter"]["trainable_parameters"]
    assert next(e["merges"] for e in read_log(folder) if e["event"] == "evaluated") == 0
    # Flower's strategy says nothing of its merges and failures, and the sky what was trained.
    assert {(c["merges"], c["failures"]) for c in summary["clusters"]} == {(None, None)}
    arrived = [e for e in read_log(folder) if e["event"] == "arrived" and e["type"] == "train"]
    assert sum(c["local_steps"] for c in summary["clusters"]) == 2 * sum(e["steps"] for e in arrived) > 0


def test_full_tuning_takes_home_a_merged_checkpoint(tiny_run: Settings, clients: Clients) -> None:
    settings = {**tiny_run, "train.method": "full", "train.learning-rate": 0.002, "merge.max-merges": 5}
    folder = run(clients(settings), read_config(settings))
    assert not (folder / "adapter").exists()
    assert AutoModelForCausalLM.from_pretrained(folder / "merged").config.num_local_experts == 4


def test_a_client_that_raises_is_logged_and_the_run_goes_on(tiny_run: Settings, clients: Clients) -> None:
    def spoil(message: Message) -> None:
        sky = message.content.config_records["sky"]
        if message.metadata.message_type == "train" and sky["node"] == 3:
            raise RuntimeError("the battery is empty")

    # A message a node: one that raises before the app takes a group apart would be the fault of all in it.
    alone = {**tiny_run, "run.grouped": False}
    folder = run(clients(alone, spoil=spoil), read_config(alone))
    refused = [event for event in read_log(folder) if event["event"] == "refused"]
    assert refused and all(event["node"] == 3 and "battery is empty" in event["reason"] for event in refused)
    assert all(cluster["merges"] > 0 for cluster in read_summary(folder)["clusters"])


def test_a_run_in_which_nothing_arrives_says_so_and_fails(tiny_run: Settings, clients: Clients) -> None:
    def spoil(_: Message) -> None:
        raise RuntimeError("no power")

    with pytest.raises(RuntimeError, match="no device's update ever reached the server"):
        run(clients(tiny_run, spoil=spoil), read_config(tiny_run))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model.name": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"data.domain-column": "topic"}, "topic"),
        ({"data.text-column": "body"}, "body"),
        ({"population.clusters": 501, "population.devices": 501}, "at most 500 without"),
        ({"sky.elevation-mask-deg": 89.9}, "never seen above its mask"),
        ({"sky.elements": "tle:/nowhere.tle"}, "nowhere.tle"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_written(
    tiny_run: Settings, clients: Clients, changes: Settings, reason: str
) -> None:
    settings = {**tiny_run, **changes}
    with pytest.raises(ValueError, match=reason):
        run(clients(settings), read_config(settings))
    assert not Path(str(tiny_run["run.dir"])).exists()


def test_a_dense_checkpoint_and_one_without_a_shard_are_refused(
    tiny_run: Settings, clients: Clients, checkpoint: Path, tmp_path: Path
) -> None:
    dense = tmp_path / "dense"
    shutil.copytree(checkpoint, dense)
    config = json.loads((dense / "config.json").read_text())
    config["model_type"], config["architectures"] = "mistral", ["MistralForCausalLM"]
    (dense / "config.json").write_text(json.dumps(config))
    headless = tmp_path / "headless"
    shutil.copytree(checkpoint, headless)
    for shard in headless.glob("*.safetensors"):
        shard.unlink()
    for folder in (dense, headless):
        settings = {**tiny_run, "model.name": str(folder)}
        with pytest.raises(ValueError, match=folder.name):
            run(clients(settings), read_config(settings))
    assert not Path(str(tiny_run["run.dir"])).exists()


def test_a_device_without_memory_for_an_expert_is_refused_by_name(
    tiny_run: Settings, clients: Clients
) -> None:
    settings = {**tiny_run, "population.memory-mb": 0.001}
    with pytest.raises(RuntimeError, match="no device's update"):
        run(clients(settings), read_config(settings))
    folder = next(Path(str(tiny_run["run.dir"])).iterdir())
    reasons = [event["reason"] for event in read_log(folder) if event["event"] == "refused"]
    assert reasons and all("does not hold the shared part and one expert" in reason for reason in reasons)


def test_the_server_prepares_the_same_world_as_the_clients(tiny_run: Settings) -> None:
    config = read_config(tiny_run)
    one, other = prepare(config, print), prepare(config, print)
    assert one.fingerprint == other.fingerprint
    assert one.population == other.population
    assert [one.text.device_texts(d) for d in range(8)] == [other.text.device_texts(d) for d in range(8)]
