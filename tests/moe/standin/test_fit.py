"""Stand-ins fitted in turn, against the same done the slow, clear way; and a base that is its stand-ins.

Shape letters: T tokens, H hidden, E experts.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.tiny_models import save_tiny
from moe.disk.layout import open_storage
from moe.disk.storage import Storage
from moe.standin import in_turn
from moe.standin.fit import fit_stand_ins
from moe.standin.load import load_with_stand_ins
from moe.standin.stand_in import StandIn, StandInExperts, StandIns, gate_weights
from moe.submodel.load import build_around, load_full
from moe.submodel.routing import routing_mass

HIDDEN = 32


def run(model: PreTrainedModel, layer: int, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a mixtral's stream behind a layer, and the input and gates of that layer's experts."""
    seen: dict[str, Any] = {}
    block = model.model.layers[layer]
    handles = [
        block.register_forward_hook(lambda _m, _a, out: seen.update(stream=out)),
        block.mlp.experts.register_forward_pre_hook(lambda _m, args: seen.update(args=args)),
    ]
    with torch.no_grad():
        model.model(tokens, use_cache=False)
    for handle in handles:
        handle.remove()
    hidden, choice, weight = seen["args"]
    return seen["stream"].reshape(-1, HIDDEN), hidden, gate_weights(choice, weight, 8)


def with_some(path: Path, of_layer: Mapping[int, StandIn]) -> PreTrainedModel:
    """Return a model with these stand-ins, and nothing for the experts of other layers."""
    return build_around(open_storage(path), lambda block: StandInExperts(block, of_layer.get(block.layer)))


def test_each_is_the_best_for_what_the_earlier_ones_leave(deep: Path, text: Tensor) -> None:
    # At full rank, where the best is plain least squares. 272 tokens for 41 regressors.
    found = fit_stand_ins(deep, [text], base="deep", rank=HIDDEN)
    assert list(found.of_layer) == [0, 1, 2, 3]
    exact = load_full(deep)
    for layer, stand_in in found.of_layer.items():
        before = {lower: other for lower, other in found.of_layer.items() if lower < layer}
        stream, hidden, gate = run(with_some(deep, before), layer, text)
        target = (run(exact, layer, text)[0] - stream).double().numpy()
        regressors = np.column_stack([np.ones(len(hidden)), gate, hidden])
        best = regressors @ np.linalg.lstsq(regressors, target, rcond=1e-7)[0]
        with_it = run(with_some(deep, {**before, layer: stand_in}), layer, text)[0]
        given = (with_it - stream).double().numpy()
        # What eight bits of mantissa leave of it.
        assert np.linalg.norm(given - best) < 0.01 * np.linalg.norm(best)
        assert np.linalg.norm(given - target) < 0.9 * np.linalg.norm(target)


