"""Tiny checkpoints in the formats that models are published in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub import constants

from benchmarks.gguf_files import Kind, write_gguf
from benchmarks.quantised import quantise
from benchmarks.tiny_models import save_tiny
from moe.gguf.folder import as_checkpoint

Quantised = Callable[..., Path]
CASES = (
    *(("deepseek_v3", "fp8"), ("qwen3_moe", "fp8"), ("gpt_oss", "mxfp4")),
    *(("kimi_k25", "int4"), ("mixtral", "int4"), ("mixtral", "fp8-rows"), ("mixtral", "nf4")),
    *(("qwen2_moe", "gguf-Q8_0"), ("qwen3_moe", "gguf-Q4_0"), ("qwen3_moe", "gguf-Q6_K")),
    ("minimax_m2", "gguf-Q4_K"),
)
SIZES: dict[str, dict[str, Any]] = {
    # MXFP4 has blocks of 32, and these are the sizes of two and of one.
    "gpt_oss": {"hidden_size": 64, "intermediate_size": 32},
    "mixtral": {"intermediate_size": 32},
}


@pytest.fixture(scope="session")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Quantised:
    """Return the maker of a quantised checkpoint by family and format; made once: never write to it."""
    made: dict[tuple[str, str], Path] = {}

    def get(family: str, form: str) -> Path:
        if (family, form) not in made and form.startswith("gguf-"):
            folder = tmp_path_factory.mktemp(f"{family}-{form}")
            file = write_gguf(folder, family, Kind[form.removeprefix("gguf-")])
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(constants, "HF_HOME", str(folder / "home"))
                made[family, form] = as_checkpoint(file)
        if (family, form) not in made:
            sizes = SIZES.get(family, {"moe_intermediate_size": 32})
            folder = save_tiny(
                tmp_path_factory.mktemp(f"{family}-{form}"), family, dtype=torch.bfloat16, **sizes
            )
            made[family, form] = quantise(folder, form)
        return made[family, form]

    return get


@pytest.fixture(params=CASES, ids="-".join)
def packed(request: pytest.FixtureRequest, quantised: Quantised) -> Path:
    """One tiny checkpoint of each format."""
    return quantised(*request.param)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' configurations off the screen."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)
