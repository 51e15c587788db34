"""The families that hold or call their experts in a way of their own, a small class each.

Shape letters: B sequences, T tokens (of all sequences when flat), H hidden, I intermediate, E experts,
Z identity experts, K choices per token.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from moe.families.family import ModelFamily, Routing, gated_unit, numbers_in


class Llama4(ModelFamily):
    """Llama 4: every expert gets every token, weighted by a sigmoid that is zero for all but K of them.

    Here an expert gets its own tokens only: the same sums, at a fraction of the products.
    """

    transposed = frozenset({"gate_up_proj", "down_proj"})
    weighs_input = True

    def route(self, output: Any) -> Routing:
        """Return the experts of the K best logits, and their scores."""
        scores_TE, logits_TE = output
        choice_TK = torch.topk(logits_TE, self.top_k, dim=-1).indices
        return Routing(choice_TK, scores_TE.gather(1, choice_TK), logits_TE)

    def finish(self, block: Any, flat_TH: Tensor, routed: Tensor, routing: Routing) -> Any:
        """Add the shared expert; the decoder layer takes a pair."""
        return block.shared_expert(flat_TH) + routed.view_as(flat_TH), routing.logits


class Switch(ModelFamily):
    """Switch Transformers: an encoder-decoder whose experts are modules of their own, one a token.

    The router lets an expert take only so many tokens of a sequence; the rest get nothing. Layers are
    numbered through: encoder block ``i`` is layer ``i``, decoder block ``i`` is layer ``encoder depth + i``.
    """

    projections: Mapping[str, tuple[str, ...]] = {"fc_in": ("wi.weight",), "fc_out": ("wo.weight",)}
    expert_prefix = "expert_{}."
    is_matrix = True
    routes_sequences = True
    adapter = "modules"

    @property
    def num_experts(self) -> int:
        """How many modules there are."""
        return len(self.experts)

    @property
    def top_k(self) -> int:
        """1."""
        return 1

    def gate(self) -> Callable[[Tensor], Tensor]:
        """Return the plain activation; the dropout behind it is never on in a frozen model."""
        activation: Callable[[Tensor], Tensor] = self.experts["expert_0"].act
        return activation

    def route(self, output: Any) -> Routing:
        """Return each token's expert; the weight is zero where that expert was full."""
        taken, weight, logits = output
        taken_TE = taken.reshape(-1, taken.shape[-1])
        has_place_T1 = taken_TE.sum(dim=-1, keepdim=True)
        return Routing(
            taken_TE.argmax(dim=-1, keepdim=True),
            weight.reshape(-1, 1) * has_place_T1,
            logits.reshape(taken_TE.shape),
        )

    @staticmethod
    def layer(path: str, config: Any) -> int:
        """Return the block's number, after all of the encoder's if it is the decoder's."""
        return numbers_in(path)[0] + (int(config.num_layers) if path.startswith("decoder.") else 0)

    @staticmethod
    def depth(config: Any) -> int:
        """Return the encoder's and the decoder's blocks together."""
        return int(config.num_layers + config.num_decoder_layers)


class JetMoe(ModelFamily):
    """JetMoE: two stacks of matrices in the block itself, and a bias that all its experts share.

    Its attention has experts too (``JetMoeMoA``), chosen by a router of their own. They are part of
    the shared model here: whole, frozen, and never assigned.
    """

    holder = ""
    adds_by_expert = True
    projections: Mapping[str, tuple[str, ...]] = {
        "fc_in": ("input_linear.weight",),
        "fc_out": ("output_linear.weight",),
    }

    def gate(self) -> Callable[[Tensor], Tensor]:
        """Return the gated activation."""
        return gated_unit(self.parent.activation)

    def route(self, output: Any) -> Routing:
        """Return the experts of the K best logits, weighted by the softmax over these, as the router does."""
        logits_TE = output[-1]
        best_TK, choice_TK = torch.topk(logits_TE, self.top_k, dim=-1)
        return Routing(choice_TK, torch.softmax(best_TK, dim=-1).to(output[2].dtype), logits_TE)

    def finish(self, block: Any, _flat_TH: Tensor, routed: Tensor, _routing: Routing) -> Any:
        """Add the shared bias."""
        return routed + block.bias


class LongcatFlash(ModelFamily):
    """LongCat-Flash: behind its E real experts, Z that give back their input.

    ``gate_up_proj`` of transformers 5.23 has rows for those too, which nothing reads; files may lack
    them, as other readers of the published ones (vLLM, mlx-lm) expect. Everybody has them, so a choice
    of one always counts as kept; they are not assigned, and no routing mass is counted for them.
    """

    adds_by_expert = True

    @property
    def num_identity(self) -> int:
        """Z."""
        return int(self.experts.zero_expert_num)

    def route(self, output: Any) -> Routing:
        """Return the router's own choice."""
        logits_TE, weight_TK, choice_TK = output
        return Routing(choice_TK, weight_TK, logits_TE)

    @staticmethod
    def depth(config: Any) -> int:
        """Return the decoder layers; each has two attention layers, and the usual name counts those."""
        return int(config.num_layers)


class Dbrx(ModelFamily):
    """DBRX: three matrices, in each the rows of all experts one below the other.

    PEFT 0.21 can neither wrap them (the block reads them by name) nor give each expert factors of its
    own, so what was tuned leaves as merged weights only.
    """

    projections: Mapping[str, tuple[str, ...]] = {"fc_in": ("mlp.w1", "mlp.v1"), "fc_out": ("mlp.w2",)}
    transposed = frozenset({"mlp.w2"})
    is_matrix = True
    adds_by_expert = True
    adapter = "none"

    @property
    def top_k(self) -> int:
        """The block's own."""
        return int(self.parent.top_k)

    def num_rows(self, _name: str) -> int:
        """Return E; an expert has I rows."""
        return int(self.experts.num_experts)

    def gate(self) -> Callable[[Tensor], Tensor]:
        """Return the gated activation."""
        return gated_unit(self.experts.mlp.activation_fn)

    def route(self, output: Any) -> Routing:
        """Return the choice that the block, not the router, makes of the logits."""
        weight_TK, choice_TK = self.parent.route_tokens_to_experts(output)
        return Routing(choice_TK, weight_TK, output)


SPECIAL_FAMILIES: Mapping[str, type[ModelFamily]] = {
    "Llama4TextMoe": Llama4,
    "SwitchTransformersSparseMLP": Switch,
    "JetMoeMoE": JetMoe,
    "LongcatFlashMoE": LongcatFlash,
    "DbrxFFN": Dbrx,
}
"""Class of a block in transformers -> its family; any other is a `FusedFamily`, or not known."""
