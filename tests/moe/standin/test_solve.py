"""The least-squares fit of a low-rank map with a constant for each expert.

Shape letters: T tokens, H hidden, E experts, R rank.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from moe.standin.solve import Moments
from moe.standin.stand_in import StandIn

Array = NDArray[np.float64]
T, H, E, R = 400, 12, 5, 3


@dataclass
class Data:
    """What experts are given and give; gates add up to one, as most routers' do, and expert 4 is idle."""

    given: Array
    gates: Array
    noise: Array

    def solve(self, target_TH: Array, rank: int, pieces: int = 3) -> StandIn:
        moments = Moments(H, E)
        for rows in np.array_split(np.arange(T), pieces):
            arrays = (self.given[rows], self.gates[rows], target_TH[rows])
            moments.add(*(torch.from_numpy(array) for array in arrays))
        return moments.solve(rank)

    def given_by(self, stand_in: StandIn) -> Array:
        parts = {name: tensor.numpy() for name, tensor in stand_in.tensors.items()}
        low = self.given @ parts["into"].T @ parts["out"].T
        out: Array = parts["bias"] + low + self.gates @ parts["constant"]
        return out


@pytest.fixture
def data() -> Data:
    draw = np.random.default_rng(3)
    gate_TE = draw.random((T, E)) * (draw.random((T, E)) < 0.6)
    gate_TE[:, 0] += 0.1
    gate_TE[:, 4] = 0
    mixing = draw.normal(size=(H, H)) * np.logspace(0, -1, H)  # channels of very different size
    return Data(
        given=draw.normal(size=(T, H)) @ mixing + 3,
        gates=gate_TE / gate_TE.sum(axis=1, keepdims=True),
        noise=draw.normal(size=(T, H)),
    )


def test_a_map_of_the_rank_with_constants_is_recovered_to_rounding(data: Data) -> None:
    draw = np.random.default_rng(4)
    out_HR, into_RH, constant_EH = (
        draw.normal(size=(H, R)),
        draw.normal(size=(R, H)),
        draw.normal(size=(E, H)),
    )
    target_TH = 0.5 + data.given @ into_RH.T @ out_HR.T + data.gates @ constant_EH
    found = data.solve(target_TH, R)
    np.testing.assert_allclose(data.given_by(found), target_TH, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.out @ found.into, out_HR @ into_RH, rtol=1e-4, atol=1e-5)
    assert not found.constant[4].any()  # nobody chose it: nothing is known of it


def test_the_fit_is_the_optimum_computed_the_slow_way(data: Data) -> None:
    target_TH = data.noise + np.tanh(data.given @ np.random.default_rng(6).normal(size=(H, H)))
    constants = np.column_stack([np.ones(T), data.gates])

    def left(of: Array) -> Array:
        """Return what constants cannot say."""
        kept: Array = of - constants @ np.linalg.lstsq(constants, of, rcond=1e-9)[0]
        return kept

    x, y = left(data.given), left(target_TH)
    fitted = x @ np.linalg.lstsq(x, y, rcond=None)[0]
    for rank in (1, R, H):
        u, s, v = np.linalg.svd(fitted, full_matrices=False)
        low = (u[:, :rank] * s[:rank]) @ v[:rank]
        errors_TH = data.given_by(data.solve(target_TH, rank)) - target_TH
        np.testing.assert_allclose(-errors_TH, y - low, rtol=1e-5, atol=1e-5)


def test_it_matters_neither_how_tokens_are_split_nor_when_it_is_solved(data: Data) -> None:
    one, other = data.solve(data.noise, R), data.solve(data.noise, R)
    assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
    split = data.given_by(data.solve(data.noise, R, pieces=7))
    np.testing.assert_allclose(split, data.given_by(one), rtol=1e-6, atol=1e-7)


def test_fewer_tokens_than_channels_have_one_answer_of_no_great_size() -> None:
    draw = torch.Generator().manual_seed(1)
    moments = Moments(H, E)
    target_TH = torch.randn(6, H, generator=draw)
    input_TH = torch.randn(6, H, generator=draw)
    moments.add(input_TH, torch.zeros(6, E), target_TH)
    found = moments.solve(H)
    assert float(found.into.abs().max()) < 10
    given = found.bias + input_TH.double() @ found.into.T @ found.out.T
    np.testing.assert_allclose(given, target_TH, atol=1e-5)


def test_inputs_and_gates_that_are_all_zero_give_the_mean() -> None:
    moments = Moments(2, 1)
    moments.add(torch.zeros(2, 2), torch.zeros(2, 1), torch.tensor([[1.0, 4.0], [3.0, 0.0]]))
    found = moments.solve(1)
    torch.testing.assert_close(found.bias, torch.tensor([2.0, 2.0], dtype=torch.float64))
    assert not found.into.any() and not found.constant.any()


def test_what_is_not_finite_is_refused() -> None:
    moments = Moments(2, 1)
    moments.add(torch.ones(1, 2), torch.ones(1, 1), torch.tensor([[float("inf"), 0.0]]))
    with pytest.raises(ValueError, match="fitted to finite numbers"):
        moments.solve(1)
