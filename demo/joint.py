"""A Mixture-of-Experts trained from scratch as one model: experts that nobody told which domain is theirs.

As most published models are made. How far its experts follow domains is what they find useful, against a
loss that wants them used evenly: over a batch, as in Switch Transformers, which leaves each sequence its
favourites, or within every sequence, which leaves it none.

Shapes: B blocks, T tokens a block, E experts.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional
from transformers import MixtralForCausalLM

from demo.branch_train_mix import NUM_WORKERS, Report, new_mixtral, next_token_loss, optimise, sample
from demo.recipe import Recipe


def make(
    blocks_by_domain: Sequence[Tensor], recipe: Recipe, *, eos_token_id: int, report: Report
) -> MixtralForCausalLM:
    """Make the model, with the recipe's number of experts; otherwise as `demo.branch_train_mix.make`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = new_mixtral(recipe, num_experts=recipe.num_experts, eos_token_id=eos_token_id)
    half = recipe.seed_stage.batch_size // NUM_WORKERS

    def loss(draw: torch.Generator) -> Tensor:
        # As many blocks of every domain as chance gives: the mixture, not a lesson in domains.
        domains = torch.randint(len(blocks_by_domain), (half,), generator=draw).tolist()
        batch_BT = torch.cat([sample(blocks_by_domain[domain], 1, draw) for domain in domains])
        output = model(input_ids=batch_BT, output_router_logits=True)
        balance = sum(
            unevenness(logits.view(*batch_BT.shape, -1), recipe.experts_per_token, recipe.balanced_over)
            for logits in output.router_logits
        )
        return next_token_loss(output.logits, batch_BT) + recipe.balance * balance / recipe.num_layers

    losses = [
        partial(loss, torch.Generator().manual_seed(recipe.seed + 1 + worker))
        for worker in range(NUM_WORKERS)
    ]
    optimise(list(model.parameters()), losses, recipe.seed_stage, lambda text: report(f"joint: {text}"))
    return model.eval()


def unevenness(logits_BTE: Tensor, top_k: int, over: str) -> Tensor:
    """Return how unevenly experts are used: 1 when evenly, up to E / k when always the same ones.

    Parameters
    ----------
    logits_BTE : Tensor
        Of one layer's router.
    top_k : int
        Experts a token.
    over : {"batch", "sequence"}
        What they are to be used evenly over.

    Source
    ------
    Fedus, Zoph, Shazeer 2021, "Switch Transformers" (arXiv 2101.03961), eq. 4, for k experts a token; over
    sequences as DeepSeek-V2 (arXiv 2405.04434), eq. 23.
    """
    num_experts = logits_BTE.shape[-1]
    chosen_BTE = functional.one_hot(logits_BTE.topk(top_k).indices, num_experts).sum(dim=2).float()
    axes = (0, 1) if over == "batch" else (1,)
    load, gate = chosen_BTE.mean(dim=axes), logits_BTE.softmax(dim=-1).mean(dim=axes)
    return num_experts / top_k * (load * gate).sum(dim=-1).mean()
