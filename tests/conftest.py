"""Fixtures shared by every room's tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.second_device import second_device

# A busy machine is no fault of the code: nothing here asserts on time.
settings.register_profile("ems-fl", deadline=None)
settings.load_profile("ems-fl")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real public data (element sets, ground truth, text); skips where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EMS_FL_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"needs the shared data folder, not found at {folder}; set EMS_FL_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def other_device() -> Iterator[torch.device]:
    """Return CUDA where there is a GPU, else a stand-in that refuses to mix with the CPU."""
    if torch.cuda.is_available():
        yield torch.device("cuda", 0)
        return
    with second_device() as device:
        yield device
