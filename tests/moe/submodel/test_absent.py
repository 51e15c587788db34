"""What becomes of tokens whose router wants an expert that is not here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import PreTrainedModel

from moe.experts import Tuning
from moe.families.blocks import MoEBlock, find_blocks
from moe.objective import language_model_inputs, language_model_loss
from moe.submodel.absent import Absent, choose_kept
from moe.submodel.load import load_full, load_submodel
from moe.tuning.adapters import attach
from tests.moe.submodel.slow_blocks import is_special, run

Tiny = Callable[[str], Path]
KEEPS: list[dict[int, tuple[int, ...]]] = [
    {0: (3,), 1: (3,)},
    {0: (1, 6), 1: ()},
    {0: (0, 2, 5, 7), 1: (4, 5, 6)},
]


def rule(
    choice: list[int], weight: list[float], logits: list[float], kept: tuple[int, ...], absent: str
) -> dict[int, float]:
    """Say in plain Python, for one token, which experts it gets at which weight."""
    mine = {e: w for e, w in zip(choice, weight, strict=True) if e in kept}
    if len(mine) == len(choice) or absent == "mask" or not kept:
        return mine
    total = sum(weight)
    if absent == "renormalise" or (absent == "reroute" and mine):
        return {e: w * total / sum(mine.values()) for e, w in mine.items()}
    most = 1 if absent == "reroute" else min(len(choice), len(kept))
    best = sorted(kept, key=lambda e: -logits[e])[:most]
    odds = torch.softmax(torch.tensor([logits[e] for e in best]), dim=0).tolist()
    return {e: total * share for e, share in zip(best, odds, strict=True)}


def restrict_special(block: MoEBlock, kept: tuple[int, ...], absent: str) -> None:
    """Make a block of a special family follow `rule`; identity experts always count as kept."""
    kept = (*kept, *range(block.num_experts, block.num_experts + block.family.num_identity))

    def change(choice: dict[int, float], logits: list[float]) -> dict[int, float]:
        return rule(list(choice), list(choice.values()), logits, kept, absent)

    parent = block.family.parent
    parent.forward = lambda hidden: run(parent, hidden, change)


def restrict_full(model: PreTrainedModel, keep: dict[int, tuple[int, ...]], absent: str) -> None:
    """Make the full model follow `rule`, token by token, at the input of its experts."""
    for block in find_blocks(model):
        if is_special(block.family.parent):
            restrict_special(block, tuple(keep.get(block.layer, ())), absent)
            continue
        heard: dict[str, Tensor] = {}

        def listen(
            _m: nn.Module, _a: Any, output: tuple[Tensor, ...], heard: dict[str, Tensor] = heard
        ) -> None:
            heard["logits"] = output[0]

        def choose(
            _m: nn.Module,
            args: tuple[Tensor, ...],
            heard: dict[str, Tensor] = heard,
            kept: tuple[int, ...] = tuple(keep.get(block.layer, ())),
        ) -> tuple[Tensor, ...]:
            hidden, choice, weight = args
            choice, weight = choice.clone(), weight.clone()
            for token in range(len(choice)):
                given = rule(
                    choice[token].tolist(),
                    weight[token].tolist(),
                    heard["logits"][token].tolist(),
                    kept,
                    absent,
                )
                # A place that is left over points anywhere at weight zero.
                pairs = [*given.items(), *[(0, 0.0)] * choice.shape[1]][: choice.shape[1]]
                choice[token] = torch.tensor([expert for expert, _ in pairs])
                weight[token] = torch.tensor([share for _, share in pairs])
            return hidden, choice, weight

        block.router.register_forward_hook(listen)
        block.experts.register_forward_pre_hook(choose)


@pytest.mark.parametrize("absent", get_args(Absent))
def test_a_sub_model_follows_the_rule_told_token_by_token(
    checkpoint: Path, tokens: Tensor, absent: str
) -> None:
    for keep in KEEPS:
        slow = load_full(checkpoint)
        restrict_full(slow, keep, absent)
        fast = load_submodel(checkpoint, keep, absent=absent)
        with torch.no_grad():
            inputs = language_model_inputs(slow, tokens)
            torch.testing.assert_close(fast(**inputs).logits, slow(**inputs).logits, atol=5e-6, rtol=1e-5)


def test_a_token_whose_experts_are_all_kept_keeps_its_weights_to_the_bit() -> None:
    local = torch.tensor([[1, 0], [2, 1], [3, 3]])
    weight = torch.tensor([[0.7000001, 0.3], [0.6, 0.1], [0.5, 0.2]])
    logits = torch.tensor([[0.0, 1.0, 9.0], [0.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    for absent in get_args(Absent):
        chosen, share = choose_kept(local, weight, logits, absent, 3)
        assert torch.equal(chosen[:2], local[:2])
        assert torch.equal(share[:2], weight[:2])


def test_restrict_shares_the_original_total_by_the_routers_logits() -> None:
    local = torch.tensor([[4, 1]])  # the first choice is absent: 4 kept experts, 0..3
    logits = torch.tensor([[0.0, -1.0, 2.0, 1.0]])
    chosen, share = choose_kept(local, torch.tensor([[0.5, 0.3]]), logits, "restrict", 4)
    assert chosen.tolist() == [[2, 3]]
    # softmax([2, 1]) = e/(e+1), 1/(e+1) = 0.7311, 0.2689; the total is 0.8
    torch.testing.assert_close(share, torch.tensor([[0.58485, 0.21515]]), atol=1e-5, rtol=0)


def test_reroute_sends_only_a_token_without_any_expert_elsewhere() -> None:
    local = torch.tensor([[4, 1], [4, 4]])  # one choice of two is here; none is
    logits = torch.tensor([[9.0, -1.0, 2.0, 1.0], [0.0, -1.0, 2.0, 1.0]])
    chosen, share = choose_kept(local, torch.tensor([[0.5, 0.3], [0.6, 0.1]]), logits, "reroute", 4)
    assert chosen.tolist() == [[4, 1], [2, 4]]
    torch.testing.assert_close(share, torch.tensor([[0.0, 0.8], [0.7, 0.0]]))


def test_renormalise_keeps_the_total_and_mask_does_not() -> None:
    local, weight = torch.tensor([[3, 1], [3, 3]]), torch.tensor([[0.5, 0.3], [0.6, 0.4]])
    _, renormalised = choose_kept(local, weight, None, "renormalise", 3)
    _, masked = choose_kept(local, weight, None, "mask", 3)
    torch.testing.assert_close(renormalised, torch.tensor([[0.0, 0.8], [0.0, 0.0]]))
    torch.testing.assert_close(masked, torch.tensor([[0.0, 0.3], [0.0, 0.0]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_renormalise_in_half_precision_gives_a_token_without_experts_zero_not_nan(dtype: torch.dtype) -> None:
    local = torch.tensor([[3, 3], [3, 1]])
    _, share = choose_kept(
        local, torch.tensor([[0.6, 0.4], [0.5, 0.25]], dtype=dtype), None, "renormalise", 3
    )
    assert share.dtype == dtype
    assert share.tolist() == [[0.0, 0.0], [0.0, 0.75]]


@given(data=st.data())
def test_restrict_gives_every_token_its_whole_weight_on_distinct_kept_experts(data: st.DataObject) -> None:
    num_experts = data.draw(st.integers(2, 9))
    top_k = data.draw(st.integers(1, num_experts))
    num_kept = data.draw(st.integers(1, num_experts))
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    kept = torch.randperm(num_experts)[:num_kept].sort().values
    local_of = torch.full((num_experts,), num_kept)
    local_of[kept] = torch.arange(num_kept)
    logits = torch.randn(6, num_experts)
    weight, choice = torch.topk(torch.sigmoid(logits), top_k, dim=-1)
    local, share = choose_kept(local_of[choice], weight, logits[:, kept], "restrict", num_kept)
    assert local.shape == share.shape == (6, min(top_k, num_kept))
    assert (local < num_kept).all()
    assert all(len(set(row)) == len(row) for row in local.tolist())
    torch.testing.assert_close(share.sum(dim=-1), weight.sum(dim=-1))
    # The router's first choice, where it is kept, stays the token's first.
    first_T = local_of[choice[:, 0]]
    assert torch.equal(local[first_T < num_kept, 0], first_T[first_T < num_kept])


@pytest.mark.parametrize("method", ["ffa", "lora", "full"])
def test_no_token_for_any_kept_expert_trains_nothing_and_does_not_crash(tiny: Tiny, method: str) -> None:
    # With a router of zeros every token goes to the two experts topk finds first among equals.
    popular = torch.topk(torch.full((4, 8), 0.125), 2, dim=-1).indices.unique().tolist()
    lonely = next(index for index in range(8) if index not in popular)
    model = load_submodel(tiny("mixtral"), {0: (lonely,), 1: ()}, absent="mask")
    with torch.no_grad():
        for layer in (0, 1):
            model.get_parameter(f"model.layers.{layer}.mlp.gate.weight").zero_()
    tuned = attach(model, Tuning(method=method))  # type: ignore[arg-type]
    tuned.train()
    tokens = torch.zeros(1, 4, dtype=torch.long)
    tuned(input_ids=tokens, labels=tokens).loss.backward()
    gradients = [p.grad for p in tuned.parameters() if p.requires_grad]
    assert gradients
    assert all(g is not None and not g.any() for g in gradients)


def test_gradient_checkpointing_gives_the_same_gradients(checkpoint: Path, tokens: Tensor) -> None:
    found = []
    for is_on in (False, True):
        model = attach(load_submodel(checkpoint, KEEPS[2]), Tuning())
        model.train()
        if not model.supports_gradient_checkpointing:
            pytest.skip("transformers has none for this family")
        if is_on:
            model.activation_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(0)
        language_model_loss(model, tokens).backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_sub_model_of_no_expert_runs(checkpoint: Path, tokens: Tensor) -> None:
    with torch.no_grad():
        model = load_submodel(checkpoint, {})
        assert torch.isfinite(model(**language_model_inputs(model, tokens)).logits).all()
