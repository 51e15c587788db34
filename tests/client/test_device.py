"""Which device is chosen, and that batches go where the model is; no GPU is needed for either."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from client.train import TrainSpec, train
from moe.device import choose_device
from moe.objective import mean_loss

BLOCKS_NT = np.zeros((3, 4), np.int64)


class Elsewhere(nn.Module):
    """A model on torch's "meta" device that notes where its batches are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, device="meta"))
        self.seen: set[str] = set()

    def forward(self, input_ids: Tensor, labels: Tensor, use_cache: bool) -> SimpleNamespace:
        assert not use_cache
        self.seen |= {input_ids.device.type, labels.device.type}
        return SimpleNamespace(loss=torch.ones((), requires_grad=True) * 1)


def test_the_gpu_is_taken_where_there_is_one_and_the_cpu_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for has_cuda, found in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has_cuda=has_cuda: has_cuda)
        assert choose_device("auto").type == found
        assert choose_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match=r'"cuda", and this process sees no CUDA device.*set it to "auto"'):
        choose_device("cuda")
    with pytest.raises(ValueError, match="one of auto, cpu, cuda, got 'tpu'"):
        choose_device("tpu")


def test_batches_go_where_the_model_is() -> None:
    spec = TrainSpec(
        steps=2,
        wall_budget_s=math.inf,
        batch_size=2,
        learning_rate=0.1,
        optimizer="sgd",
        weight_decay=0.0,
        max_grad_norm=1.0,
    )
    trained, measured = Elsewhere(), Elsewhere()
    train(trained, BLOCKS_NT, spec, [1])
    mean_loss(measured, BLOCKS_NT, 2)
    assert trained.seen == measured.seen == {"meta"}
