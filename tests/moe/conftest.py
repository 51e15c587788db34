"""Tiny random checkpoints of each family, saved for real by transformers, sharded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

torch.set_num_threads(1)

SHARED: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 96,
    "max_position_embeddings": 64,
    "num_experts_per_tok": 2,
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": {"intermediate_size": 24, "num_local_experts": 8},
    "olmoe": {"intermediate_size": 24, "num_experts": 8},
    "qwen3_moe": {
        "intermediate_size": 40,
        "moe_intermediate_size": 24,
        "num_experts": 8,
        "decoder_sparse_step": 1,
    },
    "flex_olmo": {"intermediate_size": 24, "num_experts": 8},
    "gpt_oss": {
        "intermediate_size": 24,
        "num_local_experts": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}


def save_tiny(folder: Path, family: str, *, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """Save a random tiny model of a family in several shards; every tensor is random, biases too."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SHARED, **FAMILIES.get(family, {}), **changes})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    model.to(dtype).save_pretrained(folder, max_shard_size="40KB")
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a family's tiny checkpoint, made once; never write to it."""
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = save_tiny(tmp_path_factory.mktemp(family), family)
        return made[family]

    return get


@pytest.fixture
def make_tiny() -> Callable[..., Path]:
    """Return `save_tiny`: a tiny checkpoint of one's own."""
    return save_tiny


@pytest.fixture(params=sorted(FAMILIES))
def checkpoint(request: pytest.FixtureRequest, tiny: Callable[[str], Path]) -> Path:
    """One tiny checkpoint of each family that must pass the laws."""
    return tiny(request.param)


@pytest.fixture
def tokens() -> torch.Tensor:
    """Random tokens ``[2, 17]``."""
    return torch.randint(0, 96, (2, 17), generator=torch.Generator().manual_seed(1))
