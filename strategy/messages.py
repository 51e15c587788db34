"""ExpertUpdate and profile <-> RecordDict: the only file that knows the wire's records.

A training message carries one ArrayRecord and one ConfigRecord, its reply one ArrayRecord and one
MetricRecord with ``num-examples``, under the keys Flower's own strategies use, so that the same
client also answers a stock ``FedAvg``. Arrays are named ``layer.expert.name``.
"""

import math
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from numpy.typing import NDArray

from moe.experts import ExpertArrays, ExpertId
from strategy.delivery.messages import texts_in
from strategy.wire.arrays import Bits, decode_arrays, decoded, encode_arrays, pack_arrays, wire_name

ARRAYS = "arrays"
CONFIG = "config"
METRICS = "metrics"
_BESIDE_BYTES = 256  # more than an array on the wire has beside its numbers: type, shape, a scale
TURNED_AWAY = 1000
"""Code of the error in place of a reply whose node takes no part; Flower's own codes are small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a node says of itself at first contact.

    Parameters
    ----------
    cluster : str
        The cluster it belongs to.
    devices : tuple[int, ...]
        The devices it hosts.
    mass : tuple of arrays [E]
        Gate mass of its data per MoE layer and expert, >= 0.
    num_examples : int
        Training examples its devices hold together.
    memory_bytes : int
        Memory of its smallest device for a model.
    fingerprint : str
        Of the base checkpoint it holds; must be the server's.
    held : tuple of ExpertId
        Experts it has on its disk, where experts are delivered; said at first contact.
    """

    cluster: str
    devices: tuple[int, ...]
    mass: tuple[NDArray[np.float64], ...]
    num_examples: int
    memory_bytes: int
    fingerprint: str
    held: tuple[ExpertId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainTask:
    """What the server asks for: continue from ``values``, answer with deltas or with values.

    Parameters
    ----------
    values : ExpertArrays
        Newest server values of the experts to train.
    dispatch : int
        How many times this node has been asked before; seeds the order of its data.
    reply_with : str
        ``delta`` (value minus start) or ``values`` (for strategies that average models).
    frozen : frozenset of ExpertId or None
        Experts to keep in layers that are not tuned; None where the message does not say: all of them.
    proximal_mu : float
        Strength of FedProx's pull back to ``values``; 0: none.
    watch : int
        Number of the assignment whose capture is to be told; 0: none is.
    lost, lost_of : tuple[int, ...], tuple[str, ...]
        ``dispatch`` of earlier tasks whose updates did not arrive: who still has one sends it instead; and
        Flower's names of runs that this one goes on with.
    """

    values: ExpertArrays
    dispatch: int
    reply_with: str
    frozen: frozenset[ExpertId] | None = None
    proximal_mu: float = 0.0
    watch: int = 0
    lost: tuple[int, ...] = ()
    lost_of: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertUpdate:
    """What a node sends back.

    Parameters
    ----------
    arrays : ExpertArrays
        Deltas (or values) per tuned array; the exact weighted mean over the node's devices.
    num_examples : int
        Examples trained on, over all its devices.
    train_loss : float
        Mean training loss per token in nats over the local steps.
    local_steps : int
        Optimiser steps taken by each device.
    heldout_loss : float or None
        Loss per token in nats of the sub-model that was sent, on text that the node holds out; None where the
        node brings no data, and the server measures.
    capture, capture_of : float or None, int
        Share of the data's routing mass that falls on the experts of the sub-model, in [0, 1], and number of
        the assignment; None where it was not asked for.
    """

    arrays: ExpertArrays
    num_examples: int
    train_loss: float
    local_steps: int
    heldout_loss: float | None = None
    capture: float | None = None
    capture_of: int = 0


def profile_instruction(node_id: int) -> Message:
    """Return the question every node is asked at first contact."""
    return Message(RecordDict({CONFIG: ConfigRecord({"task": "profile"})}), node_id, MessageType.QUERY)


def profile_reply(profile: Profile, instruction: Message) -> Message:
    """Return the answer to a profile question."""
    mass = {f"{at:04d}": Array(layer.astype(np.float32)) for at, layer in enumerate(profile.mass)}
    content = RecordDict(
        {
            ARRAYS: ArrayRecord(mass),
            CONFIG: ConfigRecord(
                {
                    "cluster": profile.cluster,
                    "devices": list(profile.devices),
                    "fingerprint": profile.fingerprint,
                }
            ),
            METRICS: MetricRecord(
                {"num-examples": profile.num_examples, "memory-bytes": profile.memory_bytes}
            ),
        }
    )
    if profile.held:
        content.config_records[CONFIG]["held"] = [expert.name for expert in profile.held]
    return Message(content, reply_to=instruction)


def read_profile(reply: Message) -> Profile:
    """Return the profile a reply carries.

    Raises
    ------
    ValueError
        If something is missing or impossible.
    """
    arrays, config, metrics = _arrays(reply), _config(reply), _metrics(reply)
    try:
        profile = Profile(
            cluster=str(config["cluster"]),
            devices=tuple(int(d) for d in cast(list[int], config["devices"])),
            mass=tuple(decoded(name, arrays[name]).astype(np.float64) for name in sorted(arrays)),
            num_examples=int(cast(int, metrics["num-examples"])),
            memory_bytes=int(cast(int, metrics["memory-bytes"])),
            fingerprint=str(config["fingerprint"]),
            held=tuple(map(ExpertId.named, texts_in(config, "held"))),
        )
    except (KeyError, TypeError) as fault:
        raise ValueError(f"a profile lacks a field, or one is of another kind: {fault}") from None
    if profile.num_examples <= 0:
        raise ValueError(f"a profile must stand for at least one example, got {profile.num_examples}")
    if not all(np.isfinite(layer).all() and (layer >= 0).all() for layer in profile.mass):
        raise ValueError("the routing mass of a profile must be finite and >= 0")
    return profile


def train_instruction(
    node_id: int,
    values: ExpertArrays,
    dispatch: int,
    frozen: Iterable[ExpertId] = (),
    *,
    reply_with: str = "delta",
    watch: int = 0,
    lost: Iterable[int] = (),
    lost_of: Iterable[str] = (),
) -> Message:
    """Return the order to train the experts in ``values`` beside frozen ones of other layers."""
    config = ConfigRecord({"dispatch": dispatch, "reply-with": reply_with})
    # Said only where there are any: bytes that tell nothing would cross every window.
    if named := [expert.name for expert in sorted(frozen)]:
        config["frozen"] = named
    if watch:
        config["watch"] = watch
    if numbers := sorted(lost):
        config["lost"] = numbers
        if runs := list(lost_of):
            config["lost-of"] = runs
    content = RecordDict({ARRAYS: encode_arrays(values), CONFIG: config})
    return Message(content, node_id, MessageType.TRAIN)


def read_task(instruction: Message) -> TrainTask:
    """Return what a training or evaluation message asks for, also one of a stock strategy."""
    arrays, config = _arrays(instruction), _config(instruction)
    frozen = cast(list[str] | None, config.get("frozen"))
    return TrainTask(
        values=decode_arrays(arrays),
        dispatch=int(cast(int, config.get("dispatch", config.get("server-round", 0)))),
        reply_with=str(config.get("reply-with", "values")),
        frozen=None if frozen is None else frozenset(map(ExpertId.named, frozen)),
        # The key that Flower's FedProx uses.
        proximal_mu=float(cast(float, config.get("proximal-mu", 0.0))),
        watch=int(cast(int, config.get("watch", 0))),
        lost=tuple(cast(list[int], config.get("lost", []))),
        lost_of=tuple(cast(list[str], config.get("lost-of", []))),
    )


def update_reply(
    update: ExpertUpdate, instruction: Message, bits: Bits = 32, rng: np.random.Generator | None = None
) -> Message:
    """Return the answer to a training message; bits and rng as of `strategy.wire.arrays.pack_arrays`."""
    arrays = pack_arrays(update.arrays, bits, rng or np.random.default_rng(0))
    metrics = MetricRecord(
        {
            "num-examples": update.num_examples,
            "train-loss": update.train_loss,
            "local-steps": update.local_steps,
        }
    )
    if update.heldout_loss is not None:
        metrics["heldout-loss"] = update.heldout_loss
    if update.capture is not None:
        metrics["capture"], metrics["capture-of"] = update.capture, update.capture_of
    return Message(RecordDict({ARRAYS: arrays, METRICS: metrics}), reply_to=instruction)


def kept_reply(kept: RecordDict, dispatch: int, instruction: Message) -> Message:
    """Return an update again that did not arrive, as the answer to a later training message."""
    metrics = MetricRecord({**dict(kept.metric_records[METRICS]), "dispatch": dispatch})
    return Message(RecordDict({ARRAYS: kept.array_records[ARRAYS], METRICS: metrics}), reply_to=instruction)


def said_dispatch(reply: Message) -> int:
    """Return which earlier task an update answers, if it says so, else -1; it is anybody's word."""
    told = reply.content.metric_records[METRICS].get("dispatch") if METRICS in reply.content else None
    return told if isinstance(told, int) else -1


def loss_reply(loss: float, num_examples: int, instruction: Message) -> Message:
    """Return the answer to an evaluation message: mean loss per token in nats."""
    metrics = MetricRecord({"num-examples": num_examples, "loss": loss})
    return Message(RecordDict({METRICS: metrics}), reply_to=instruction)


def read_update(reply: Message, asked: ExpertArrays, own_examples: int) -> ExpertUpdate:
    """Return the update a reply carries, or refuse it.

    Parameters
    ----------
    reply : Message
        From the node.
    asked : ExpertArrays
        What the node was asked to train: keys and shapes.
    own_examples : int
        Examples the node said it holds; it cannot have trained on more.

    Raises
    ------
    ValueError
        If the update is hostile or broken: NaN or infinite values, a wrong shape, an expert that
        was not assigned, no expert at all, more bytes than those, or more examples than the node holds.
    """
    record, metrics = _arrays(reply), _metrics(reply)
    _refuse_oversized(record, asked)
    arrays = decode_arrays(record)
    _refuse_foreign(arrays, asked)
    try:
        num_examples = int(cast(int, metrics["num-examples"]))
        steps = int(cast(int, metrics["local-steps"]))
        loss = float(cast(float, metrics["train-loss"]))
        heldout = float(cast(float, metrics["heldout-loss"])) if "heldout-loss" in metrics else None
        capture = float(cast(float, metrics["capture"])) if "capture" in metrics else None
        capture_of = int(cast(int, metrics.get("capture-of", 0)))
    except (KeyError, TypeError) as fault:
        raise ValueError(f"the update lacks a number, or one is of another kind: {fault}") from None
    if not 1 <= num_examples <= own_examples:
        raise ValueError(f"it claims {num_examples} examples; the node holds {own_examples}")
    if not math.isfinite(loss) or steps < 1:
        raise ValueError(f"its training loss is {loss} after {steps} steps")
    if heldout is not None and not math.isfinite(heldout):
        raise ValueError(f"its held-out loss is {heldout}")
    if capture is not None and not 0.0 <= capture <= 1.0:
        raise ValueError(f"its capture is {capture}; a share lies in 0 to 1")
    return ExpertUpdate(
        arrays=arrays,
        num_examples=num_examples,
        train_loss=loss,
        local_steps=steps,
        heldout_loss=heldout,
        capture=capture,
        capture_of=capture_of,
    )


def _refuse_oversized(record: ArrayRecord, asked: ExpertArrays) -> None:
    """Refuse what is larger than it could be before its arrays are made."""
    size = sum(len(array.data) for array in record.values())
    most = sum(value.nbytes + _BESIDE_BYTES for value in asked.values())
    if size > most:
        raise ValueError(f"it carries {size} bytes of arrays; what it was asked for has at most {most}")


def _refuse_foreign(arrays: ExpertArrays, asked: ExpertArrays) -> None:
    if not arrays:
        raise ValueError("the update carries no expert")
    for key, values in arrays.items():
        if key not in asked:
            raise ValueError(f"it carries {wire_name(key)}, which was not assigned to it")
        if values.shape != asked[key].shape:
            raise ValueError(f"{wire_name(key)} has shape {values.shape}; it must be {asked[key].shape}")
        if values.dtype != asked[key].dtype:
            raise ValueError(f"{wire_name(key)} is {values.dtype}; it must be {asked[key].dtype}")
        if not np.isfinite(values).all():
            raise ValueError(f"{wire_name(key)} holds NaN or infinite values")


def _arrays(message: Message) -> ArrayRecord:
    return message.content.array_records[_present(message, ARRAYS, message.content.array_records)]


def _config(message: Message) -> ConfigRecord:
    return message.content.config_records[_present(message, CONFIG, message.content.config_records)]


def _metrics(message: Message) -> MetricRecord:
    return message.content.metric_records[_present(message, METRICS, message.content.metric_records)]


def _present(message: Message, name: str, records: Container[str]) -> str:
    if name not in records:
        raise ValueError(f"a {message.metadata.message_type} message lacks its record {name!r}")
    return name
