"""A dense Llama whose last layers become experts: the same logits until the experts are tuned.

Shape letters: V vocabulary, H hidden, I width of a feed-forward layer, E experts.

Source
------
Komatsuzaki et al. 2023, "Sparse Upcycling" (arXiv 2212.05055): experts begin as copies of the dense layer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM

from demo.real.recipe import RealRecipe


@torch.no_grad()
def with_vocabulary(dense: LlamaForCausalLM, old_ids_V: Tensor) -> LlamaForCausalLM:
    """Keep the embeddings of some tokens only, in place; the model must tie its two tables."""
    kept_VH = dense.get_input_embeddings().get_parameter("weight")[old_ids_V].clone()
    table = nn.Embedding.from_pretrained(kept_VH)
    dense.set_input_embeddings(table)
    dense.config.vocab_size = len(old_ids_V)
    dense.lm_head = nn.Linear(kept_VH.shape[1], kept_VH.shape[0], bias=False, device="meta")
    dense.lm_head.weight = table.weight
    return dense


@torch.no_grad()
def upcycle(
    dense: LlamaForCausalLM,
    feed_forwards: Sequence[Sequence[nn.Module]],
    recipe: RealRecipe,
    eos_token_id: int,
) -> Qwen2MoeForCausalLM:
    """Return a mixture of experts whose expert ``e`` of the last layers is ``feed_forwards[e]``.

    The family Qwen2-MoE names its parts as Llama does. The expert that it shares between all tokens is 8
    wide and all zeros; router rows are zeros.

    Parameters
    ----------
    feed_forwards : Sequence[Sequence[nn.Module]]
        Expert -> layer, from the lowest of the last layers on -> a feed-forward block of Llama.
    """
    config = dense.config
    first = config.num_hidden_layers - recipe.num_layers
    model = Qwen2MoeForCausalLM(
        Qwen2MoeConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            moe_intermediate_size=config.intermediate_size,
            shared_expert_intermediate_size=recipe.shared_width,
            num_hidden_layers=config.num_hidden_layers,
            mlp_only_layers=list(range(first)),
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            num_experts=len(feed_forwards),
            num_experts_per_tok=recipe.experts_per_token,
            norm_topk_prob=True,
            qkv_bias=False,
            max_position_embeddings=config.max_position_embeddings,
            rope_parameters=dict(config.rope_parameters or {}),
            rms_norm_eps=config.rms_norm_eps,
            tie_word_embeddings=True,
            bos_token_id=eos_token_id,
            eos_token_id=eos_token_id,
            pad_token_id=eos_token_id,
            use_cache=False,
        )
    )
    model.load_state_dict(dense.state_dict(), strict=False)
    for position, layer in enumerate(model.model.layers[first:]):
        block = layer.mlp
        for parameter in (
            block.gate.weight,
            *block.shared_expert.parameters(),
            *block.shared_expert_gate.parameters(),
        ):
            parameter.zero_()
        for expert, layers in enumerate(feed_forwards):
            source = layers[position]
            block.experts.gate_up_proj[expert].copy_(
                torch.cat([source.get_parameter("gate_proj.weight"), source.get_parameter("up_proj.weight")])
            )
            block.experts.down_proj[expert].copy_(source.get_parameter("down_proj.weight"))
    return model.requires_grad_(False).eval()
