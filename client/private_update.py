"""Noise on an update before it leaves the node: Flower's own mod for local differential privacy."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp.mod import LocalDpMod

from scenario.settings.privacy import PrivacySettings
from strategy.messages import ARRAYS, read_task, train_instruction

_STREAM = 0x70726976
"""Keeps these draws apart from every other use of the run's seed."""
_NEXT_TO_NOTHING = np.float32(1e-18)


def noised_update(
    reply: Message,
    task: Message,
    context: Context,
    privacy: PrivacySettings,
    *,
    is_delta: bool,
    seed: list[int] | None,
) -> Message:
    """Return the reply to a training message clipped and with Gaussian noise on every number.

    Parameters
    ----------
    reply : Message
        With a delta, or with values, float32; its metrics (losses, counts) are left as they are.
    task : Message
        What it answers.
    privacy : PrivacySettings
        ``epsilon > 0``.
    is_delta : bool
        Whether the reply is a delta.
    seed : list of int or None
        Of the noise; None: the machine's own chance. Who knows the seed can take the noise off again.

    Notes
    -----
    Another data set moves a clipped update by at most ``2 clip_norm``, so with the standard deviation
    ``2 clip_norm sqrt(2 ln(1.25 / delta)) / epsilon`` it is (epsilon, delta)-differentially private for all
    data of a node at once, for epsilon below 1 (Dwork and Roth 2014, theorem A.1); above that the number is
    a scale of the noise and no proof.
    """
    asked = task
    if is_delta:
        # The mod takes the change from what was sent; a delta is the change from nothing.
        nothing = {key: np.zeros_like(value) for key, value in read_task(task).values.items()}
        asked = train_instruction(task.metadata.dst_node_id, nothing, 0)
        reply.content[ARRAYS] = _not_nothing(reply.content.array_records[ARRAYS])
    mod = LocalDpMod(privacy.clip_norm, 2.0 * privacy.clip_norm, privacy.epsilon, privacy.delta)
    with _drawing_from(seed):
        return mod(asked, context, lambda _task, _context: reply)


def _not_nothing(record: ArrayRecord) -> ArrayRecord:
    """Return arrays that are not all zero: the mod divides by their norm."""
    if any(array.numpy().any() for array in record.values()):
        return record
    first = next(iter(record))
    changed = record[first].numpy().copy()
    changed.flat[0] = _NEXT_TO_NOTHING
    return ArrayRecord({**record, first: Array(changed)})


@contextmanager
def _drawing_from(seed: list[int] | None) -> Iterator[None]:
    """Have numpy's own stream, which the mod draws from, be another for a while."""
    before = np.random.get_state()
    entropy = int.from_bytes(os.urandom(32), "big") if seed is None else [_STREAM, *seed]
    np.random.seed(np.random.SeedSequence(entropy).generate_state(8))
    try:
        yield
    finally:
        np.random.set_state(before)
