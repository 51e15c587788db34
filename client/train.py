"""The local loop: a device tunes its experts on its own blocks.

Shape legend: N blocks held, B blocks of a batch, T tokens of a block.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from transformers.modeling_layers import GradientCheckpointingLayer

from client.lower_layers import LowerLayers
from moe.half_precision import half_products
from moe.objective import language_model_loss, num_predicted, token_batch


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSpec:
    """How to train between two contacts.

    Parameters
    ----------
    steps : int
        Optimiser steps to take, >= 1.
    wall_budget_s : float
        Real seconds after which no further step is begun; infinite in simulation, where the
        number of steps must not depend on the machine.
    batch_size : int
        Blocks per step.
    learning_rate, weight_decay, max_grad_norm : float
        Of the optimiser; the norm is clipped over all trained arrays together.
    optimizer : {"adamw", "sgd"}
        Its state starts anew at every contact, because the experts do.
    micro_batches : int
        Parts, >= 1, that the blocks of a step are run in, to hold fewer activations at once; the step
        is that of the whole batch.
    gradient_checkpointing : bool
        Whether to hold only each layer's input and compute the rest again in the backward pass.
    proximal_mu : float
        Weight mu of ``mu / 2 * |w - start|^2`` beside the loss, >= 0 (FedProx, arXiv 1812.06127, eq. 2).
    """

    steps: int
    wall_budget_s: float
    batch_size: int
    learning_rate: float
    optimizer: str
    weight_decay: float
    max_grad_norm: float
    micro_batches: int = 1
    gradient_checkpointing: bool = False
    proximal_mu: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What came of it: mean loss per token (nats) over the steps, steps taken, distinct blocks seen."""

    loss: float
    steps: int
    num_examples: int


def train(
    model: nn.Module,
    blocks_NT: NDArray[np.int64],
    spec: TrainSpec,
    seed: list[int],
    lower: LowerLayers | None = None,
) -> TrainResult:
    """Tune the trainable parameters of ``model`` in place.

    Parameters
    ----------
    model : nn.Module
        A language model whose trainable parameters are the assigned experts' alone.
    blocks_NT : array [N, T]
        The device's token blocks, N >= 1.
    spec : TrainSpec
        See there.
    seed : list of int
        Seeds the order of the blocks and dropout.
    lower : LowerLayers, optional
        What the layers below the lowest tuned one give for these blocks; without it they run in every step.

    Raises
    ------
    ValueError
        If the loss stops being finite, or in float16 the gradient; says at which step. If the model
        cannot checkpoint its layers.
    """
    torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    set_training_modes(model, gradient_checkpointing=spec.gradient_checkpointing)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, scaler = make_optimizer(parameters, spec), _loss_scaler(model)
    batches = _batches(len(blocks_NT), spec.batch_size, np.random.default_rng(seed))
    starts = [p.detach().clone() for p in parameters] if spec.proximal_mu else []
    began_s, losses, seen = time.monotonic(), list[float](), set[int]()
    products = half_products(model)
    try:
        while len(losses) < spec.steps:
            rows = next(batches)
            tokens_BT = token_batch(model, blocks_NT[rows])
            below_BTH = lower.outputs(tokens_BT, rows.tolist()) if lower else None
            backward = partial(_backward, model, tokens_BT, spec.micro_batches, scaler, lower, below_BTH)
            with products:
                losses.append(
                    _step(backward, spec, optimizer, scaler, starts, f"local step {len(losses) + 1}")
                )
            seen.update(int(row) for row in rows)
            if time.monotonic() - began_s >= spec.wall_budget_s:
                break
    finally:
        # The model is kept for the next message: without gradients, which `full` has as many as weights.
        optimizer.zero_grad()
    return TrainResult(loss=float(np.mean(losses)), steps=len(losses), num_examples=len(seen))


def _loss_scaler(model: nn.Module) -> GradScaler:
    """Return what keeps small gradients in float16's range; it does nothing for a model in other types."""
    parameters = list(model.parameters())
    is_half = any(parameter.dtype == torch.float16 for parameter in parameters)
    return GradScaler(parameters[0].device.type, enabled=is_half)


