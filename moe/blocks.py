"""Find the MoE blocks of a model, real or on the meta device.

A block is an experts module that takes ``(hidden_TH, choice_TK, weight_TK)`` and the router beside it.
The router is never touched, so each family's own bias, groups, sigmoid or scale stays as it is.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

TESTED_FAMILIES = frozenset(
    {
        *("afmoe", "aria_text", "axk1", "axk2", "bailing_hybrid", "beam", "cohere2_moe", "deepseek_v2"),
        *("deepseek_v3", "deepseek_v32", "deepseek_v4", "dots1", "dots3_note_text", "ernie4_5_moe"),
        *("exaone_moe", "flex_olmo", "flint", "gemma4_text", "glm4_moe", "glm4_moe_lite", "glm_moe_dsa"),
        *("gpt_oss", "granitemoe", "granitemoe_swa", "granitemoehybrid", "granitemoeshared"),
        *("hunyuan_v1_moe", "hy_v3", "hy_v4", "inkling_text", "inkling2_text", "jamba", "kimi_linear"),
        *("kolibri1", "laguna", "lfm2_moe", "mellum", "mimo_v2_flash", "minimax", "minimax_m2"),
        *("minimax_m3_vl_text", "mixtral", "nemotron_h", "olmoe", "phimoe", "qwen2_moe"),
        *("qwen3_5_moe_text", "qwen3_moe", "qwen3_next", "qwen4_exp_text", "solar_open", "zaya"),
        # With a vision tower, often more; tuned on text
        *("aria", "deepseek_ocr2", "dots3_note", "gemma4", "glm4v_moe", "glm5_next", "inkling2"),
        *("inkling_mm_model", "internvl", "kimi_k25", "minimax_m3_vl", "mistral3", "mistral4"),
        *("mistral_large4", "muse_spark"),
        *("qwen3_5_moe", "qwen3_omni_moe_thinker", "qwen3_vl_moe", "qwen4_exp", "step3p7", "unlimited_ocr"),
    }
)
"""Families (``model_type``) in this project's tests; others should pass ``moe.selftest.check``."""

_TEXT_PARTS = {
    "deepseek_ocr2_text": "deepseek_ocr2",
    "glm4v_moe_text": "glm4v_moe",
    "glm5_next_text": "glm5_next",
    "mistral_large4_text": "mistral_large4",
    "muse_spark_text": "muse_spark",
    "qwen3_omni_moe_text": "qwen3_omni_moe_thinker",
    "qwen3_vl_moe_text": "qwen3_vl_moe",
    "step3p5": "step3p7",
    "unlimited_ocr_text": "unlimited_ocr",
}
_ALONE = "transformers 5.23 has no language model of this text part alone; give the whole model"
_TWO_SETS = "its layers have two sets of experts, for text and for pictures; use ernie4_5_moe, for text"
_DIFFUSION = "it fills in blocks of tokens (diffusion) and does not predict the next one; use gemma4"

REFUSED_FAMILIES: Mapping[str, str] = {
    **{part: f"{_ALONE}, {whole}" for part, whole in _TEXT_PARTS.items()},
    "ernie4_5_vl_moe": _TWO_SETS,
    "ernie4_5_vl_moe_text": _TWO_SETS,
    "diffusion_gemma": _DIFFUSION,
    "diffusion_gemma_text": _DIFFUSION,
    "openai_privacy_filter": "it labels tokens and is no language model; use gpt_oss, which has such layers",
    "qwen3_omni_moe": (
        "it is a thinker and a talker, each with experts, and has no loss of its own; save its thinker "
        "(Qwen3OmniMoeThinkerForConditionalGeneration) and give that, qwen3_omni_moe_thinker"
    ),
    "doge": (
        "its experts are rows of an embedding (product-key memory), so there is no expert to slice; "
        "choose another model"
    ),
    "nllb-moe": "its forward pass in transformers 5.23 only ever runs experts 0 and 1; choose another model",
    "dbrx": "its configuration cannot be built by transformers 5.23 (rope_theta is missing from attn_config)",
    "jetmoe": "its attention has experts too, chosen by a router of their own, which is not supported yet",
    "llama4": "its router weights the experts' input, not their output, which is not supported yet",
    "llama4_text": "its router weights the experts' input, not their output, which is not supported yet",
    "longcat_flash": "it has identity experts behind the real ones, which is not supported yet",
    "switch_transformers": "it is an encoder-decoder, which is not supported yet",
}
"""Families known not to work here: why, and what to use instead."""

# The only tensors that belong to one expert each. A white list: an experts module may also hold a
# norm or a bias shared by all its experts (muse_spark, jetmoe), which is not to be sliced.
_FC_IN = ("gate_up_proj", "up_proj")
_FC_OUT = "down_proj"
# Experts like all others, that transformers 5.23 has not decorated.
_UNDECORATED = ("Step3p7Experts",)


