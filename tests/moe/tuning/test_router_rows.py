"""Tuning the router's rows of the kept experts: exact, disjoint, and the rest of the router untouched."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from benchmarks.tiny_models import MUST_PASS
from moe.disk.layout import open_storage, read_layout
from moe.experts import ExpertArrays, ExpertId, Tuning
from moe.export.checkpoint import export_adapter, export_merged, load_adapter
from moe.factors import ROUTER_ROW
from moe.objective import language_model_inputs, language_model_loss
from moe.submodel.expert_subset import expert_subsets
from moe.submodel.load import all_experts, load_full, load_submodel
from moe.tuning.adapters import MergedModel, attach, check_arrays, get_arrays, initial_arrays, set_arrays
from moe.tuning.router_rows import router_names

Tiny = Callable[..., Path]
TUNING = Tuning(lora_rank=2, router_rows=True)
FULL = Tuning(method="full", router_rows=True)


@pytest.fixture(params=[family for family in MUST_PASS if family != "longcat_flash"])
def family(request: pytest.FixtureRequest) -> str:
    """One family after another with a row for each expert; longcat_flash has others too."""
    return str(request.param)


@pytest.fixture
def checkpoint(family: str, tiny: Tiny) -> Path:
    return tiny(family)


def random_arrays(path: Path, tuning: Tuning, experts: list[ExpertId], seed: int = 0) -> ExpertArrays:
    generator = np.random.default_rng(seed)
    return {
        key: value + generator.normal(0, 0.3, value.shape).astype(np.float32)
        for key, value in initial_arrays(path, tuning, experts).items()
    }


def logits(model: nn.Module, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return cast(Tensor, model(**language_model_inputs(model, tokens)).logits)


def keep_all(path: Path, tuning: Tuning) -> nn.Module:
    return attach(load_submodel(path, all_experts(open_storage(path).blocks.values())), tuning).eval()


def routers(path: Path) -> dict[str, Tensor]:
    names = router_names(open_storage(path))
    return {name: value for name, value in load_full(path).state_dict().items() if name in names.values()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_untouched_router_is_the_same_bits_in_memory_and_on_disk(
    tiny: Tiny, family: str, tokens: Tensor, tmp_path: Path, dtype: torch.dtype
) -> None:
    folder = tiny(family, dtype)
    plain, rows = (keep_all(folder, replace(TUNING, router_rows=on)) for on in (False, True))
    assert torch.equal(logits(plain, tokens), logits(rows, tokens))
    for tuning in (TUNING, FULL):
        start = initial_arrays(folder, tuning, read_layout(folder).experts)
        assert sum(key.name == ROUTER_ROW for key in start) == len(read_layout(folder).experts)
        out = export_merged(folder, start, tuning, tmp_path / tuning.method)
        for file in folder.iterdir():
            assert (out / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tuning", [TUNING, FULL], ids=lambda tuning: tuning.method)
def test_the_merged_model_and_the_export_are_a_device_that_keeps_everything(
    tiny: Tiny, family: str, tokens: Tensor, tmp_path: Path, tuning: Tuning, dtype: torch.dtype
) -> None:
    folder = tiny(family, dtype)
    arrays = random_arrays(folder, tuning, list(read_layout(folder).experts))
    device = keep_all(folder, tuning)
    set_arrays(device, arrays)
    assert all(np.array_equal(value, arrays[key]) for key, value in get_arrays(device).items())
    merged, untouched = MergedModel(folder, tuning).set(arrays), routers(folder)
    held = merged.model.state_dict()
    for module, name in zip(expert_subsets(device), untouched, strict=True):
        owner: Any = next(m for m in module.block.router.modules() if hasattr(m, "parametrizations"))
        assert torch.equal(owner.weight, held[name])
    out = load_full(export_merged(folder, arrays, tuning, tmp_path / "out"))
    # A router that the family keeps in float32 is in the file in the file's type.
    stored = {name: value.to(dtype).to(value.dtype) for name, value in held.items()}
    assert all(torch.equal(value, stored[name]) for name, value in out.state_dict().items())
    assert not any(torch.equal(value, held[name]) for name, value in untouched.items())
    if dtype is torch.float32:
        expected = logits(merged.model, tokens)
        torch.testing.assert_close(logits(device, tokens), expected, atol=2e-4, rtol=1e-4)
    base = load_full(folder).state_dict()
    merged.set({})
    assert all(torch.equal(value, base[name]) for name, value in merged.model.state_dict().items())


def test_two_clusters_tune_rows_of_their_own_and_commute(checkpoint: Path, tokens: Tensor) -> None:
    keeps = ({0: (1, 5), 1: (0, 4)}, {0: (0, 2), 1: (3, 7)})
    base = routers(checkpoint)
    learned = []
    for keep in keeps:
        model = attach(load_submodel(checkpoint, keep, absent="restrict"), TUNING)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
        language_model_loss(model, tokens).backward()
        optimizer.step()
        learned.append(get_arrays(model))
    assert learned[0].keys().isdisjoint(learned[1].keys())
    merged = MergedModel(checkpoint, TUNING)
    one = {n: v.clone() for n, v in merged.set(learned[0] | learned[1]).model.state_dict().items()}
    other = merged.set(learned[1] | learned[0]).model.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    for layer, name in router_names(open_storage(checkpoint)).items():
        changed = (one[name] != base[name]).any(dim=1).nonzero().flatten().tolist()
        assert changed == sorted(index for keep in keeps for index in keep[layer])


@pytest.mark.parametrize("absent", ["restrict", "reroute", "renormalise"])
@pytest.mark.parametrize("keep", [{0: (1, 5), 1: (0, 2, 7)}, {0: (1,), 1: (3,)}], ids=["several", "one"])
def test_gradients_reach_the_rows_and_nothing_else_of_the_router(
    tiny: Tiny, tokens: Tensor, absent: str, keep: dict[int, tuple[int, ...]]
) -> None:
    """In olmoe choices are not normalised: with one kept expert the row still sets how much of it."""
    model = attach(load_submodel(tiny("olmoe"), keep, absent=absent), TUNING)
    language_model_loss(model, tokens).backward()
    rows = {name: p for name, p in model.named_parameters() if ".changes." in name}
    assert len(rows) == sum(map(len, keep.values()))
    assert all(p.grad is not None and p.grad.abs().max() > 1e-6 for p in rows.values())
    originals = [p for name, p in model.named_parameters() if name.endswith("weight.original")]
    assert len(originals) == 2
    assert not any(p.requires_grad for p in originals)


def test_a_router_that_normalises_its_choices_is_taught_by_the_choice_among_several_kept(
    tiny: Tiny, tokens: Tensor
) -> None:
    """Under restrict the kept experts share the token, by logits; alone, an expert has all of it anyway."""
    largest = []
    for keep in ({0: (1, 5), 1: (0, 7)}, {0: (1,), 1: (0,)}):
        model = attach(load_submodel(tiny("mixtral"), keep, absent="restrict"), TUNING)
        language_model_loss(model, tokens).backward()
        largest.append(
            [p.grad.abs().max().item() for p in model.parameters() if p.grad is not None and p.ndim == 1]
        )
    assert len(largest[0]) == 4
    assert min(largest[0]) > 1e-3
    assert len(largest[1]) == 2
    assert max(largest[1]) < 1e-5


def test_a_router_that_is_not_one_row_for_each_expert_is_refused_by_name(tiny: Tiny) -> None:
    for tuning in (TUNING, FULL):
        with pytest.raises(ValueError, match=r"train.router-rows cannot tune 'longcat_flash'.*turn it off"):
            initial_arrays(tiny("longcat_flash"), tuning, [ExpertId(0, 0)])
    model = load_submodel(tiny("mixtral"), {0: (1,)})
    for module in expert_subsets(model):
        module.block.router.register_parameter("second", nn.Parameter(torch.zeros(8, 32)))
    with pytest.raises(ValueError, match=r"router of layer 0 has no single weight of one row"):
        attach(model, TUNING)


def test_rows_of_another_width_are_refused(tiny: Tiny) -> None:
    arrays = random_arrays(tiny("mixtral"), TUNING, [ExpertId(0, 2)])
    row = next(key for key in arrays if key.name == ROUTER_ROW)
    with pytest.raises(ValueError, match=r"\(0, 2, 'router.row'\) must be \[32\], got \[31\]"):
        check_arrays(arrays | {row: arrays[row][1:]}, read_layout(tiny("mixtral")), TUNING)
    with pytest.raises(ValueError, match="not tuned by 'ffa'"):
        check_arrays(arrays, read_layout(tiny("mixtral")), replace(TUNING, router_rows=False))


def test_taking_rows_home_does_not_pass_on_pefts_false_warning(tiny: Tiny, tmp_path: Path) -> None:
    path = tiny("mixtral")
    arrays = random_arrays(path, TUNING, list(read_layout(path).experts))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        adapter = export_adapter(path, arrays, TUNING, tmp_path / "adapter")
        load_adapter(path, adapter)
    with pytest.warns(RuntimeWarning, match="rank_pattern keys did not match"):
        PeftModel.from_pretrained(load_full(path), str(adapter))
    card = " ".join((adapter / "README.md").read_text().split())
    assert (
        "PEFT 0.21.2 warns here that keys of `rank_pattern` and `alpha_pattern` were ignored. They are"
        in card
    )
