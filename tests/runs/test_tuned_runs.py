"""Whole runs with other tunings than the demo's, and what a resumed run makes of another one's state."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from moe.tuning.adapters import MergedModel
from scenario.derive import tuning_from
from scenario.settings.reading import read_config
from server.app import run
from server.ems_fl_run import settings_from
from server.job import prepare
from server.record.state import load_state, save_state
from tests.fake_grid import FakeGrid
from tests.runs.conftest import Settings
from tests.runs.served import served_by

Clients = Callable[..., FakeGrid]

OPTIONS: list[Settings] = [
    {"train.method": "lora", "train.lora-rslora": True},
    {"train.max-steps": 6, "model.dtype": "bfloat16", "model.device": "cpu"},
    {"train.layers": "last 1", "train.kept-outputs-mb": 1.0, "train.max-steps": 6},
    {"train.router-rows": True, "model.absent": "renormalise", "evaluate.streamed": True},
    {"train.parts": "experts, attention", "merge.update-bits": 16, "merge.robust": "clip"},
    {"train.parts": "attention,experts", "train.method": "lora", "evaluate.streamed": True},
    {
        "train.max-steps": 6,
        "train.micro-batches": 3,
        "train.gradient-checkpointing": True,
        "train.lora-dropout": 0.1,
    },
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
def test_a_run_with_these_options_learns_and_takes_home_what_the_server_has(
    tiny_run: Settings, clients: Clients, options: Settings
) -> None:
    settings = {**tiny_run, **options, "merge.max-merges": 5}
    folder = run(clients(settings), read_config(settings))
    summary = json.loads((folder / "summary.json").read_text())
    assert any(c["own_loss_after"] < c["own_loss_before"] for c in summary["clusters"])
    # Every cluster has a part of the experts, all together at most all of them.
    assert 0 < summary["spent"]["trainable_parameters"] < summary["full_adapter"]["trainable_parameters"]
    values = load_state(folder)[0].values
    assert sum(value.size for value in values.values()) == summary["full_adapter"]["trainable_parameters"]
    base = str(settings["model.name"])
    tokens, tuning = torch.arange(12)[None] + 5, tuning_from(read_config(settings), (0, 1))
    with torch.no_grad():
        expected = MergedModel(base, tuning).set(served_by(folder, base)).model(input_ids=tokens)
        adapted = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base), str(folder / "adapter")
        )
        torch.testing.assert_close(adapted(input_ids=tokens).logits, expected.logits, atol=1e-4, rtol=0)


def test_what_all_clusters_train_is_told_and_gone_on_with(
    tiny_run: Settings, clients: Clients, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**tiny_run, "train.parts": "experts, attention", "merge.max-merges": 5}
    folder = run(clients(settings), read_config(settings))
    told = "note: every cluster tunes attention too, averaged over all of them (train.parts)"
    assert told in capsys.readouterr().out
    merged = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    versions = [event["versions"]["0.shared"] for event in merged if event["event"] == "merged"]
    assert versions == [1, 2, 3, 4, 5]
    card = (folder / "adapter" / "README.md").read_text()
    assert "attention too" in card and "not disjoint" in card
    # Stopped after two merges and gone on with: the same values as in one go.
    short = {**settings, "run.name": "short", "merge.max-merges": 2}
    stopped = run(clients(short), read_config(short))
    rest = {**settings, "run.resume": str(stopped)}
    assert (
        load_state(run(clients(rest), read_config(rest)))[0].values.keys()
        == load_state(folder)[0].values.keys()
    )
    for key, value in load_state(folder)[0].values.items():
        assert np.array_equal(load_state(stopped)[0].values[key], value), key


@pytest.mark.parametrize("strategy", ["fedavg", "fedasync"])
def test_rivals_may_tune_shared_parts_alone(tiny_run: Settings, clients: Clients, strategy: str) -> None:
    settings = {**tiny_run, "strategy": strategy, "train.parts": "attention", "merge.max-merges": 4}
    settings |= {"fedavg.rounds": 1, "sky.hours": 20.0} if strategy == "fedavg" else {}
    folder = run(clients(settings), read_config(settings))
    summary = json.loads((folder / "summary.json").read_text())
    # q, k, v and o of two layers, 16 wide: B is 16 x 2.
    assert summary["full_adapter"]["trainable_parameters"] == 2 * 4 * 16 * 2
    assert summary["spent"]["trainable_parameters"] == summary["full_adapter"]["trainable_parameters"]
    assert all(c["merged_loss_after"] != c["merged_loss_before"] for c in summary["clusters"])


def test_only_the_layers_that_are_named_change_whatever_is_kept_of_those_below(
    tiny_run: Settings, clients: Clients
) -> None:
    settings = {**tiny_run, "train.layers": "1", "train.max-steps": 3, "merge.max-merges": 3}
    logs = []
    # A block's output is 4 bytes x 16 x its tokens: in 2 kB there is room for one or two.
    for kept_mb in (0.000001, 0.002, 10.0):
        given = {**settings, "train.kept-outputs-mb": kept_mb}
        folder = run(clients(given), read_config(given))
        logs.append((folder / "events.jsonl").read_bytes())
        values = load_state(folder)[0].values
        assert {key.layer for key in values} == {1}
        assert any(value.any() for value in values.values())
    assert logs[0] == logs[1] == logs[2]


def test_layers_without_experts_are_refused_before_a_run(tiny_run: Settings) -> None:
    for choice, told in (("1, 2", r"got 2; those of this model are 0, 1"), ("last 3", r'got "last 3" of 2')):
        with pytest.raises(ValueError, match=told):
            prepare(read_config({**tiny_run, "train.layers": choice}), say=print)
    with pytest.raises(ValueError, match=r"train.layers must be text that matches"):
        read_config({**tiny_run, "train.layers": "first 2"})


def test_a_state_that_tunes_other_arrays_is_refused(tiny_run: Settings, clients: Clients) -> None:
    settings = {**tiny_run, "merge.max-merges": 2}
    folder = run(clients(settings), read_config(settings))
    state, sky, extra = load_state(folder)
    lost = sorted(state.values)[0]
    state.values = {key: np.copy(value) for key, value in state.values.items() if key != lost}
    save_state(folder, state, sky=sky, extra=extra)
    more = {**settings, "merge.max-merges": 4, "run.resume": str(folder)}
    log = (folder / "events.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"differ in \(0, 0, 'fc_in.lora_B'\); start a new run"):
        run(clients(settings), read_config(more))
    assert (folder / "events.jsonl").read_bytes() == log


@pytest.mark.parametrize(("dtype", "weight_bytes"), [("auto", 4), ("bfloat16", 2)])
def test_budgets_count_the_type_that_devices_hold(tiny_run: Settings, dtype: str, weight_bytes: int) -> None:
    layout = prepare(read_config({**tiny_run, "model.dtype": dtype}), say=print).layout
    whole = prepare(read_config(tiny_run), say=print).layout
    assert layout.weight_bytes == weight_bytes
    assert layout.total_bytes * 4 == whole.total_bytes * weight_bytes


@pytest.mark.parametrize(
    ("options", "tuned_bytes"),
    [
        # An expert is 16 -> 48 and 24 -> 16, in 2 layers: 4608 bytes each. Of rank 2: B is 96 + 32 numbers,
        # A 32 + 48. An array that is tuned is there with a gradient, and with AdamW two moments.
        ({}, 2 * (4608 + 4 * (4 * 128 + 80))),
        ({"train.optimizer": "sgd"}, 2 * (4608 + 4 * (2 * 128 + 80))),
        ({"train.method": "lora", "train.router-rows": True}, 2 * (4608 + 4 * 4 * (128 + 80 + 16))),
        ({"train.method": "full", "model.dtype": "bfloat16"}, 2 * 4 * 4608),
    ],
    ids=["ffa", "sgd", "lora-rows", "full-bfloat16"],
)
def test_a_device_is_given_what_it_can_hold_while_it_tunes(
    tiny_run: Settings, options: Settings, tuned_bytes: int
) -> None:
    job = prepare(read_config({**tiny_run, "assign.link-budget": False, **options}), say=print)
    settings = settings_from(job)
    assert settings.one_of_each_bytes == tuned_bytes
    two = job.layout.shared_bytes + 2 * tuned_bytes
    limits = [settings.max_experts(job.clusters[0], memory) for memory in (two - 1, two, 10**9)]
    assert limits == [1, 2, 4]
