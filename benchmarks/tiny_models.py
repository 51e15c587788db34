"""A tiny random checkpoint of every MoE family, in the form its own ``save_pretrained`` writes.

Configurations are made from one table of small sizes: each family takes the names it knows, and the
few it needs besides.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig

from benchmarks.published import PUBLISHED, rewrite
from benchmarks.tiny_towers import TEXT_CONFIG, fitting, text_family, towers
from moe.disk.layout import auto_class
from moe.quiet import quiet_loading

VOCABULARY = 96

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
    # Attention
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": 16,
    "num_kv_heads": 2,
    "global_head_dim": 8,
    "num_global_key_value_heads": 2,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 8,
    "swa_v_head_dim": 8,
    "partial_rotary_factor": 1.0,
    "block_size": 16,
    # Latent attention
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "index_head_dim": 16,
    # As many as published models have, about: where all heads of a score are negative it is zero, and which
    # of several zeros are among the first eight is the device's choice.
    "index_n_heads": 32,
    "index_topk": 8,
    # Linear attention and state-space layers
    "linear_num_heads": 4,
    "linear_head_dim": 8,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_n_groups": 1,
    "mamba_dt_rank": 4,
    "ssm_state_size": 8,
    "n_groups": 2,
    "conv_kernel": 4,
    "chunk_size": 16,
    # Feed-forward and experts, under the many names families have for them
    "intermediate_size": 48,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "moe_shared_expert_intermediate_size": 24,
    "shared_intermediate_size": 24,
    "expert_ffn_hidden_size": 24,
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "moe_num_experts": 8,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_topk": 2,
    "moe_top_k": 2,
    "moe_k": 2,
    "top_k_experts": 2,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "moe_num_shared_experts": 1,
    "zero_expert_num": 2,
    "n_group": 1,
    "topk_group": 1,
    "num_expert_group": 1,
    # Which layers have experts: all
    "first_k_dense_replace": 0,
    "num_dense_layers": 0,
    "moe_layer_start_index": 0,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "enable_moe_block": True,
    "num_nextn_predict_layers": 0,
    "num_mtp_layers": 0,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 8,
}

_LATENT = {"num_key_value_heads": 4}
_SPARSE = {"mlp_layer_types": ["sparse", "sparse"]}
_OWN: dict[str, dict[str, Any]] = {
    "axk1": _LATENT,
    "axk2": _LATENT,
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "deepseek_v32": _LATENT,
    "dots3_note_text": _LATENT,
    "glm4_moe_lite": _LATENT,
    "glm_moe_dsa": _LATENT,
    "beam": _SPARSE,
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "zaya": {"num_experts_per_tok": 1},
    "gpt_oss": {"layer_types": ["sliding_attention", "full_attention"], "intermediate_size": 24},
    "mixtral": {"intermediate_size": 24},
    "olmoe": {"intermediate_size": 24},
    "flex_olmo": {"intermediate_size": 24},
    "llama4_text": {"intermediate_size": 24, "intermediate_size_mlp": 48},
    "jetmoe": {"intermediate_size": 24, "kv_channels": 8},
    "longcat_flash": {**_LATENT, "num_layers": 2, "ffn_hidden_size": 48},
    "switch_transformers": {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "expert_capacity": 2,  # so few that some tokens find their expert full
        "num_heads": 4,
        # One layer each, so that as elsewhere layers 0 (encoder) and 1 (decoder) have experts.
        **{"num_layers": 1, "num_decoder_layers": 1},
        **{"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
        "pad_token_id": 0,
        "decoder_start_token_id": 0,
    },
    "dbrx": {
        **{"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 500000},
        "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 8, "moe_top_k": 2},
    },
    "deepseek_ocr2_text": _SPARSE,
    "unlimited_ocr_text": _SPARSE,
    "gemma4_text": {"pad_token_id": 0},
    "glm4v_moe_text": {
        "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 1.0, "mrope_section": [1, 1, 2]}
    },
    "glm5_next_text": {**_LATENT, **_SPARSE, "index_kpool": 4, "qk_rope_head_dim": 0},
    "mistral4": {**_LATENT, "head_dim": 16},
    "mistral_large4_text": _LATENT,
    "muse_spark_text": {"moe_hidden_size": 16},
    "step3p5": {**_SPARSE, "share_expert_dim": 24, "pad_token_id": 0},
    # Models of several parts: what joins the parts
    "minimax_m3_vl": {"projector_hidden_size": 32},
    "muse_spark": {"out_hidden_size": 32, "projector_hidden_size": 32},
}

SPECIAL = ("dbrx", "jetmoe", "llama4_text", "longcat_flash", "switch_transformers")
"""Families that run experts in their own way: what they compute equals transformers' to rounding only."""