def _step(
    backward: Callable[[], float],
    spec: TrainSpec,
    optimizer: torch.optim.Optimizer,
    scaler: GradScaler,
    starts: list[Tensor],
    where: str,
) -> float:
    """Take one step of the optimiser on a batch, and return the loss it began with.

    A scaled gradient that overflows is no step: the scaler changes nothing but its scale, which it halves,
    and the same batch is tried again. So a step counted is a step taken, on every block in its turn.
    """
    while True:
        optimizer.zero_grad()
        loss = backward()
        if not math.isfinite(loss):
            raise ValueError(
                f"the training loss became {loss} at {where}; "
                f"lower train.learning-rate (now {spec.learning_rate})"
                + (', or set model.dtype to "bfloat16"' if scaler.is_enabled() else "")
            )
        scaler.unscale_(optimizer)
        _pull_back(starts, optimizer, spec.proximal_mu)
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], spec.max_grad_norm)
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        # The documented way to ask whether the step was skipped.
        if scaler.get_scale() >= scale:
            return loss
        if scaler.get_scale() < 1:
            raise ValueError(
                f"the gradient of the training loss ({loss}) at {where} is not finite in float16, scaled or "
                'not; set model.dtype to "bfloat16" or "float32", or lower train.learning-rate '
                f"(now {spec.learning_rate})"
            )


def _pull_back(starts: list[Tensor], optimizer: torch.optim.Optimizer, mu: float) -> None:
    """Add the gradient of FedProx's term, ``mu * (w - start)``; nothing without starts."""
    for parameter, start in zip(optimizer.param_groups[0]["params"] if starts else (), starts, strict=True):
        pull = mu * (parameter.detach() - start)
        parameter.grad = pull if parameter.grad is None else parameter.grad + pull


def _backward(
    model: nn.Module,
    tokens_BT: Tensor,
    num_parts: int,
    scaler: GradScaler,
    lower: LowerLayers | None,
    below_BTH: Tensor | None,
) -> float:
    """Add up the scaled gradient of the mean loss of a batch, part by part, and return that loss."""
    total = 0.0
    num_parts = min(num_parts, len(tokens_BT))
    below = [None] * num_parts if below_BTH is None else below_BTH.tensor_split(num_parts)
    for part_BT, part_BTH in zip(tokens_BT.tensor_split(num_parts), below, strict=True):
        skipped = nullcontext() if lower is None or part_BTH is None else lower.skipped(part_BTH)
        # A part's share of the predicted tokens is its share of the mean.
        with skipped:
            loss = language_model_loss(model, part_BT) * (num_predicted(part_BT) / num_predicted(tokens_BT))
            scaler.scale(loss).backward()
        total += loss.item()
    return total


def _batches(num_blocks: int, batch_size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield batches without end; every block once before any comes again."""
    waiting = np.empty(0, np.int64)
    size = min(batch_size, num_blocks)
    while True:
        while len(waiting) < size:
            waiting = np.concatenate([waiting, rng.permutation(num_blocks)])
        batch, waiting = waiting[:size], waiting[size:]
        yield batch


def make_optimizer(parameters: list[nn.Parameter], spec: TrainSpec) -> torch.optim.Optimizer:
    """Return the optimiser of a visit; `moe.tuning.memory_budget` counts what its state holds."""
    if spec.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay)
    return torch.optim.AdamW(parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay)


def set_training_modes(model: nn.Module, *, gradient_checkpointing: bool) -> None:
    """Put the adapters' dropout in training mode, the layers too if they checkpoint, and nothing else.

    The frozen part stays in evaluation mode: some routers add noise or sample in training mode, and the
    experts must be tuned under the routing they will be used with.

    Raises
    ------
    ValueError
        If the model has no layers that transformers can checkpoint.
    """
    model.eval()
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if gradient_checkpointing:
        if not layers or not getattr(model, "supports_gradient_checkpointing", True):
            raise ValueError(
                f"train.gradient-checkpointing needs layers that transformers can checkpoint, and "
                f"{type(model).__name__} has none; turn it off, and raise train.micro-batches instead"
            )
        enable: Any = model.activation_checkpointing_enable
        enable({"use_reentrant": False})
        for layer in layers:
            # A layer checkpoints only in training mode. Its flag alone, without its children: see above.
            layer.training = True
    for name, module in model.named_modules():
        if "lora_dropout" in name:
            module.train()
