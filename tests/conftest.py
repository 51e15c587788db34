"""Fixtures shared by every room's tests."""

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

# A busy machine is no fault of the code: nothing here asserts on time.
settings.register_profile("ems-fl", deadline=None)
settings.load_profile("ems-fl")

if TYPE_CHECKING:
    import torch


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real public data (element sets, ground truth, text); skips where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EMS_FL_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"needs the shared data folder, not found at {folder}; set EMS_FL_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def other_device() -> "Iterator[torch.device]":
    """Return CUDA where there is a GPU, else a stand-in that refuses to mix with the CPU."""
    import torch

    from tests.second_device import second_device

    if torch.cuda.is_available():
        yield torch.device("cuda", 0)
        return
    with second_device() as device:
        yield device


def pytest_collection_finish() -> None:
    """Leave what was imported out of garbage collection: looking through it took a tenth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return the maker of a family's tiny checkpoint, by dtype; made once for all: never write to it."""
    # Here and not above: transformers takes seconds to import, and half of the rooms do without it.
    import torch

    from benchmarks.tiny_models import save_tiny

    made: dict[tuple[str, torch.dtype], Path] = {}

    def get(family: str, dtype: torch.dtype = torch.float32) -> Path:
        if (family, dtype) not in made:
            made[family, dtype] = save_tiny(tmp_path_factory.mktemp(family), family, dtype=dtype)
        return made[family, dtype]

    return get
