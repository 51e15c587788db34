"""Tuning the kept experts, and the arrays that travel."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel

from moe.disk.layout import open_storage, read_layout
from moe.experts import ExpertId, ParameterKey, Tuning
from moe.families.blocks import find_blocks
from moe.objective import language_model_inputs
from moe.submodel.load import load_full, load_submodel
from moe.tuning.adapters import MergedModel, attach, frozen_factor, get_arrays, initial_arrays, set_arrays
from tests.rooms import ROOT

Tiny = Callable[[str], Path]
KEEP = {0: (5, 1), 1: (0, 2, 7)}
EXPERTS = [ExpertId(layer, index) for layer, kept in KEEP.items() for index in kept]


def test_only_the_factors_b_of_kept_experts_train(checkpoint: Path) -> None:
    model = attach(load_submodel(checkpoint, KEEP), Tuning(lora_rank=3))
    assert isinstance(model, PeftModel)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * len(EXPERTS)
    assert all(".experts.e" in name and ".lora_B." in name for name in trained)
    # PEFT rewrites targets it takes for fused experts; ours must stay plain linear layers.
    config = model.peft_config["default"]
    assert isinstance(config, LoraConfig)
    assert not config.target_parameters
    assert config.r == 3


def test_full_tuning_trains_the_weights_and_biases_of_kept_experts_only(checkpoint: Path) -> None:
    model = attach(load_submodel(checkpoint, KEEP), Tuning(method="full"))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    parts = {name.split(".experts.e")[1].partition(".")[2] for name in trained}
    assert parts == {"fc_in.weight", "fc_out.weight"} | {
        f"{projection}.bias" for projection in read_layout(checkpoint).biases
    }
    assert len(trained) == len(parts) * len(EXPERTS)
    assert (read_layout(checkpoint).biases == ("fc_in", "fc_out")) == ("gpt_oss" in str(checkpoint))


@pytest.mark.parametrize("method", ["ffa", "lora", "full"])
def test_a_model_starts_from_the_initial_arrays_and_gives_back_what_it_was_given(
    checkpoint: Path, method: str
) -> None:
    tuning = Tuning(method=method, lora_rank=3)  # type: ignore[arg-type]
    model = attach(load_submodel(checkpoint, KEEP), tuning)
    start = initial_arrays(checkpoint, tuning, EXPERTS)
    found = get_arrays(model)
    assert found.keys() == start.keys()
    assert all(found[key].dtype == np.float32 and np.array_equal(found[key], start[key]) for key in start)
    generator = np.random.default_rng(0)
    given = {key: generator.normal(size=value.shape).astype(np.float32) for key, value in start.items()}
    set_arrays(model, given)
    assert all(np.array_equal(value, given[key]) for key, value in get_arrays(model).items())


def test_zero_b_changes_nothing(checkpoint: Path, tokens: torch.Tensor) -> None:
    plain = load_submodel(checkpoint, KEEP)
    with torch.no_grad():
        inputs = language_model_inputs(plain, tokens)
        before = plain(**inputs).logits
        after = attach(plain, Tuning()).eval()(**inputs).logits
    assert torch.equal(before, after)


def test_arrays_that_do_not_fit_are_all_named_and_none_is_set(tiny: Tiny) -> None:
    tuning = Tuning(lora_rank=2)
    model = attach(load_submodel(tiny("mixtral"), {0: (1,)}), tuning)
    before = get_arrays(model)
    wrong = {
        ParameterKey(0, 1, "fc_in.lora_B"): np.zeros((3, 2), np.float32),
        ParameterKey(0, 2, "fc_in.lora_B"): np.zeros((48, 2), np.float32),
    }
    with pytest.raises(
        ValueError, match=r"\(0, 2, 'fc_in.lora_B'\) is not tuned.*'fc_out.lora_B'\) is missing.*got \[3, 2\]"
    ):
        set_arrays(model, wrong)
    assert all(np.array_equal(value, before[key]) for key, value in get_arrays(model).items())


def test_arrays_are_refused_before_attach(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match="attach first"):
        get_arrays(load_submodel(tiny("mixtral"), {0: (1,)}))
    with pytest.raises(ValueError, match="load_submodel"):
        attach(load_full(tiny("mixtral")), Tuning())


def test_the_frozen_factor_is_the_same_in_any_process() -> None:
    """Golden: numpy's PCG64 is stable by its compatibility policy, sha256 by definition."""
    key = ParameterKey(3, 17, "fc_in.lora_A")
    here = frozen_factor(Tuning(lora_rank=2, seed=5), key, 4)
    code = (
        "from moe.factors import frozen_factor; from moe.experts import *; import sys;"
        "a = frozen_factor(Tuning(lora_rank=2, seed=5), ParameterKey(3, 17, 'fc_in.lora_A'), 4);"
        "sys.stdout.write(a.tobytes().hex())"
    )
    root = ROOT
    for salt in ("1", "2"):
        out = subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        )
        assert out.stdout == here.tobytes().hex()
    assert np.abs(here).max() <= 0.5  # 1/sqrt(4)
    for other in (
        ParameterKey(3, 16, key.name),
        ParameterKey(2, 17, key.name),
        ParameterKey(3, 17, "fc_out.lora_A"),
    ):
        assert not np.array_equal(frozen_factor(Tuning(lora_rank=2, seed=5), other, 4), here)
    assert not np.array_equal(frozen_factor(Tuning(lora_rank=2, seed=6), key, 4), here)


