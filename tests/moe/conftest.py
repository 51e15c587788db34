"""The tiny checkpoints that every law is tested on, and tokens for them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.tiny_models import MUST_PASS, VOCABULARY

torch.set_num_threads(1)


@pytest.fixture(params=MUST_PASS)
def checkpoint(request: pytest.FixtureRequest, tiny: Callable[[str], Path]) -> Path:
    """One tiny checkpoint of each family that must pass the laws."""
    return tiny(request.param)


@pytest.fixture(params=[family for family in MUST_PASS if family != "dbrx"])
def adaptable(request: pytest.FixtureRequest, tiny: Callable[[str], Path]) -> Path:
    """One tiny checkpoint of each of those families for which PEFT has an adapter."""
    return tiny(request.param)


@pytest.fixture
def tokens() -> torch.Tensor:
    """Random tokens ``[2, 17]``."""
    return torch.randint(0, VOCABULARY, (2, 17), generator=torch.Generator().manual_seed(1))
