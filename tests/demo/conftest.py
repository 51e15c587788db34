"""A demo model small enough for tests, made once a machine."""

from pathlib import Path

import pytest

from demo.base_model import ensure_base_model
from demo.recipe import TINY


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """Folder of the model of the tiny recipe."""
    return ensure_base_model(lambda _text: None, TINY)
