"""Find the MoE blocks of a model, real or on the meta device.

A block is an experts module and the router beside it. The router is never touched, so each family's
own bias, groups, sigmoid or scale stays as it is; what else it does in its own way is in its
`ModelFamily`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moe.factors import PROJECTIONS
from moe.families.family import FusedFamily, ModelFamily, numbers_in
from moe.families.special_families import SPECIAL_FAMILIES

TESTED_FAMILIES = frozenset(
    {
        *("afmoe", "aria_text", "axk1", "axk2", "bailing_hybrid", "beam", "cohere2_moe", "deepseek_v2"),
        *("dbrx", "jetmoe", "llama4_text", "longcat_flash", "switch_transformers"),
        *("deepseek_v3", "deepseek_v32", "deepseek_v4", "dots1", "dots3_note_text", "ernie4_5_moe"),
        *("exaone_moe", "flex_olmo", "flint", "gemma4_text", "glm4_moe", "glm4_moe_lite", "glm_moe_dsa"),
        *("gpt_oss", "granitemoe", "granitemoe_swa", "granitemoehybrid", "granitemoeshared"),
        *("hunyuan_v1_moe", "hy_v3", "hy_v4", "inkling_text", "inkling2_text", "jamba", "kimi_linear"),
        *("kolibri1", "laguna", "lfm2_moe", "mellum", "mimo_v2_flash", "minimax", "minimax_m2"),
        *("minimax_m3_vl_text", "mixtral", "nemotron_h", "olmoe", "phimoe", "qwen2_moe"),
        *("qwen3_5_moe_text", "qwen3_moe", "qwen3_next", "qwen4_exp_text", "solar_open", "zaya"),
        # With a vision tower, often more; tuned on text
        *("aria", "deepseek_ocr2", "dots3_note", "gemma4", "glm4v_moe", "glm5_next", "inkling2"),
        *("inkling_mm_model", "internvl", "kimi_k25", "llama4", "minimax_m3_vl", "mistral3"),
        *("mistral4", "mistral_large4", "muse_spark"),
        *("qwen3_5_moe", "qwen3_omni_moe_thinker", "qwen3_vl_moe", "qwen4_exp", "step3p7", "unlimited_ocr"),
    }
)
"""Families (``model_type``) in this project's tests; others should pass ``moe.inspect.selftest.check``."""

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
        Number of the layer: the decoder layer, or in an encoder-decoder the encoder's blocks first and
        the decoder's after them.
    path : str
        Name that the kept experts have in a sub-model, such as ``model.layers.0.mlp.experts``.
    holder_path : str
        Name of the module that holds the expert tensors; ``path`` in nearly all families.
    family : ModelFamily
        What the family does differently.
    num_experts, top_k : int
        Experts to be assigned, and chosen per token.
    parameters : tuple[str, ...]
        The stored tensors of an expert, weights and biases.
    """

    layer: int
    path: str
    holder_path: str
    family: ModelFamily
    num_experts: int
    top_k: int
    parameters: tuple[str, ...]

    @property
    def experts(self) -> nn.Module:
        """The module that holds the expert tensors."""
        module: nn.Module = self.family.experts
        return module

    @property
    def router(self) -> nn.Module:
        """The router that chooses among the experts."""
        return self.family.router

    @property
    def parent_path(self) -> str:
        """Name of the family's block."""
        return self.path.rpartition(".")[0]

    @property
    def held_children(self) -> set[str]:
        """Children of the family's block in which the expert tensors are."""
        names = (self.tensor_name(stored, 0) for stored in self.parameters)
        return {name.removeprefix(f"{self.parent_path}.").partition(".")[0] for name in names}

    @property
    def is_stacked(self) -> bool:
        """Whether one tensor holds all experts, rather than each having its own."""
        return not self.family.expert_prefix

    def tensor_name(self, stored: str, index: int) -> str:
        """Return the name, in the model, of the tensor that holds a stored tensor of an expert."""
        return f"{self.holder_path}.{self.family.expert_prefix.format(index)}{stored}"

    def view(self, stored: str, index: int) -> Tensor:
        """Return the part of a stored tensor that is one expert's, as a view with as many axes."""
        name = self.family.expert_prefix.format(index) + stored
        tensor = self.experts.get_parameter(name).data
        return tensor.unflatten(0, (self.family.num_rows(stored), -1))[index] if self.is_stacked else tensor

    def shape(self, projection: str) -> tuple[int, int]:
        """Return ``(out_features, in_features)`` of ``fc_in`` or ``fc_out``."""
        weights, _ = self.unfuse({name: self.view(name, 0) for name in self.parameters})
        rows, columns = weights[projection].shape
        return rows, columns

    def stored_names(self, projection: str) -> tuple[str, ...]:
        """Return the stored tensors, weights and biases, of ``fc_in`` or ``fc_out``."""
        weights = self.family.projections[projection]
        return tuple(name for name in self.parameters if name.removesuffix("_bias") in weights)

    def unfuse(
        self, fused: Mapping[str, Tensor], projections: Iterable[str] = PROJECTIONS
    ) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
        """Return weights ``[out, in]`` and biases by projection, from one expert's parts (see `view`)."""
        weights: dict[str, Tensor] = {}
        biases: dict[str, Tensor | None] = {}
        for projection in projections:
            names = self.family.projections[projection]
            # A transposed view, not a copy: the same matrix product as the family's own, to the bit.
            pieces = [self._matrix(name, fused[name]) for name in names]
            weights[projection] = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
            bias = fused.get(f"{names[0]}_bias")
            biases[projection] = None if bias is None else bias[0]
        return weights, biases

    def fuse(self, weights: Mapping[str, Tensor], biases: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
        """Return one expert's parts, of their shapes in the full model: `unfuse` undone."""
        fused: dict[str, Tensor] = {}
        for projection, names in self.family.projections.items():
            for name, piece in zip(names, weights[projection].chunk(len(names)), strict=True):
                part = piece.T if name in self.family.transposed else piece
                fused[name] = part if self.family.is_matrix else part[None]
            bias = biases.get(projection)
            if bias is not None:
                fused[f"{names[0]}_bias"] = bias[None]
        return fused

    def _matrix(self, name: str, part: Tensor) -> Tensor:
        matrix = part if self.family.is_matrix else part[0]
        return matrix.T if name in self.family.transposed else matrix


def find_blocks(model: PreTrainedModel) -> tuple[MoEBlock, ...]:
    """Return the MoE blocks of a model in the order of their layers.

    Raises
    ------
    ValueError
        If there are none, if one is of a family this project cannot slice, or if two blocks claim one layer.
    """
    blocks = sorted(_walk(model), key=lambda block: block.layer)
    family = model.config.model_type
    if not blocks:
        raise ValueError(
            f"no routed experts found in model_type {family!r}: looked for experts modules with fused "
            f"{' or '.join(_FC_IN)} and {_FC_OUT} ([experts, ., .]) and a router 'gate' or 'router' beside "
            f"them, and for {', '.join(SPECIAL_FAMILIES)}; the model is dense, or of a family this project "
            "does not know"
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
        family = SPECIAL_FAMILIES.get(type(module).__name__)
        if family is not None:
            yield _special_block(family, path, module, model)
        elif _holds_experts(module):
            yield _fused_block(path, module, modules[path.rpartition(".")[0]], model)


def _holds_experts(module: nn.Module) -> bool:
    # transformers sets the attribute on every class decorated with use_experts_implementation.
    return hasattr(module, "_is_expert_parallel") or type(module).__name__ in _UNDECORATED


def _special_block(kind: type[ModelFamily], path: str, parent: nn.Module, model: PreTrainedModel) -> MoEBlock:
    family = kind(parent, parent.get_submodule(kind.holder))
    layer = kind.layer(path, model.config.get_text_config())
    return _block(family, layer, f"{path}.experts", f"{path}.{kind.holder}" if kind.holder else path)


def _block(family: ModelFamily, layer: int, path: str, holder_path: str) -> MoEBlock:
    held = dict(family.experts.named_parameters())
    prefix = family.expert_prefix.format(0)
    weights = [name for names in family.projections.values() for name in names]
    return MoEBlock(
        layer=layer,
        path=path,
        holder_path=holder_path,
        family=family,
        # Kept, not asked again: PEFT and sub-models change what the modules look like.
        num_experts=family.num_experts,
        top_k=family.top_k,
        parameters=tuple(
            name for weight in weights for name in (weight, f"{weight}_bias") if prefix + name in held
        ),
    )


def _fused_block(path: str, experts: nn.Module, parent: nn.Module, model: PreTrainedModel) -> MoEBlock:
    fc_in = next((name for name in _FC_IN if getattr(experts, name, None) is not None), None)
    router = next(
        (child for name in ("gate", "router") if (child := getattr(parent, name, None)) is not None), None
    )
    if fc_in is None or getattr(experts, _FC_OUT, None) is None or router is None or not numbers_in(path):
        raise ValueError(
            f"{path} of class {type(experts).__name__} is not understood: needs {' or '.join(_FC_IN)} and "
            f"{_FC_OUT}, a sibling 'gate' or 'router', and a layer number in its name; "
            f"found {sorted(dict(experts.named_parameters()))}"
        )
    family = FusedFamily(parent, experts, router, fc_in, _top_k(router, parent, model))
    return _block(family, numbers_in(path)[-1], path, path)


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
