"""Names and values for experts that every room shares; free of torch.

An update is independent of the model family: per (layer, expert, projection) the LoRA factor
``B`` (``A`` is seeded and, if frozen, never travels), both factors, or the whole weight.
``moe.tuning.adapters`` alone knows how a family stores them.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

SHARED = -1
"""Index of what a layer has for all its experts together: where shared parts are tuned, whose they are."""
_SHARED_NAME = "shared"

Part = Literal["experts", "attention", "shared-experts"]
"""What may be tuned of a decoder layer; see `Tuning`."""


@dataclass(frozen=True, slots=True, order=True)
class ExpertId:
    """One expert of the full model; ``index`` is global in its layer, or `SHARED`."""

    layer: int
    index: int

    @property
    def name(self) -> str:
        """``layer.index``, as messages and event logs call it; ``layer.shared`` for what is everybody's."""
        return f"{self.layer}.{_SHARED_NAME if self.index == SHARED else self.index}"

    @classmethod
    def named(cls, name: str) -> "ExpertId":
        """Return the expert of a `name`.

        Raises
        ------
        ValueError
            If it is none.
        """
        layer, _, index = name.partition(".") if isinstance(name, str) else ("", "", "")
        if not (layer.isdecimal() and (index.isdecimal() or index == _SHARED_NAME)):
            raise ValueError(f"{name!r} names no expert; a name is layer.index, such as 3.17")
        return cls(int(layer), SHARED if index == _SHARED_NAME else int(index))


@dataclass(frozen=True, slots=True, order=True)
class ParameterKey:
    """One tuned array, such as ``(3, 17, "fc_in.lora_B")``; ``(3, SHARED, "self_attn.q_proj.lora_B")``."""

    layer: int
    index: int
    name: str

    @property
    def expert(self) -> ExpertId:
        """The expert this array belongs to."""
        return ExpertId(self.layer, self.index)

    @property
    def is_shared(self) -> bool:
        """Whether it belongs to all experts of its layer, and so to every cluster."""
        return self.index == SHARED


ExpertArrays = dict[ParameterKey, NDArray[np.float32]]
"""Values or deltas of tuned arrays, float32, by parameter."""


def held_with(experts: Collection[ExpertId], arrays: ExpertArrays) -> ExpertArrays:
    """Return what a sub-model of these experts has of the arrays: theirs, and the shared parts'."""
    return {key: value for key, value in arrays.items() if key.is_shared or key.expert in experts}


