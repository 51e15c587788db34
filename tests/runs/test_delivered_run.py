"""Runs whose devices never had the whole model: parts on a real disk, under a sky and over a real link."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message, RecordDict
from transformers import AutoTokenizer

from benchmarks.quantised import quantise
from benchmarks.tiny_models import save_tiny
from cli.prepare import main as prepare
from moe.delivery.part import held_experts, make_part
from moe.disk.layout import open_storage
from moe.experts import ExpertId
from scenario.derive import population_from
from scenario.settings.config import Scalar
from scenario.settings.reading import read_config
from server.app import run
from server.job import prepare as job
from tests.fake_grid import FakeGrid
from tests.report.documented import undocumented
from tests.runs.conftest import Settings
from tests.runs.test_own_data import LEAVES

Clients = Callable[..., FakeGrid]


@pytest.fixture
def delivered(tiny_run: Settings, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return the settings of a deployed run of two clusters whose experts come over the link."""
    monkeypatch.setenv("EMS_FL_CACHE", str(tmp_path / "cache"))
    return {
        **tiny_run,
        **{"sky.simulated": False, "sky.hours": 0.1, "profile.wait-hours": 0.1},
        **{"train.steps-wall-budget-s": 5.0, "population.clusters": 2, "train.max-steps": 2},
        **{"merge.max-merges": 4, "profile.stand-in-text": str(texts), "model.piece-mb": 0.004},
        **{"model.delivery": "experts", "assign.experts-per-layer": 1},
    }


def events_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def nodes(settings: Settings, folders: list[Path]) -> dict[int, dict[str, Scalar]]:
    """Return the configuration of a node for each cluster, with a folder of its own."""
    names = [cluster.name for cluster in population_from(read_config(settings)).clusters]
    return {
        number: {"cluster": name, "model": str(folder)}
        for number, (name, folder) in enumerate(zip(names, folders, strict=True), start=1)
    }


def assigned(events: list[dict[str, Any]]) -> list[set[ExpertId]]:
    (event,) = [event for event in events if event["event"] == "assigned"]
    return [set(map(ExpertId.named, experts)) for experts in event["experts"].values()]


def pieces_sent(events: list[dict[str, Any]]) -> int:
    return sum(event["event"] == "delivered" and event["type"] == "query.deliver" for event in events)


def test_nodes_with_the_shared_part_are_sent_their_experts_and_no_others(
    delivered: Settings, clients: Clients, checkpoint: Path, texts: Path, tmp_path: Path
) -> None:
    parts = [tmp_path / "part-1", tmp_path / "part-2"]
    for part in parts:
        assert prepare([str(checkpoint), "--text", str(texts), "--part", str(part), "data.sequence-length=12",
                        f"data.source={texts}", "data.domain-column=domain"]) == 0  # fmt: skip
        assert not held_experts(open_storage(part))
    grid = clients(delivered, node_configs=nodes(delivered, parts))
    answer, left = grid.client, set[tuple[str, str]]()

    def listen(message: Message) -> RecordDict | None:
        content = answer(message)
        assert content is not None
        left.update((name, field) for name, record in content.items() for field in record)
        return content

    grid.client = listen
    events = events_of(run(grid, read_config(delivered)))
    assert [event for event in events if event["event"] == "refused"] == []
    assert sum(event["event"] == "merged" for event in events) == 4
    # What leaves a node beside what leaves it anyway: docs/deployment.md tells what each is.
    known = LEAVES - {("metrics", "heldout-loss")} | {("delivery", "names")}
    assert {(name, field) for name, field in left if name != "arrays"} == known
    assert undocumented(events) == set()
    assert [held_experts(open_storage(part)) for part in parts] == assigned(events)
    assert pieces_sent(events) >= 4
    # They come back to another run with what they have: nothing travels twice.
    again = events_of(run(clients(delivered, node_configs=nodes(delivered, parts)), read_config(delivered)))
    assert assigned(again) == assigned(events)
    assert pieces_sent(again) == 0


def test_nodes_that_had_nothing_are_sent_everything(
    delivered: Settings, clients: Clients, tmp_path: Path
) -> None:
    settings = {**delivered, "model.delivery": "everything", "model.piece-mb": 0.02}
    parts = [tmp_path / "part-1", tmp_path / "part-2"]
    grid = clients(settings, node_configs=nodes(settings, parts))
    folder = run(grid, read_config(settings))
    events = events_of(folder)
    assert [event for event in events if event["event"] == "refused"] == []
    assert sum(event["event"] == "merged" for event in events) == 4
    assert [held_experts(open_storage(part)) for part in parts] == assigned(events)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["capture_kept"] is None  # their data are the nodes', as far as the server knows
    brought = sum(cluster["model_bytes_down"] for cluster in summary["clusters"])
    assert 0.4 * summary["whole_model_bytes"] < brought < summary["whole_model_bytes"]


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("switch_transformers", {}),
        ("qwen3_moe", {"model.hold": "file", "evaluate.streamed": True}),
        ("mixtral", {"train.layers": "last 1", "train.router-rows": True}),
    ],
)
def test_families_and_settings_that_read_experts_in_a_way_of_their_own(
    delivered: Settings, clients: Clients, checkpoint: Path, tmp_path: Path,
    family: str, more: dict[str, Scalar],
) -> None:  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    is_packed = "model.hold" in more
    sizes: dict[str, Any] = {"moe_intermediate_size": 32} if is_packed else {}
    dtype = torch.bfloat16 if is_packed else torch.float32
    base = save_tiny(tmp_path / "base", family, dtype=dtype, vocab_size=len(tokenizer), **sizes)
    if is_packed:
        quantise(base, "fp8")
    tokenizer.save_pretrained(base)
    settings = {**delivered, **more, "model.name": str(base), "model.delivery": "everything",
                "model.piece-mb": 0.1, "merge.max-merges": 2}  # fmt: skip
    parts = [tmp_path / "part-1", tmp_path / "part-2"]
    events = events_of(run(clients(settings, node_configs=nodes(settings, parts)), read_config(settings)))
    assert [event for event in events if event["event"] == "refused"] == []
    assert [held_experts(open_storage(part)) for part in parts] == assigned(events)


