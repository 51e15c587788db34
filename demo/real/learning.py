"""How the real model's experts and their router learn, on what the layers below them give once.

Shape letters: N blocks, T tokens a block, H hidden, E experts, P tokens of all blocks.
"""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen2MoeForCausalLM

from demo.real.recipe import RealRecipe

Report = Callable[[str], None]

NUM_WORKERS = 2
"""Threads that learn side by side, each with one torch thread; see `demo.branch_train_mix.NUM_WORKERS`."""
_CENTRES_FROM_TOKENS = 8192


def fast_products() -> AbstractContextManager[object]:
    """Return a context that multiplies in bfloat16 where the processor can, weights staying float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.ops.mkldnn._is_mkldnn_bf16_supported())


def split(dense: LlamaForCausalLM, num_layers: int) -> tuple[PreTrainedModel, LlamaForCausalLM]:
    """Return the layers below the last ones, without a final norm, and the last ones with the head.

    Both share their weights with ``dense``.
    """
    trunk, top = copy.copy(dense.model), copy.copy(dense)
    trunk._modules = dict(dense.model._modules)
    trunk.layers, trunk.norm = dense.model.layers[:-num_layers], nn.Identity()
    top._modules = dict(dense._modules)
    top.model = copy.copy(dense.model)
    top.model._modules = dict(dense.model._modules)
    top.model.layers = dense.model.layers[-num_layers:]
    return trunk, top


@torch.no_grad()
def trunk_outputs(trunk: PreTrainedModel, blocks_NT: Tensor, report: Report) -> Tensor:
    """Return ``[N, T, H]`` what enters the first of the last layers; float32, some values reach 29,000."""
    parts = list(enumerate(blocks_NT.split(16), start=1))

    def run(numbered: tuple[int, Tensor]) -> Tensor:
        number, part_NT = numbered
        with torch.no_grad(), fast_products():
            hidden: Tensor = trunk(input_ids=part_NT, use_cache=False).last_hidden_state.float()
        report(f"frozen layers: batch {number} of {len(parts)}")
        return hidden

    with ThreadPoolExecutor(max_workers=NUM_WORKERS) as pool:
        return torch.cat(list(pool.map(run, parts)))


def tune_feed_forwards(
    top: LlamaForCausalLM,
    hidden_NTH: Tensor,
    blocks_NT: Tensor,
    recipe: RealRecipe,
    *,
    num_steps: int,
    seed: int,
    report: Report,
) -> list[nn.Module]:
    """Tune a copy of the last layers' feed-forward blocks on some blocks; returns them by layer.

    AdamW, the rate falling to a tenth; every block comes before any comes again.
    """
    model = copy.copy(top)
    model._modules = dict(top._modules)
    model.model = copy.copy(top.model)
    model.model._modules = dict(top.model._modules)
    model.model.layers = nn.ModuleList(_with_own_feed_forward(layer) for layer in top.model.layers)
    tuned: list[nn.Module] = [layer.mlp for layer in model.model.layers]
    parameters = [parameter for block in tuned for parameter in block.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    draw = torch.Generator().manual_seed(seed)
    order = torch.cat(
        [
            torch.randperm(len(blocks_NT), generator=draw)
            for _ in range(-(-num_steps * recipe.batch_size // len(blocks_NT)))
        ]
    )
    for step, rows in enumerate(order[: num_steps * recipe.batch_size].split(recipe.batch_size)):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * (1 - 0.9 * step / num_steps)
        with fast_products():
            logits = model(inputs_embeds=hidden_NTH[rows], use_cache=False).logits
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), blocks_NT[rows, 1:].flatten())
        gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        report(f"step {step + 1} of {num_steps}, loss {loss.item():.2f}")
    return [block.requires_grad_(False) for block in tuned]


def _with_own_feed_forward(layer: nn.Module) -> nn.Module:
    own = copy.copy(layer)
    own._modules = dict(layer._modules)
    own.add_module("mlp", copy.deepcopy(layer.get_submodule("mlp")).requires_grad_(True))
    return own


class _Recorder(nn.Module):
    """Stands where a block of experts will: remembers its input, gives nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, hidden_NTH: Tensor) -> Tensor:
        self.seen.append(hidden_NTH)
        return torch.zeros_like(hidden_NTH)


