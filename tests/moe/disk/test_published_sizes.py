"""Models of the published sizes, without a weight: their experts are found and counted right.

Configurations are transformers' defaults, which mirror one published model of each family, or that
model's own values where they do not.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from moe.disk.layout import auto_class
from moe.families.blocks import find_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What is published of a model; parameters, and those of one token, in billions."""

    name: str
    source: str
    family: str
    layers: range
    num_experts: int
    top_k: int
    parameters: float
    active: float
    is_embedding_active: bool = True
    config: dict[str, Any] = field(default_factory=dict)


_QWEN3_30B = {
    **{"hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4},
    **{"head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
    "vocab_size": 151936,
}
MODELS = (
    Published(
        name="Mixtral-8x7B",
        source="arXiv 2401.04088",
        family="mixtral",
        layers=range(32),
        num_experts=8,
        top_k=2,
        parameters=46.7,
        active=12.9,
    ),
    Published(
        name="OLMoE-1B-7B",
        source="arXiv 2409.02060",
        family="olmoe",
        layers=range(16),
        num_experts=64,
        top_k=8,
        parameters=6.9,
        active=1.3,
        config={"intermediate_size": 1024},
    ),
    Published(
        name="gpt-oss-120b",
        source="arXiv 2508.10925, table 1",
        family="gpt_oss",
        layers=range(36),
        num_experts=128,
        top_k=4,
        parameters=116.8,
        active=5.13,
        is_embedding_active=False,
    ),
    Published(
        name="gpt-oss-20b",
        source="arXiv 2508.10925, table 1",
        family="gpt_oss",
        layers=range(24),
        num_experts=32,
        top_k=4,
        parameters=20.9,
        active=3.61,
        is_embedding_active=False,
        config={"num_hidden_layers": 24, "num_local_experts": 32},
    ),
    Published(
        name="DeepSeek-V3",
        source="arXiv 2412.19437",
        family="deepseek_v3",
        layers=range(3, 61),
        num_experts=256,
        top_k=8,
        parameters=671.0,
        active=37.0,
    ),
    Published(
        name="Llama-4-Scout",
        source="its model card: 109 with the vision tower, which is not loaded",
        family="llama4",
        layers=range(48),
        num_experts=16,
        top_k=1,
        parameters=107.8,
        active=17.0,
    ),
    Published(
        name="Qwen3-30B-A3B",
        source="arXiv 2505.09388, table 2",
        family="qwen3_moe",
        layers=range(48),
        num_experts=128,
        top_k=8,
        parameters=30.5,
        active=3.3,
        config=_QWEN3_30B,
    ),
    Published(
        name="Qwen3-VL-30B-A3B",
        source="the text model above, and 0.54 of the vision tower",
        family="qwen3_vl_moe",
        layers=range(48),
        num_experts=128,
        top_k=8,
        parameters=31.1,
        active=3.9,
        config={"text_config": _QWEN3_30B, "vision_config": {"out_hidden_size": 2048}},
    ),
)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_experts_of_a_published_model_are_found(model: Published) -> None:
    config = AutoConfig.for_model(model.family, **model.config)
    with torch.device("meta"):
        built = auto_class(config).from_config(config, dtype=torch.bfloat16)
    blocks = find_blocks(built)
    assert [block.layer for block in blocks] == list(model.layers)
    assert {block.num_experts for block in blocks} == {model.num_experts}
    assert {block.top_k for block in blocks} == {model.top_k}
    first = blocks[0]
    expert = sum(math.prod(first.shape(name)) for name in ("fc_in", "fc_out")) * len(blocks)
    total = sum(parameter.numel() for parameter in built.parameters())
    active = total - (model.num_experts - model.top_k) * expert
    if not model.is_embedding_active:
        active -= built.get_input_embeddings().weight.numel()
    assert total / 1e9 == pytest.approx(model.parameters, abs=0.06)
    # Published with two or three digits
    assert active / 1e9 == pytest.approx(model.active, rel=0.02)