def test_in_turn_leaves_less_error_behind_the_last_than_fitting_each_to_the_exact_model(
    deep: Path, text: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def error(found: StandIns) -> float:
        streams = [run(model, 3, text)[0] for model in (with_some(deep, found.of_layer), load_full(deep))]
        return float((streams[0] - streams[1]).norm() / streams[1].norm())

    in_turn = error(fit_stand_ins(deep, [text], base="deep", rank=16))
    # Without the knowledge of what the stream lacks each is fitted to its own layer's output alone.
    monkeypatch.setattr("moe.standin.in_turn._lacking", lambda *_: None)
    assert in_turn < 0.95 * error(fit_stand_ins(deep, [text], base="deep", rank=16))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("family", "gain"), [("mixtral", 1.0), ("granitemoe", 0.25), ("flex_olmo", None), ("gemma4_text", None)]
)
def test_how_a_stream_grows_by_what_experts_give_is_measured_in_every_type(
    family: str, gain: float | None, dtype: str, text: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Granite multiplies what a block gives; the others have a norm behind their experts.
    changes: dict[str, Any] = {"residual_multiplier": gain} if family == "granitemoe" else {}
    path = save_tiny(tmp_path / "model", family, num_hidden_layers=3, **changes)
    lacking, found = in_turn._lacking, []

    def noted(output: Tensor, empty: Tensor, exact: Tensor) -> Tensor | None:
        found.append(lacking(output, empty, exact))
        if found[-1] is not None and gain:
            first, second = empty.float().tensor_split(2)
            torch.testing.assert_close(found[-1] * gain, first - second, rtol=0.02, atol=1e-6)
        return found[-1]

    monkeypatch.setattr(in_turn, "_lacking", noted)
    fit_stand_ins(path, [text], base=family, dtype=dtype)
    assert [lack is not None for lack in found] == [gain is not None] * 2


@pytest.mark.parametrize(("size", "is_known"), [(1.0, True), (30.0, True), (3000.0, False)])
def test_a_stream_may_be_too_coarse_to_tell_what_it_lacks(size: float, is_known: bool) -> None:
    draw = torch.Generator().manual_seed(1)
    stream, other, exact = (torch.randn(64, HIDDEN, generator=draw) for _ in range(3))
    empty = torch.cat([stream, other]) * size
    output = empty + torch.cat([exact, torch.zeros_like(exact)])
    found = in_turn._lacking(output.bfloat16(), empty.bfloat16(), exact)
    assert (found is not None) == is_known
    if found is not None:
        torch.testing.assert_close(found, (stream - other) * size, rtol=0.1, atol=0.05 * size)


def test_the_same_text_gives_the_same_bits_however_it_is_batched(
    deep: Path, text: Tensor, stand_ins: StandIns
) -> None:
    again = fit_stand_ins(deep, [text], base="deep", rank=4)
    assert again.of_layer.keys() == stand_ins.of_layer.keys()
    for layer, stand_in in again.of_layer.items():
        for name, tensor in stand_in.tensors.items():
            assert torch.equal(tensor, stand_ins.of_layer[layer].tensors[name]), (layer, name)


def test_an_expert_is_read_once_and_those_of_the_last_layer_never(
    deep: Path, text: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: Counter[tuple[int, int, str]] = Counter()
    read = Storage.read_projection

    def counted(self: Storage, layer: int, index: int, projection: str) -> Any:
        reads[layer, index, projection] += 1
        return read(self, layer, index, projection)

    monkeypatch.setattr(Storage, "read_projection", counted)
    told: list[str] = []
    fit_stand_ins(deep, [text], base="deep", rank=4, progress=told.append)
    assert set(reads.values()) == {1} and {layer for layer, *_ in reads} == {0, 1, 2, 3}
    assert len(told) == 4 and told[-1].startswith("4 of 4 layers")


@pytest.fixture
def affine(tiny: Callable[[str], Path], tmp_path: Path) -> tuple[Path, StandIn]:
    """Make a gpt_oss whose first experts are a map of rank 3 and a constant each; return both."""
    model = AutoModelForCausalLM.from_pretrained(tiny("gpt_oss"))
    experts = model.model.layers[0].mlp.experts
    draw = torch.Generator().manual_seed(2)

    def numbers(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=draw) / 8).bfloat16().float()

    into, out, constant = numbers(3, HIDDEN), numbers(HIDDEN, 3), numbers(8, HIDDEN)
    with torch.no_grad():
        # out = down(silu-like(gate) * (up + 1)): gate the same for every input, up linear in it.
        experts.gate_up_proj.zero_()
        experts.gate_up_proj_bias.zero_()
        experts.gate_up_proj_bias[:, 0::2] = 2.0
        experts.gate_up_proj[:, :, 1:7:2] = into.T
        experts.gate_up_proj_bias[:, 1::2] = -1.0
        gated = float(2.0 * torch.sigmoid(torch.tensor(2.0) * experts.alpha))
        experts.down_proj.zero_()
        experts.down_proj[:, :3] = out.T / gated
        experts.down_proj_bias.copy_(constant)
    model.save_pretrained(tmp_path / "affine")
    stand_in = StandIn(bias=torch.zeros(HIDDEN), out=out, into=into, constant=constant)
    return tmp_path / "affine", stand_in


def test_stand_ins_that_are_the_experts_give_the_exact_profile(
    affine: tuple[Path, StandIn], tokens: Tensor
) -> None:
    path, stand_in = affine
    model = load_with_stand_ins(path, StandIns(base="affine", of_layer={0: stand_in}))
    np.testing.assert_allclose(
        routing_mass(model, [tokens]), routing_mass(load_full(path), [tokens]), rtol=1e-5
    )


def test_experts_that_are_a_stand_in_are_recovered_from_text(
    affine: tuple[Path, StandIn], text: Tensor, tokens: Tensor
) -> None:
    path, true = affine
    found = fit_stand_ins(path, [text], base="affine", rank=3)
    given = found.of_layer[0].out.float() @ found.of_layer[0].into.float()
    torch.testing.assert_close(given, true.out @ true.into, atol=2e-3, rtol=0.02)
    mass, exact = (
        routing_mass(model, [tokens]) for model in (load_with_stand_ins(path, found), load_full(path))
    )
    np.testing.assert_allclose(mass, exact, rtol=0.02, atol=0.02)


def test_what_is_no_text_to_fit_to_is_refused(deep: Path, text: Tensor) -> None:
    with pytest.raises(ValueError, match=r"blocks of tokens of one length .*, got no block"):
        fit_stand_ins(deep, [], base="deep")
    with pytest.raises(ValueError, match=r"got blocks of \[\(9,\), \(17,\)\]"):
        fit_stand_ins(deep, [text, text[:, :9]], base="deep")
    with pytest.raises(ValueError, match="rank of stand-ins must be at least 1, got 0"):
        fit_stand_ins(deep, [text], base="deep", rank=0)
