"""Branch-train-mix: a dense seed, one copy of its experts tuned per domain, then a router over them.

The result is an ordinary Mixtral whose expert ``e`` of every layer was tuned on domain ``e``, and whose
router prefers it there, as in FlexOlmo. Nothing marks it as such: who uses it must measure the routing.

Source
------
Sukhbaatar et al. 2024, "Branch-Train-MiX" (arXiv 2403.07816): experts branch off a seed, train apart and
are mixed by a learnt router; attention is averaged there and stays the seed's here. Router rows begin as
embeddings of the domains as in Shi et al. 2025, "FlexOlmo" (arXiv 2507.07024), from hidden states here.

Shapes: B blocks, T tokens a block, H hidden, E experts (domains).
"""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional
from transformers import MixtralConfig, MixtralForCausalLM

from demo.recipe import Recipe, Stage

Report = Callable[[str], None]
Loss = Callable[[], Tensor]

NUM_WORKERS = 2
"""Threads that train side by side, each with one torch thread.

Not torch's own threads: those wait for each other in every operation, and on a machine that does other
work too the seed took 228 s with two of them and 90 s this way (2 busy cores). Not processes: each costs
the seconds of importing torch anew. Fixed, since the number decides what is made.
"""


def make(
    blocks_by_domain: Sequence[Tensor], recipe: Recipe, *, eos_token_id: int, report: Report
) -> MixtralForCausalLM:
    """Make the model.

    Parameters
    ----------
    blocks_by_domain : Sequence[Tensor]
        Per domain int64 ``[N, T]``, token blocks.
    report : Callable[[str], None]
        Called often with the stage, the step and the loss.

    Returns
    -------
    MixtralForCausalLM
        In evaluation mode, float32, one expert per domain and layer. The same for the same blocks and
        recipe on one machine.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        dense = new_mixtral(recipe, num_experts=1, eos_token_id=eos_token_id)
        mixed = new_mixtral(recipe, num_experts=len(blocks_by_domain), eos_token_id=eos_token_id)
    _train_seed(dense, blocks_by_domain, recipe, report)
    branches = _train_experts(dense, blocks_by_domain, recipe, report)
    _assemble(mixed, dense, branches)
    _place_router(mixed, branches, blocks_by_domain, recipe)
    _train_router(mixed, blocks_by_domain, recipe, report)
    return mixed.requires_grad_(True).eval()


def new_mixtral(recipe: Recipe, *, num_experts: int, eos_token_id: int) -> MixtralForCausalLM:
    """Return a model of the recipe's sizes with so many experts a layer, at its random beginning."""
    config = MixtralConfig(
        vocab_size=recipe.vocab_size,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_kv_heads,
        num_local_experts=num_experts,
        num_experts_per_tok=min(recipe.experts_per_token, num_experts),
        max_position_embeddings=recipe.max_positions,
        bos_token_id=eos_token_id,
        eos_token_id=eos_token_id,
        pad_token_id=eos_token_id,
        initializer_range=recipe.hidden_size**-0.5 / 2,
        tie_word_embeddings=False,
        use_cache=False,
    )
    return MixtralForCausalLM(config)


def _train_seed(
    dense: MixtralForCausalLM, blocks_by_domain: Sequence[Tensor], recipe: Recipe, report: Report
) -> None:
    """Train all of the one-expert model on the mixture."""
    blocks_BT = torch.cat(tuple(blocks_by_domain))
    half = recipe.seed_stage.batch_size // NUM_WORKERS

    def loss(draw: torch.Generator) -> Tensor:
        return _loss_of(dense, sample(blocks_BT, half, draw))

    losses = [
        partial(loss, torch.Generator().manual_seed(recipe.seed + 1 + worker))
        for worker in range(NUM_WORKERS)
    ]
    optimise(list(dense.parameters()), losses, recipe.seed_stage, lambda text: report(f"dense seed: {text}"))


def _train_experts(
    dense: MixtralForCausalLM, blocks_by_domain: Sequence[Tensor], recipe: Recipe, report: Report
) -> list[MixtralForCausalLM]:
    """Tune a copy of the seed's experts on each domain, everything else frozen; two domains side by side."""

    def branch(domain: int) -> MixtralForCausalLM:
        model = copy.deepcopy(dense).requires_grad_(False)
        tuned = [layer.mlp.experts.requires_grad_(True) for layer in model.model.layers]
        parameters = [parameter for experts in tuned for parameter in experts.parameters()]
        draw = torch.Generator().manual_seed(recipe.seed + 100 + domain)

        def loss() -> Tensor:
            batch_BT = sample(blocks_by_domain[domain], recipe.expert_stage.batch_size, draw)
            return _loss_of(model, batch_BT)

        name = f"expert {domain + 1} of {len(blocks_by_domain)}"
        optimise(parameters, [loss], recipe.expert_stage, lambda text: report(f"{name}: {text}"))
        return model

    # Each branch has its own generator, so the order in which they run does not matter.
    with ThreadPoolExecutor(max_workers=NUM_WORKERS) as pool:
        return list(pool.map(branch, range(len(blocks_by_domain))))