MUST_PASS = (
    *("flex_olmo", "glm4v_moe", "gpt_oss", "mixtral", "olmoe", "qwen3_moe", "qwen3_vl_moe"),
    *SPECIAL,
)
"""Families on which every law is tested in full."""

FAMILIES = (
    *SPECIAL,
    *("afmoe", "aria_text", "axk1", "axk2", "bailing_hybrid", "beam", "cohere2_moe", "deepseek_v2"),
    *("deepseek_v3", "deepseek_v32", "deepseek_v4", "dots1", "dots3_note_text", "ernie4_5_moe", "exaone_moe"),
    *(
        "flex_olmo",
        "flint",
        "gemma4_text",
        "glm4_moe",
        "glm4_moe_lite",
        "glm_moe_dsa",
        "gpt_oss",
        "granitemoe",
    ),
    *("granitemoe_swa", "granitemoehybrid", "granitemoeshared", "hunyuan_v1_moe", "hy_v3", "hy_v4"),
    *("inkling_text", "inkling2_text", "jamba", "kimi_linear", "kolibri1", "laguna", "lfm2_moe", "mellum"),
    *("mimo_v2_flash", "minimax", "minimax_m2", "minimax_m3_vl_text", "mixtral", "nemotron_h", "olmoe"),
    *("phimoe", "qwen2_moe", "qwen3_5_moe_text", "qwen3_moe", "qwen3_next", "qwen4_exp_text", "solar_open"),
    "zaya",
    # With a vision tower, often more; tuned on text
    *("aria", "deepseek_ocr2", "dots3_note", "gemma4", "glm4v_moe", "glm5_next", "inkling2"),
    *("inkling_mm_model", "internvl", "kimi_k25", "llama4", "minimax_m3_vl", "mistral3"),
    *("mistral4", "mistral_large4", "muse_spark"),
    *("qwen3_5_moe", "qwen3_omni_moe_thinker", "qwen3_vl_moe", "qwen4_exp", "step3p7", "unlimited_ocr"),
)
"""Every family of transformers 5.23 that is expected to work."""


# Families whose language model may be of any family: one with experts that they are published with.
_INNER = {"internvl": "qwen3_moe", "mistral3": "mistral4"}


def tiny_config(family: str, **changes: Any) -> PreTrainedConfig:
    """Return a tiny configuration of a family; ``changes`` win, in the language model if it is a part."""
    default = AutoConfig.for_model(family)
    inner = _INNER.get(family) or text_family(default)
    if inner is not None:
        text = tiny_config(inner, **changes).to_dict()
        own = {**_OWN.get(family, {}), **towers(default), TEXT_CONFIG: text}
        return AutoConfig.for_model(family, **own)
    aliases: dict[str, str] = getattr(type(default), "attribute_map", {})
    # By one name each: given both, a configuration takes the one it likes.
    named = {aliases.get(name, name): value for name, value in changes.items()}
    sizes = {**fitting(default, _SIZES), **_OWN.get(family, {}), **named}
    if hasattr(default, "unpadded_vocab_size"):
        sizes["unpadded_vocab_size"] = sizes["vocab_size"]
    return AutoConfig.for_model(family, **sizes)


def save_tiny(
    folder: Path,
    family: str,
    *,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "40KB",
    **changes: Any,
) -> Path:
    """Save a random tiny model of a family in several shards; biases are random too.

    Parameters
    ----------
    folder : Path
        Where to.
    family : str
        A ``model_type``.
    dtype : torch.dtype
        Of the stored tensors.
    max_shard_size : str
        As ``save_pretrained``.
    **changes
        Configuration values instead of the tiny ones.

    Returns
    -------
    Path
        ``folder``.
    """
    torch.manual_seed(0)
    config = tiny_config(family, **changes)
    # A model of several parts is saved whole, also where its language model could be built alone.
    builder = auto_class(config) if text_family(config) is None else AutoModelForImageTextToText
    model = builder.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # State-space layers are unstable with any but their own vectors.
            if parameter.ndim > 1 or name.endswith("bias"):
                parameter.normal_(std=0.2)
    with quiet_loading():
        model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    if family in PUBLISHED:
        rewrite(folder, PUBLISHED[family])
    return folder
