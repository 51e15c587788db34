"""Tiny vision and audio towers, for models that have them beside their language model."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

TEXT_CONFIG = "text_config"

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "n_layers": 2,
    "depth": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_heads": 4,
    "head_dim": 8,
    "mlp_ratio": 2.0,
    "mlp_dim": 48,
    "vocab_size": 32,
    # Pictures
    "patch_size": 4,
    "image_size": 16,
    "num_position_embeddings": 16,
    "position_embedding_size": 16,
    "pos_emb_height": 4,
    "pos_emb_width": 4,
    "init_pos_emb_height": 4,
    "init_pos_emb_width": 4,
    "posemb_grid_size": 4,
    "deepstack_visual_indexes": [0],
    "global_attn_indexes": [1],
    "window_size": 2,
    "output_channels": 8,
    "downsample_channels": [8, 32],
    # Sound
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "num_mel_bins": 16,
    "feature_size": 16,
    "n_mel_bins": 8,
    "mel_vocab_size": 8,
    "downsample_hidden_size": 8,
    "hidden_sizes": [8, 8],
    "depths": [1, 1],
    "patch_sizes": [4, 4],
    # What the language model is given: its hidden size
    "out_hidden_size": 32,
    "text_hidden_size": 32,
    "output_dim": 32,
    "vision_output_dim": 32,
    "projector_input_dim": 32,
    "projector_output_dim": 32,
    "projection_hidden_dim": 32,
    "projection_intermediate_size": 48,
    "adapter_in_dim": 32,
    "adapter_out_dim": 32,
    "adapter_input_size": 32,
    "conv_output_size": 16,
    # Experts of the tower itself
    "moe_intermediate_size": 24,
    "mlp_layer_types": ["dense", "sparse"],
    "per_layer_config": {1: {"num_local_experts": 4}},
}


def fitting(default: PreTrainedConfig, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes that a configuration knows by name."""
    known = set(vars(default)).union(*(getattr(c, "__annotations__", {}) for c in type(default).__mro__))
    aliases = set(getattr(type(default), "attribute_map", {}))
    return {name: value for name, value in sizes.items() if name in known - aliases}


def text_family(default: PreTrainedConfig) -> str | None:
    """Return the ``model_type`` of the language model inside a model of several parts; None if it is one."""
    part = getattr(default, TEXT_CONFIG, None)
    return part.model_type if isinstance(part, PreTrainedConfig) else None


def towers(default: PreTrainedConfig) -> dict[str, dict[str, Any]]:
    """Return tiny configurations of all parts of a model but its language model, by their names."""
    classes = {name: part for name, part in type(default).sub_configs.items() if name != TEXT_CONFIG}
    # Some families have a tower only where the configuration asks for it.
    return {name: _tower(getattr(default, name) or part()) for name, part in classes.items()}


def _tower(default: PreTrainedConfig) -> dict[str, Any]:
    return {"model_type": default.model_type, **fitting(default, _SIZES), **towers(default)}
