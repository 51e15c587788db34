"""The ClientApp: say which experts the data uses, tune the assigned ones, measure.

One message may be for several devices of one cluster. Their updates are linear in what is sent, so
the reply carries their exact weighted mean.
"""

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from client.client_state import ClientState, client_state, part_folder
from client.instructions import Instructions, read_instructions
from client.kept_update import keep_update, kept_update
from client.private_update import noised_update
from client.train import TrainResult, train
from moe.delivery.part import put_piece
from moe.experts import ExpertArrays, ExpertId, ParameterKey
from moe.held import Extent
from moe.objective import mean_loss
from moe.submodel.routing import kept_share
from moe.tuning.adapters import get_arrays, set_arrays
from sim.grid.groups import each_of_group
from strategy.delivery.messages import delivered_reply, lacks_reply, read_delivery
from strategy.messages import (
    ExpertUpdate,
    Profile,
    TrainTask,
    kept_reply,
    loss_reply,
    profile_reply,
    read_task,
    update_reply,
)

app = ClientApp(mods=[each_of_group])
Array32 = NDArray[np.float32]
_ROUNDING = 0x726F756E
"""Keeps these draws apart from every other use of the run's seed."""


@app.query()
def profile(message: Message, context: Context) -> Message:
    """Answer which experts the devices' data uses, and what the devices are."""
    state = client_state(context)
    instructions = read_instructions(message, context, state.config, state.population)
    per_device = [state.mass(device, instructions.era) for device in instructions.devices]
    answer = Profile(
        cluster=instructions.cluster,
        devices=instructions.devices,
        mass=tuple(sum(layers) for layers in zip(*per_device, strict=True)),
        num_examples=sum(len(state.blocks(device, instructions.era)) for device in instructions.devices),
        memory_bytes=min(state.memory_bytes(device) for device in instructions.devices),
        fingerprint=state.fingerprint,
        held=state.held_experts(),
    )
    return instructions.sign(profile_reply(answer, message))


@app.query("deliver")
def keep(message: Message, context: Context) -> Message:
    """Keep the pieces of the model that came, and say so once they are safe on the disk."""
    delivered = read_delivery(message)
    for piece, data in delivered.pieces:
        if data is not None:
            extents = [Extent(*extent) for extent in piece.extents]
            put_piece(part_folder(context), delivered.base, extents, delivered.sizes, data, piece.sha256)
    return delivered_reply([piece.name for piece, _ in delivered.pieces], message)


@app.train()
def tune(message: Message, context: Context) -> Message:
    """Tune the experts in the message on every hosted device, and answer with what changed."""
    state = client_state(context)
    instructions = read_instructions(message, context, state.config, state.population)
    task = read_task(message)
    if (kept := kept_update(context, task.lost, task.lost_of)) is not None:
        return instructions.sign(kept_reply(kept.update, kept.dispatch, message))
    if lacking := state.lacking(_kept(task, state)):
        return instructions.sign(lacks_reply(lacking, message))
    outcomes = [_tune_on(device, task, instructions, state) for device in instructions.devices]
    examples = sum(result.num_examples for result, _ in outcomes)
    capture = _capture(task, instructions, state) if task.watch else None
    update = ExpertUpdate(
        arrays={
            key: _mean_over_devices(start if task.reply_with == "values" else None, key, outcomes)
            for key, start in task.values.items()
        },
        num_examples=examples,
        train_loss=sum(r.num_examples * r.loss for r, _ in outcomes) / examples,
        local_steps=max(result.steps for result, _ in outcomes),
        heldout_loss=_heldout_loss(task, state),
        capture=capture,
        capture_of=task.watch,
    )
    merge, rng = state.config.merge, np.random.default_rng(_rounding_seed(task, instructions, state))
    reply = update_reply(update, message, merge.update_bits, rng)
    if state.config.privacy.epsilon:
        seed = _rounding_seed(task, instructions, state) if state.config.sky.simulated else None
        is_delta = task.reply_with == "delta"
        reply = noised_update(reply, message, context, state.config.privacy, is_delta=is_delta, seed=seed)
    # What is sent again is what was sent, its noise too.
    if not state.config.sky.simulated:
        keep_update(context, task.dispatch, reply.content)
    return instructions.sign(reply)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the sub-model of the experts in the message on the devices' own examples."""
    state = client_state(context)
    instructions = read_instructions(message, context, state.config, state.population)
    task = read_task(message)
    model = state.submodel(_kept(task, state))
    set_arrays(model, task.values)
    batch = state.config.evaluate.batch_size
    blocks = [state.blocks(device, instructions.era) for device in instructions.devices]
    counts, losses = [len(of) for of in blocks], [mean_loss(model, of, batch) for of in blocks]
    loss = sum(n * value for n, value in zip(counts, losses, strict=True)) / sum(counts)
    return loss_reply(loss, sum(counts), message)


def _rounding_seed(task: TrainTask, instructions: Instructions, state: ClientState) -> list[int]:
    """Return what an update is rounded by: of the devices and the visit, whatever process they are in."""
    return [_ROUNDING, state.config.seed, *instructions.devices, task.dispatch]


def _mean_over_devices(
    start: Array32 | None, key: ParameterKey, outcomes: list[tuple[TrainResult, ExpertArrays]]
) -> Array32:
    """Return the devices' mean delta weighted by examples, added to ``start`` where one is given."""
    deltas = np.stack([delta[key] for _, delta in outcomes]).astype(np.float64)
    mean = np.average(deltas, axis=0, weights=[result.num_examples for result, _ in outcomes])
    return (mean if start is None else start + mean).astype(np.float32)


def _heldout_loss(task: TrainTask, state: ClientState) -> float | None:
    """Return the loss of the sub-model as it was sent, on what a node with data of its own holds out."""
    if state.heldout is None:
        return None
    model = state.submodel(_kept(task, state))
    set_arrays(model, task.values)
    return mean_loss(model, state.heldout, state.config.evaluate.batch_size)


def _capture(task: TrainTask, instructions: Instructions, state: ClientState) -> float:
    """Return what the experts of the sub-model, as it was sent, catch of the devices' routing."""
    model = state.submodel(_kept(task, state))
    set_arrays(model, task.values)
    era, devices = instructions.era, instructions.devices
    shares = [kept_share(model, state.sample(device, era)) for device in devices]
    return float(np.average(shares, weights=[len(state.blocks(device, era)) for device in devices]))


def _kept(task: TrainTask, state: ClientState) -> frozenset[ExpertId]:
    """Return the experts that the sub-model of a task holds."""
    frozen = state.frozen_experts if task.frozen is None else task.frozen
    return frozen | {key.expert for key in task.values if not key.is_shared}


def _tune_on(
    device: int, task: TrainTask, instructions: Instructions, state: ClientState
) -> tuple[TrainResult, ExpertArrays]:
    """Tune from the server's values on one device; returns the result and value minus start."""
    experts = _kept(task, state)
    model = state.submodel(experts)
    set_arrays(model, task.values)
    share_s = instructions.wall_budget_s / len(instructions.devices)
    spec = state.train_spec(instructions.steps, share_s, task.proximal_mu)
    blocks = state.blocks(device, instructions.era)
    lower = state.lower_layers(model, experts, device, instructions.era)
    result = train(model, blocks, spec, [state.config.seed, device, task.dispatch], lower)
    tuned = get_arrays(model)
    return result, {key: tuned[key] - start for key, start in task.values.items()}