def test_a_server_is_not_started_on_a_devices_part(
    delivered: Settings, checkpoint: Path, tmp_path: Path
) -> None:
    part = make_part(open_storage(checkpoint), "base", tmp_path / "part")
    with pytest.raises(ValueError, match="is a device's part of a checkpoint"):
        job(read_config({**delivered, "model.name": str(part), "model.delivery": "beforehand"}), print)


def test_a_part_of_another_checkpoint_is_refused_by_name(
    delivered: Settings, clients: Clients, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    parts = [tmp_path / "part-1", tmp_path / "part-2"]
    for part in parts:
        make_part(open_storage(tiny("mixtral")), "0123456789abcdef", part)
    settings = {**delivered, "sky.hours": 0.0015}
    grid = clients(settings, node_configs=nodes(settings, parts))
    with pytest.raises(RuntimeError, match="no device's update ever reached"):
        run(grid, read_config(settings))
    (folder,) = (tmp_path / "runs").iterdir()
    reasons = {event["reason"] for event in events_of(folder) if event["event"] == "refused"}
    assert reasons and all("stand_ins.safetensors" in reason for reason in reasons)


@pytest.mark.parametrize("delivery", ["experts", "everything"])
def test_under_a_sky_every_byte_of_the_model_crosses_a_contact(
    tiny_run: Settings, clients: Clients, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    delivery: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("EMS_FL_CACHE", str(tmp_path / "cache"))
    settings = {**tiny_run, "model.delivery": delivery, "profile.stand-in-text": str(texts),
                "merge.max-merges": 3}  # fmt: skip
    folder = run(clients(settings), read_config(settings))
    events = events_of(folder)
    brought = [e for e in events if e["event"] == "delivered" and e["type"] == "query.deliver"]
    assert brought and all(sum(crossed for _, crossed in e["crossed"]) == e["bytes"] for e in brought)
    first_train = {e["node"]: e["time_s"] for e in reversed(events)
                   if e["event"] == "delivered" and e["type"] == "train"}  # fmt: skip
    for event in brought:
        if event["node"] in first_train:
            assert event["time_s"] <= first_train[event["node"]]
    summary = json.loads((folder / "summary.json").read_text())
    total = sum(cluster["model_bytes_down"] for cluster in summary["clusters"])
    assert total == sum(event["bytes"] for event in brought)


@pytest.mark.parametrize("stop_after", [5, 12])
def test_a_run_that_was_killed_during_delivery_goes_on_to_the_same_end(
    tiny_run: Settings, clients: Clients, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    stop_after: int,
) -> None:  # fmt: skip
    monkeypatch.setenv("EMS_FL_CACHE", str(tmp_path / "cache"))
    settings = {**tiny_run, "model.delivery": "everything", "profile.stand-in-text": str(texts),
                "merge.max-merges": 6, "model.piece-mb": 0.05,
                "data.drift-hours": 6.0, "assign.watch": 0.05}  # fmt: skip
    whole = run(clients(settings), read_config(settings))
    messages = list[str]()

    def cut(message: Message) -> None:
        messages.append(message.metadata.message_type)
        if len(messages) == stop_after:
            raise KeyboardInterrupt

    again = {**settings, "run.dir": str(tmp_path / "stopped")}
    with pytest.raises(KeyboardInterrupt):
        run(clients(again, spoil=cut), read_config(again))
    assert "query.deliver" in messages
    (stopped,) = (tmp_path / "stopped").iterdir()
    resumed = run(clients(again), read_config({**again, "run.resume": str(stopped)}))
    assert (whole / "events.jsonl").read_bytes() == (resumed / "events.jsonl").read_bytes()


def test_what_delivery_cannot_go_with_is_refused_at_the_door() -> None:
    with pytest.raises(ValueError, match=r'model\.delivery must be "beforehand" with the strategy "fedavg"'):
        read_config({"model.delivery": "experts", "strategy": "fedavg"})
    with pytest.raises(ValueError, match=r'profile\.method must not be "exact" where experts are delivered'):
        read_config({"model.delivery": "experts", "sky.simulated": False, "profile.method": "exact"})