def test_the_frozen_factor_is_spread_as_pefts_default() -> None:
    ours = frozen_factor(Tuning(lora_rank=64), ParameterKey(0, 0, "fc_in.lora_A"), 256)
    linear = torch.nn.Linear(256, 64, bias=False)
    torch.nn.init.kaiming_uniform_(linear.weight, a=5**0.5)
    assert ours.std() == pytest.approx(linear.weight.std().item(), rel=0.02)
    assert np.abs(ours).max() == pytest.approx(linear.weight.abs().max().item(), rel=0.01)


def test_attaching_leaves_the_random_stream_alone(tiny: Tiny) -> None:
    model = load_submodel(tiny("mixtral"), KEEP)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    attach(model, Tuning())
    assert torch.equal(torch.rand(3), expected)


def test_setting_the_merged_model_again_leaves_nothing_of_the_time_before(checkpoint: Path) -> None:
    tuning = Tuning(lora_rank=2)
    base = load_full(checkpoint).state_dict()
    merged = MergedModel(checkpoint, tuning)
    start = initial_arrays(checkpoint, tuning, EXPERTS)
    merged.set({key: value + 1 for key, value in start.items()})
    storage = open_storage(checkpoint)
    changed = {
        (block.layer, index)
        for block in find_blocks(merged.model)
        for index in range(block.num_experts)
        for name, value in storage.read_expert(block.layer, index).items()
        if not torch.equal(block.view(name, index), value)
    }
    assert changed == {(expert.layer, expert.index) for expert in EXPERTS}
    merged.set({})
    assert all(torch.equal(value, base[name]) for name, value in merged.model.state_dict().items())


def test_the_merged_model_refuses_arrays_of_another_model(tiny: Tiny) -> None:
    tuning = Tuning(lora_rank=2)
    merged = MergedModel(tiny("mixtral"), tuning)
    bad = {
        ParameterKey(0, 99, "fc_in.lora_B"): np.zeros((48, 2), np.float32),
        ParameterKey(0, 1, "fc_in.weight"): np.zeros((48, 32), np.float32),
        ParameterKey(0, 2, "fc_in.lora_B"): np.full((48, 2), np.nan, np.float32),
    }
    with pytest.raises(ValueError, match=r"99.*no such expert.*not tuned by 'ffa'.*not finite"):
        merged.set(bad)


def test_layouts_of_initial_arrays(tiny: Tiny) -> None:
    layout = read_layout(tiny("mixtral"))
    arrays = initial_arrays(layout, Tuning(lora_rank=5), [ExpertId(1, 3)])
    assert {key.name: value.shape for key, value in arrays.items()} == {
        "fc_in.lora_B": (48, 5),
        "fc_out.lora_B": (32, 5),
    }
    assert {
        key.name: value.shape
        for key, value in initial_arrays(layout, Tuning(method="lora", lora_rank=5), [ExpertId(1, 3)]).items()
    } == {
        "fc_in.lora_A": (5, 32),
        "fc_in.lora_B": (48, 5),
        "fc_out.lora_A": (5, 24),
        "fc_out.lora_B": (32, 5),
    }
    with pytest.raises(ValueError, match="give its path"):
        initial_arrays(layout, Tuning(method="full"), [ExpertId(1, 3)])