@torch.no_grad()
def fit_router(
    model: Qwen2MoeForCausalLM,
    hidden_NTH: Tensor,
    domain_N: Tensor,
    recipe: RealRecipe,
    report: Report,
) -> None:
    """Set the router's rows in place, layer by layer, each on what the layers below it then give.

    Parameters
    ----------
    hidden_NTH : Tensor
        What enters the first layer with experts.
    domain_N : Tensor
        Domain of each block; used only with ``routing = "domains"``.
    """
    layers = model.model.layers
    first = len(layers) - recipe.num_layers
    norm, model.model.norm = model.model.norm, nn.Identity()
    try:
        for position in range(first, len(layers)):
            report(f"router of layer {position}")
            block, recorder = layers[position].mlp, _Recorder()
            layers[position].mlp = recorder
            model.model.layers = layers[position : position + 1]
            residual = [
                model.model(inputs_embeds=part, use_cache=False).last_hidden_state
                for part in hidden_NTH.split(32)
            ]
            layers[position].mlp = block
            inputs_PH = torch.cat(recorder.seen).flatten(0, 1)
            block.gate.weight.copy_(
                _rows(inputs_PH, domain_N.repeat_interleave(hidden_NTH.shape[1]), block, recipe)
            )
            added = [block(part) for part in recorder.seen]
            hidden_NTH = torch.cat(residual) + torch.cat(
                [part[0] if isinstance(part, tuple) else part for part in added]
            )
    finally:
        model.model.layers, model.model.norm = layers, norm


def _rows(inputs_PH: Tensor, domain_P: Tensor, block: nn.Module, recipe: RealRecipe) -> Tensor:
    num_experts = block.get_parameter("gate.weight").shape[0]
    if recipe.routing == "domains":
        return _logistic_rows(inputs_PH, domain_P, num_experts, recipe.router_decay)
    return _centre_rows(inputs_PH, num_experts, recipe.seed)


def _logistic_rows(inputs_PH: Tensor, domain_P: Tensor, num_experts: int, decay: float) -> Tensor:
    """Return ``[E, H]``: the rows that best tell which domain a token is from, without intercept."""
    weight_EH = torch.zeros(num_experts, inputs_PH.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight_EH], max_iter=60, line_search_fn="strong_wolfe")
    scale = inputs_PH.std()

    def closure() -> Tensor:
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = functional.cross_entropy(inputs_PH / scale @ weight_EH.T, domain_P)
            loss = loss + decay * weight_EH.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight_EH.detach() / scale


def _centre_rows(inputs_PH: Tensor, num_experts: int, seed: int) -> Tensor:
    """Return ``[E, H]``: the centres of k-means on a sample of tokens, less their mean, of equal length.

    Without their part along the mean, which would be a bias towards some expert for every token.
    """
    draw = np.random.default_rng(seed)
    rows = draw.choice(len(inputs_PH), min(len(inputs_PH), _CENTRES_FROM_TOKENS), replace=False)
    sample_PH = inputs_PH[torch.from_numpy(rows)].float()
    from sklearn.cluster import KMeans  # Only now: it takes a second.

    mean_H = sample_PH.mean(dim=0)
    unit_PH = functional.normalize(sample_PH - mean_H, dim=1)
    found = KMeans(num_experts, n_init=2, random_state=seed).fit(unit_PH.numpy())
    centres_EH = torch.from_numpy(found.cluster_centers_).float()
    along_H = functional.normalize(mean_H, dim=0)
    centres_EH = functional.normalize(centres_EH - (centres_EH @ along_H)[:, None] * along_H, dim=1)
    # As sharp as a mean token's distance allows: weights of the two chosen experts then differ visibly.
    return centres_EH * 4 / (sample_PH - mean_H).norm(dim=1).mean()
