"""GGUF files of tiny models, written by the package ``gguf``: its writer, its names, its quantisers."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import AutoConfig

from benchmarks.tiny_models import save_tiny

Array = NDArray[Any]
ARCHITECTURES = {"qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "minimax_m2": "minimax-m2"}
FAMILIES = tuple(ARCHITECTURES)
# Where the scales lie in a block of 256, as float16 (ggml-common.h): random bytes there need not be numbers.
SCALES = {Kind.Q4_K: (0, 2), Kind.Q5_K: (0, 2), Kind.Q6_K: (208,), Kind.Q2_K: (80, 82), Kind.Q3_K: (108,)}


def write_gguf(
    folder: Path, family: str, kind: Kind = Kind.Q8_0, *, name: str = "tiny.gguf", **sizes: Any
) -> Path:
    """Write a tiny model's matrices in one type, the rest in float32; return the file."""
    size, vocabulary = 256 if kind in SCALES else 64, words()
    widths = ("hidden_size", "moe_intermediate_size", "intermediate_size", "shared_expert_intermediate_size")
    given: dict[str, Any] = {"vocab_size": len(vocabulary), **dict.fromkeys(widths, size), **sizes}
    source = save_tiny(folder / "source", family, max_shard_size="9GB", **given)
    config, tensors = AutoConfig.from_pretrained(source), load_file(source / "model.safetensors")
    architecture = ARCHITECTURES[family]
    writer = gguf.GGUFWriter(folder / name, architecture)
    describe(writer, config, vocabulary)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper().replace("-", "")], 8)
    for at, (hf_name, value) in enumerate(sorted(in_stacks(tensors).items())):
        stem, _, suffix = hf_name.rpartition(".")
        if stem.endswith("e_score_correction_bias") or suffix == "e_score_correction_bias":
            writer.add_tensor(f"blk.{hf_name.split('.')[2]}.exp_probs_b.bias", value.numpy())
            continue
        own = names.get_name(stem)
        assert own is not None, hf_name
        block = gguf.GGML_QUANT_SIZES[kind][0]
        is_matrix = value.ndim > 1 and value.shape[-1] % block == 0 and "ffn_gate_inp" not in own
        numbers = value.squeeze(0).numpy() if "ffn_gate_inp_shexp" in own else value.numpy()
        if not is_matrix:
            writer.add_tensor(f"{own}.{suffix}", numbers)
        elif kind in SCALES:
            writer.add_tensor(f"{own}.{suffix}", random_blocks(numbers.shape, kind, at), raw_dtype=kind)
        else:
            writer.add_tensor(f"{own}.{suffix}", gguf.quants.quantize(numbers, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / name


def in_stacks(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors with the experts of a layer in one, as llama.cpp's converter writes them."""
    found: dict[str, torch.Tensor] = {}
    stacks: dict[str, dict[int, torch.Tensor]] = {}
    renamed = {"block_sparse_moe": "mlp", "w1.": "gate_proj.", "w3.": "up_proj.", "w2.": "down_proj."}
    for name, value in tensors.items():
        for old, new in renamed.items():
            name = name.replace(old, new)
        head, middle, tail = name.partition(".mlp.experts.")
        if not middle:
            found[name] = value.float()
            continue
        number, _, projection = tail.partition(".")
        stacks.setdefault(f"{head}.mlp.experts.{projection}", {})[int(number)] = value.float()
    return found | {
        name: torch.stack([by_number[at] for at in range(len(by_number))])
        for name, by_number in stacks.items()
    }


def random_blocks(shape: tuple[int, ...], kind: Kind, seed: int) -> Array:
    """Return any bytes with scales that are numbers: every such block means something."""
    size, num_bytes = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (*shape[:-1], shape[-1] // size, num_bytes), np.uint8)
    for at in SCALES[kind]:
        scale = rng.uniform(1e-5, 1e-4, blocks.shape[:-1]).astype(np.float16)
        blocks[..., at : at + 2] = scale[..., None].view(np.uint8)
    return blocks.reshape(*shape[:-1], -1)


def describe(writer: gguf.GGUFWriter, config: Any, vocabulary: list[str]) -> None:
    """Write the metadata that llama.cpp's converter writes for such a model."""
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_expert_count(getattr(config, "num_experts", None) or config.num_local_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    if config.model_type == "minimax_m2":
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([gguf.TokenType.NORMAL] * (len(vocabulary) - 1) + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["t h", "th e"])
    writer.add_eos_token_id(len(vocabulary) - 1)
    writer.add_bos_token_id(len(vocabulary) - 1)


def words() -> list[str]:
    """Return a byte-level vocabulary with two merges and an end."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [*bytes_to_unicode().values(), "th", "the", "<|endoftext|>"]
