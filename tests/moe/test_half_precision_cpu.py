"""Half precision on a CPU without instructions for it: the same numbers, made in float32."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import moe.half_precision
from benchmarks.tiny_models import save_tiny
from moe.experts import Tuning
from moe.half_precision import ProductsInFloat32, half_products
from moe.submodel.load import load_submodel
from moe.tuning.adapters import attach

HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALVES)
@given(data=st.data())
def test_a_product_is_the_exact_one_rounded_once(dtype: torch.dtype, data: st.DataObject) -> None:
    size = st.integers(1, 9)
    m, k, n = data.draw(size), data.draw(size), data.draw(size)
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    left, right, bias = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype), torch.randn(n).to(dtype)
    with ProductsInFloat32():
        plain, biased = left @ right, torch.addmm(bias, left, right)
        batched = torch.bmm(left[None], right[None])[0]
        scaled = torch.addmm(bias, left, right, beta=3)  # torch's own: rounded more than once
    exact = left.double() @ right.double()
    torch.testing.assert_close(scaled.double(), exact + 3 * bias.double(), atol=0.2, rtol=0.02)
    for got, wanted in ((plain, exact), (batched, exact), (biased, exact + bias.double())):
        assert got.dtype == dtype
        # Half a unit in the last place, and what float32 itself may add.
        bound = wanted.abs() * torch.finfo(dtype).eps / 2 + 1e-5
        assert ((got.double() - wanted).abs() <= bound).all()


def test_an_operand_in_pieces_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    left, right = torch.randn(5, 33).bfloat16(), torch.randn(33, 7).bfloat16()
    with ProductsInFloat32():
        whole = left @ right
        monkeypatch.setattr(moe.half_precision, "_PIECE", 70)
        pieces = left @ right
    torch.testing.assert_close(pieces, whole, atol=1e-6, rtol=torch.finfo(torch.bfloat16).eps)


def test_float32_is_left_alone() -> None:
    torch.manual_seed(0)
    left, right, bias = torch.randn(5, 33), torch.randn(33, 7), torch.randn(7)
    expected = left @ right, torch.addmm(bias, left, right, beta=0.5), torch.bmm(left[None], right[None])
    with ProductsInFloat32():
        got = left @ right, torch.addmm(bias, left, right, beta=0.5), torch.bmm(left[None], right[None])
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert isinstance(half_products(nn.Linear(2, 2)), nullcontext)


@pytest.mark.parametrize("dtype", HALVES)
def test_gradients_are_those_of_the_processors_own_products_to_rounding(
    tmp_path: Path, tokens: torch.Tensor, dtype: torch.dtype
) -> None:
    path = save_tiny(tmp_path, "mixtral", dtype=dtype)
    gradients = []
    for context in (nullcontext(), ProductsInFloat32()):
        model = attach(load_submodel(path, {0: (1, 5), 1: (0, 2, 7)}), Tuning())
        with context:
            model(input_ids=tokens, labels=tokens).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    distance = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    assert gradients[0].any()
    assert distance < 30 * torch.finfo(dtype).eps