Method = Literal["ffa", "lora", "full"]
"""How experts are tuned; see `Tuning`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How the assigned experts are tuned; the same on server and clients.

    Parameters
    ----------
    method : {"ffa", "lora", "full"}
        ``ffa``: LoRA with ``A`` frozen from ``seed`` and only ``B`` trained and sent (FFA-LoRA,
        Sun et al. 2024, arXiv 2403.12313): linear in ``B``, so the weighted mean of the devices'
        ``B`` is exactly the weighted mean of their ``B @ A``. ``lora``: both factors trained and
        sent, and averaged each by itself (FedIT, Zhang et al. 2023, arXiv 2305.05644), which is not
        the mean of the products where several devices share an expert. ``full``: the experts' weights
        and biases, trained and sent in float32 whatever the model's dtype.
    lora_rank, lora_alpha : int, float
        >= 1 and > 0; the change of a weight is ``scale * B @ A``.
    lora_dropout : float
        In [0, 1), on the input of ``A``, in training only.
    lora_rslora : bool
        Rank-stabilised `scale`; LoRA only.
    router_rows : bool
        Whether the experts' own rows of the router are tuned too, with any method.
    seed : int
        Seeds every ``A`` together with its parameter key.
    layers : tuple[int, ...] or None
        Decoder layers whose parts are tuned; None = all. Kept experts of the others stay as they are.
    parts : tuple of {"experts", "attention", "shared-experts"}
        What is tuned of a layer. All but ``experts`` is in every sub-model: with a LoRA method its linear
        layers get adapters too, which all clusters train and the server averages. What clusters train is
        no longer disjoint then.

    Raises
    ------
    ValueError
        If a value is out of range or they do not go together; all faults at once.
    """

    method: Method = "ffa"
    lora_rank: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    lora_rslora: bool = False
    router_rows: bool = False
    seed: int = 0
    layers: tuple[int, ...] | None = None
    parts: tuple[Part, ...] = ("experts",)

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        faults = []
        if self.method not in get_args(Method):
            faults.append(f"method must be one of {', '.join(get_args(Method))}, got {self.method!r}")
        if self.lora_rank < 1:
            faults.append(f"lora_rank must be >= 1, got {self.lora_rank}")
        if not (math.isfinite(self.lora_alpha) and self.lora_alpha > 0):
            faults.append(f"lora_alpha must be > 0 and finite, got {self.lora_alpha}")
        if not 0 <= self.lora_dropout < 1:
            faults.append(f"lora_dropout must be in [0, 1), got {self.lora_dropout}")
        if self.lora_rslora and self.method == "full":
            faults.append("lora_rslora needs a LoRA method, got 'full', which has no adapter to scale")
        if not self.parts or set(self.parts) - set(get_args(Part)):
            faults.append(f"parts must be some of {', '.join(get_args(Part))}, got {self.parts!r}")
        if self.shared_parts and self.method == "full":
            faults.append(
                f"parts {', '.join(self.shared_parts)} are tuned with a LoRA method only, got 'full'"
            )
        if faults:
            raise ValueError("tuning of experts: " + "; ".join(faults))

    def tunes(self, layer: int) -> bool:
        """Tell whether the experts of a decoder layer are tuned."""
        return "experts" in self.parts and self.covers(layer)

    def covers(self, layer: int) -> bool:
        """Tell whether a decoder layer is one of those in which something is tuned."""
        return self.layers is None or layer in self.layers

    @property
    def shared_parts(self) -> tuple[Part, ...]:
        """What is tuned beside experts."""
        return tuple(part for part in self.parts if part != "experts")

    @property
    def scale(self) -> float:
        """Factor of ``B @ A``: ``alpha / rank``, or ``alpha / sqrt(rank)`` with rsLoRA.

        Source: Hu et al. 2021, arXiv 2106.09685, section 4.1; Kalajdzievski 2023, arXiv 2312.03732.
        """
        return self.lora_alpha / (self.lora_rank**0.5 if self.lora_rslora else self.lora_rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertLayout:
    """What a checkpoint's experts look like, read from its headers alone.

    Parameters
    ----------
    family : str
        The checkpoint's own ``model_type``, of the whole model where it has several parts.
    num_experts : Mapping[int, int]
        Decoder layer -> number of routed experts; MoE layers only, in ascending order.
    top_k : int
        Experts chosen per token.
    expert_bytes : Mapping[int, int]
        Decoder layer -> bytes of one expert, in the dtype the model is held in.
    shared_bytes : int
        Bytes of everything that is not a routed expert, likewise.
    shapes : Mapping[str, tuple[int, int]]
        Projection name -> ``(out_features, in_features)`` of its un-fused linear layer.
    biases : tuple[str, ...]
        Projections that have a bias.
    router_width : int or None
        Numbers in a row of the router's weight; None where the router is not one row for each expert.
    weight_bytes : int
        Bytes of one weight in the dtype the model is held in.
    linears : Mapping[str, Mapping[int, Mapping[str, tuple[int, int]]]]
        Shared part -> decoder layer -> linear layer in it, such as ``self_attn.q_proj`` ->
        ``(out_features, in_features)``.
    """

    family: str
    num_experts: Mapping[int, int]
    top_k: int
    expert_bytes: Mapping[int, int]
    shared_bytes: int
    shapes: Mapping[str, tuple[int, int]]
    biases: tuple[str, ...] = ()
    router_width: int | None = None
    weight_bytes: int = 4
    linears: Mapping[str, Mapping[int, Mapping[str, tuple[int, int]]]] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[int, ...]:
        """The decoder layers that have experts, ascending."""
        return tuple(self.num_experts)

    @property
    def experts(self) -> tuple[ExpertId, ...]:
        """Every expert of the model, by layer then index."""
        return tuple(
            ExpertId(layer, index) for layer, count in self.num_experts.items() for index in range(count)
        )

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole model."""
        return self.shared_bytes + sum(
            self.num_experts[layer] * self.expert_bytes[layer] for layer in self.layers
        )
