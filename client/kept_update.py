"""The last update of a node of a deployment, kept until the next: what the link loses is sent again.

Flower gives an upload up that was cut for 180 s, and the node's reply with it. The work is done, so it is
kept: on the node's disk where it has a folder, for a SuperNode that is started again, else in the node's
state.
"""

import json
import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, MetricRecord, RecordDict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from client.hosting import KEEP
from strategy.messages import ARRAYS, METRICS

_ARRAYS, _METRICS, _OF = "kept-arrays", "kept-metrics", "kept-of"


class Kept(NamedTuple):
    """Number of the training message that an update answers, and its arrays and metrics."""

    dispatch: int
    update: RecordDict


def keep_update(context: Context, dispatch: int, update: RecordDict) -> None:
    """Keep an update in the place of the one before: on the disk if the node has a folder, else in its state.

    Parameters
    ----------
    context : Context
        Of the node; its state lasts as long as its SuperNode, and takes that one's memory.
    dispatch : int
        Number of the training message that it answers.
    update : RecordDict
        Its arrays and metrics.

    Raises
    ------
    ValueError
        If the node's configuration names a folder that is not absolute.
    """
    arrays, metrics = update.array_records[ARRAYS], update.metric_records[METRICS]
    file = _file(context)
    # A full disk does not cost the update, which goes up all the same.
    with suppress(OSError, SafetensorError):
        if file is not None:
            _write(file, {"run": str(context.run_id), "dispatch": dispatch}, arrays, metrics)
            return
    context.state[_ARRAYS], context.state[_METRICS] = arrays, metrics
    context.state[_OF] = ConfigRecord({"run": str(context.run_id), "dispatch": dispatch})


def _write(file: Path, of: dict[str, str | int], arrays: ArrayRecord, metrics: MetricRecord) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".unfinished")
    numbers = {name: array.numpy() for name, array in arrays.items()}
    save_file(numbers, unfinished, metadata={"about": json.dumps({**of, "metrics": dict(metrics)})})
    with unfinished.open("rb") as stream:
        os.fsync(stream.fileno())
    unfinished.replace(file)


def kept_update(context: Context, lost: Collection[int], earlier_runs: Iterable[str] = ()) -> Kept | None:
    """Return the node's last update, if it is one of those that this run, or one it goes on with, lost."""
    runs = {str(context.run_id), *earlier_runs}
    kept = (_on_disk(context, runs), _in_state(context, runs)) if lost else ()
    return next((one for one in kept if one is not None and one.dispatch in lost), None)


def _in_state(context: Context, runs: Collection[str]) -> Kept | None:
    of = context.state.config_records.get(_OF)
    if of is None or of["run"] not in runs:
        return None
    arrays, metrics = context.state.array_records[_ARRAYS], context.state.metric_records[_METRICS]
    return Kept(int(str(of["dispatch"])), RecordDict({ARRAYS: arrays, METRICS: metrics}))


def _on_disk(context: Context, runs: Collection[str]) -> Kept | None:
    """Return what is on the disk; None where that is nothing, or no such file: the node trains anew."""
    file = _file(context)
    with suppress(FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError):
        if file is not None:
            with safe_open(file, "numpy") as opened:
                about = json.loads(opened.metadata()["about"])
                arrays = {name: Array(opened.get_tensor(name)) for name in opened.keys()}  # noqa: SIM118
            if about["run"] in runs:
                metrics = MetricRecord(about["metrics"])
                update = RecordDict({ARRAYS: ArrayRecord(arrays), METRICS: metrics})
                return Kept(int(about["dispatch"]), update)
    return None


def _file(context: Context) -> Path | None:
    folder = context.node_config.get(KEEP)
    if folder is None:
        return None
    if not Path(str(folder)).is_absolute():
        raise ValueError(f"{KEEP} of --node-config must be an absolute folder, got {folder!r}")
    return Path(str(folder)) / "last-update.safetensors"
