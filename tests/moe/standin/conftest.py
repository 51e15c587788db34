"""Stand-ins of a checkpoint of several layers, for the tests to spoil."""

from pathlib import Path

import pytest
import torch

from benchmarks.tiny_models import VOCABULARY, save_tiny
from moe.standin.fit import fit_stand_ins
from moe.standin.stand_in import StandIns


@pytest.fixture(scope="session")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny mixtral of five layers."""
    return save_tiny(tmp_path_factory.mktemp("deep"), "mixtral", num_hidden_layers=5)


@pytest.fixture(scope="session")
def text() -> torch.Tensor:
    """Random tokens to fit to ``[16, 17]``."""
    return torch.randint(0, VOCABULARY, (16, 17), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="session")
def stand_ins(deep: Path, text: torch.Tensor) -> StandIns:
    """Return those of `deep`."""
    return fit_stand_ins(deep, text.split(4), base="deep", rank=4)