@dataclass(frozen=True, slots=True, kw_only=True)
class MoEBlock:
    """One set of routed experts.

    Parameters
    ----------
    layer : int
        Decoder layer.
    path : str
        Name of the experts module in the model, such as ``model.layers.0.mlp.experts``.
    experts, router : Module
        The experts module and the router that chooses among them.
    num_experts, top_k : int
        Experts held, and chosen per token.
    projections : Mapping[str, str]
        ``fc_in`` and ``fc_out`` -> the fused parameter that stores them.
    """

    layer: int
    path: str
    experts: nn.Module
    router: nn.Module
    num_experts: int
    top_k: int
    projections: Mapping[str, str]

    @property
    def is_transposed(self) -> bool:
        """Whether the fused weights are stored ``[E, in, out]`` rather than ``[E, out, in]``."""
        return bool(getattr(self.experts, "is_transposed", False))

    @property
    def parameters(self) -> tuple[str, ...]:
        """The fused parameters of the experts, weights and biases, by their name in the experts module."""
        names = [name for weight in self.projections.values() for name in (weight, f"{weight}_bias")]
        return tuple(name for name in names if getattr(self.experts, name, None) is not None)

    def shape(self, projection: str) -> tuple[int, int]:
        """Return ``(out_features, in_features)`` of ``fc_in`` or ``fc_out``."""
        _, rows, columns = getattr(self.experts, self.projections[projection]).shape
        return (columns, rows) if self.is_transposed else (rows, columns)


def find_blocks(model: PreTrainedModel) -> tuple[MoEBlock, ...]:
    """Return the MoE blocks of a model in the order of their layers.

    Raises
    ------
    ValueError
        If there are none, if one is of a form this project cannot slice, or if two blocks claim one layer.
    """
    blocks = sorted(_walk(model), key=lambda block: block.layer)
    family = model.config.model_type
    if not blocks:
        raise ValueError(
            f"no routed experts found in model_type {family!r}: looked for experts modules with fused "
            f"{' or '.join(_FC_IN)} and {_FC_OUT} ([experts, ., .]) and a router 'gate' or 'router' beside "
            "them; the model is dense, or of a form this project does not know"
        )
    layers = [block.layer for block in blocks]
    if len(set(layers)) != len(layers):
        raise ValueError(
            f"model_type {family!r} has several sets of experts in one layer, which is not supported"
        )
    return tuple(blocks)


def _walk(model: PreTrainedModel) -> Iterator[MoEBlock]:
    modules = dict(model.named_modules())
    for path, module in modules.items():
        if not _holds_experts(module):
            continue
        parent = modules[path.rpartition(".")[0]]
        yield _block(path, module, parent, model)


def _holds_experts(module: nn.Module) -> bool:
    # transformers sets the attribute on every class decorated with use_experts_implementation.
    return hasattr(module, "_is_expert_parallel") or type(module).__name__ in _UNDECORATED


def _block(path: str, experts: nn.Module, parent: nn.Module, model: PreTrainedModel) -> MoEBlock:
    fc_in = next((name for name in _FC_IN if getattr(experts, name, None) is not None), None)
    router = next(
        (child for name in ("gate", "router") if (child := getattr(parent, name, None)) is not None), None
    )
    numbers = re.findall(r"\.(\d+)\.", path)
    if fc_in is None or getattr(experts, _FC_OUT, None) is None or router is None or not numbers:
        raise ValueError(
            f"{path} of class {type(experts).__name__} is not understood: needs {' or '.join(_FC_IN)} and "
            f"{_FC_OUT}, a sibling 'gate' or 'router', and a layer number in its name; "
            f"found {sorted(dict(experts.named_parameters()))}"
        )
    return MoEBlock(
        layer=int(numbers[-1]),
        path=path,
        experts=experts,
        router=router,
        num_experts=int(getattr(experts, fc_in).shape[0]),
        top_k=_top_k(router, parent, model),
        projections={"fc_in": fc_in, "fc_out": _FC_OUT},
    )


def _top_k(router: nn.Module, parent: nn.Module, model: PreTrainedModel) -> int:
    config = model.config.get_text_config()
    named = (getattr(owner, "top_k", None) for owner in (router, parent))
    configured = (
        getattr(config, name, None) for name in ("num_experts_per_tok", "top_k_experts", "moe_topk")
    )
    for value in (*named, *configured):
        if isinstance(value, int):
            return value
    raise ValueError(
        f"cannot tell how many experts {type(router).__name__} chooses: no top_k on it or in the config"
    )