@torch.no_grad()
def _assemble(
    mixed: MixtralForCausalLM, dense: MixtralForCausalLM, branches: Sequence[MixtralForCausalLM]
) -> None:
    """Copy the shared parameters from the seed and expert ``e`` from branch ``e``."""
    shared = {
        name: value
        for name, value in dense.state_dict().items()
        if ".mlp.experts." not in name and ".mlp.gate." not in name
    }
    mixed.load_state_dict(shared, strict=False)
    for position, layer in enumerate(mixed.model.layers):
        for expert, branch in enumerate(branches):
            source = branch.model.layers[position].mlp.experts.state_dict()
            for name, value in layer.mlp.experts.state_dict().items():
                value[expert].copy_(source[name][0])


@torch.no_grad()
def _place_router(
    mixed: MixtralForCausalLM,
    branches: Sequence[MixtralForCausalLM],
    blocks_by_domain: Sequence[Tensor],
    recipe: Recipe,
) -> None:
    """Begin each router row at the mean direction of its domain's hidden states at the router's input."""
    means_LEH = torch.stack(
        [
            _mean_router_inputs(branch, blocks[:64])
            for branch, blocks in zip(branches, blocks_by_domain, strict=True)
        ],
        dim=1,
    )
    for layer, means_EH in zip(mixed.model.layers, means_LEH, strict=True):
        centred_EH = means_EH - means_EH.mean(dim=0)
        layer.mlp.gate.weight.copy_(functional.normalize(centred_EH, dim=1) / recipe.hidden_size**0.5 * 2)


def _mean_router_inputs(model: MixtralForCausalLM, blocks_BT: Tensor) -> Tensor:
    """Return ``[L, H]``: per layer the mean input of the MoE block."""
    means: list[Tensor] = []

    def keep(_module: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
        means.append(arguments[0].flatten(0, -2).mean(dim=0))

    hooks = [layer.mlp.register_forward_pre_hook(keep) for layer in model.model.layers]
    try:
        model(input_ids=blocks_BT)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(means)


def _train_router(
    mixed: MixtralForCausalLM, blocks_by_domain: Sequence[Tensor], recipe: Recipe, report: Report
) -> None:
    """Train the router's rows alone on even parts of all domains."""
    mixed.requires_grad_(False)
    rows = [layer.mlp.gate.weight.requires_grad_(True) for layer in mixed.model.layers]
    num_domains = len(blocks_by_domain)
    per_domain = -(-recipe.router_stage.batch_size // (num_domains * NUM_WORKERS))
    domain_B = torch.arange(num_domains).repeat_interleave(per_domain)

    def loss(draw: torch.Generator) -> Tensor:
        batch_BT = torch.cat([sample(blocks, per_domain, draw) for blocks in blocks_by_domain])
        if not recipe.router_supervision:
            return _loss_of(mixed, batch_BT)
        output = mixed(input_ids=batch_BT, output_router_logits=True)
        total = next_token_loss(output.logits, batch_BT)
        domain_N = domain_B.repeat_interleave(batch_BT.shape[1])
        logits_by_layer = [logits.reshape(-1, num_domains) for logits in output.router_logits]
        supervision = sum(functional.cross_entropy(logits, domain_N) for logits in logits_by_layer)
        return total + recipe.router_supervision * supervision / len(logits_by_layer)

    losses = [
        partial(loss, torch.Generator().manual_seed(recipe.seed + 50 + worker))
        for worker in range(NUM_WORKERS)
    ]
    optimise(rows, losses, recipe.router_stage, lambda text: report(f"router: {text}"))


def sample(blocks_BT: Tensor, size: int, draw: torch.Generator) -> Tensor:
    """Return so many of the blocks, drawn with replacement."""
    return blocks_BT[torch.randint(len(blocks_BT), (size,), generator=draw)]


def _loss_of(model: MixtralForCausalLM, batch_BT: Tensor) -> Tensor:
    return next_token_loss(model(input_ids=batch_BT).logits, batch_BT)


def next_token_loss(logits_BTV: Tensor, batch_BT: Tensor) -> Tensor:
    """Return the mean loss of predicting each token from those before it, nats."""
    return functional.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), batch_BT[:, 1:].flatten())


def optimise(
    parameters: list[torch.nn.Parameter], losses: Sequence[Loss], stage: Stage, report: Report
) -> None:
    """Run one stage on the mean of the losses, each in a thread of its own; reports every step."""
    optimiser = torch.optim.AdamW(parameters, lr=stage.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    num_warmup = max(1, stage.num_steps // 20)

    def factor(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / num_warmup
        return 1.0 - 0.9 * (step - num_warmup) / max(1, stage.num_steps - num_warmup)

    def differentiate(loss: Loss) -> tuple[float, tuple[Tensor, ...]]:
        value = loss()
        return value.item(), torch.autograd.grad(value, parameters)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    with ThreadPoolExecutor(max_workers=len(losses)) as pool:
        for step in range(stage.num_steps):
            values, gradients = zip(*pool.map(differentiate, losses), strict=True)
            for parameter, *parts in zip(parameters, *gradients, strict=True):
                parameter.grad = torch.stack(parts).mean(dim=0)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            schedule.step()
            report(f"step {step + 1} of {stage.num_steps}, loss {sum(values) / len(values):.2f}")
