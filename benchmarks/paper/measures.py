"""What a cell comes to, from the run's own folder."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paper.models import models_of
from moe.disk.layout import read_layout
from moe.experts import ExpertLayout
from moe.tuning.memory_budget import tuned_expert_bytes, tuned_shared_bytes
from scenario.derive import tuning_from
from scenario.model_name import resolve_model_name
from scenario.settings.config import RunConfig
from scenario.settings.reading import read_config
from server.report.run_files import read_run
from server.report.sections import step_flops


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A measurement on the way: simulated seconds, what was spent until then, losses in nats a token."""

    time_s: float
    bytes_up: float
    steps: int
    merged: float
    own: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """The numbers of a cell.

    Parameters
    ----------
    own, merged : float
        Mean over clusters of the held-out loss at the end, nats a token: of the model that a device ends with
        on its own cluster's text, and of the server's on everybody's. ``merged`` is NaN where nothing is.
    own_before, merged_before : float
        The same before anything is trained.
    points : list of Point
        The curve.
    bytes_up, bytes_down : float
        Over all links.
    update_bytes : float
        Mean size of a training reply.
    steps : int
        Device steps whose result was used or sent.
    flops : float
        Of these steps, estimated from the sizes of what a device holds.
    memory_bytes : float
        What the largest device holds while it trains, activations left out (`moe.tuning.memory_budget`).
    capture, random_capture : float
        Mean over clusters; 1 where everybody holds everything.
    staleness : float
        Mean over merged updates, of the stalest expert of each.
    others_before, others_after, load_cv_before, load_cv_after : float
        As `benchmarks.paper.models.Models`; NaN where there is no such model.
    """

    own: float
    merged: float
    own_before: float
    merged_before: float
    points: list[Point]
    bytes_up: float
    bytes_down: float
    update_bytes: float
    steps: int
    flops: float
    memory_bytes: float
    capture: float
    random_capture: float
    staleness: float
    others_before: float
    others_after: float
    load_cv_before: float
    load_cv_after: float


def of_run(folder: Path) -> Measures:
    """Return the measures of a finished run."""
    run = read_run(folder)
    config = read_config(run.settings)
    summary = run.summary
    assert summary is not None, f"{folder} has not ended"
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    own_before = [c.own_loss_before for c in summary.clusters if c.own_loss_before is not None]
    points = curve(events, float(np.mean(own_before)) if own_before else None)
    holds_all = config.strategy != "ems-fl" or config.assign.method == "all"
    layout = layout_of(config)
    held = [c.experts_per_layer or tuple(layout.num_experts.values()) for c in summary.clusters]
    updates = [e["bytes"] for e in events if e["event"] == "arrived" and e["type"] == "train"]
    stale = [
        max(update["staleness"].values()) for e in events if e["event"] == "merged" for update in e["updates"]
    ]
    flops = step_flops(run)
    assigned = [c for c in summary.clusters if c.capture is not None and c.random_capture is not None]
    splits = assigned and not holds_all
    return Measures(
        own=points[-1].own,
        merged=points[-1].merged,
        own_before=points[0].merged if holds_all else float(np.mean(own_before)),
        merged_before=points[0].merged,
        points=points,
        bytes_up=summary.spent.bytes_up,
        bytes_down=summary.spent.bytes_down,
        update_bytes=float(np.mean(updates)),
        steps=sum(c.local_steps for c in summary.clusters),
        flops=sum(c.local_steps * flops.get(c.name, flops_of_all(flops)) for c in summary.clusters),
        memory_bytes=max(memory_bytes(config, layout, experts) for experts in held),
        capture=float(np.mean([c.capture for c in assigned])) if splits else 1.0,
        random_capture=float(np.mean([c.random_capture for c in assigned])) if splits else 1.0,
        staleness=float(np.mean(stale)) if stale else 0.0,
        **asdict(models_of(folder, config, layout.layers, holds_all=holds_all)),
    )


def flops_of_all(flops: Mapping[str, float]) -> float:
    """Return the FLOPs of a step where a cluster's own are not known; 0 where none are."""
    return max(flops.values(), default=0.0)


def curve(events: list[dict[str, Any]], own_before: float | None) -> list[Point]:
    """Return the measurements of a run, each with what had been sent up and trained before it.

    Where an evaluation has no own sub-models (before the assignment, and for a method that holds everything),
    a device's model is the server's. From the assignment on it is the cluster's sub-model, untrained at
    first, of loss ``own_before``.
    """
    points: list[Point] = []
    bytes_up, steps = 0.0, 0
    for event in events:
        if event["event"] == "arrived":
            bytes_up += event["bytes"]
        elif event["event"] == "trained" and event["type"] == "train":
            steps += event["steps"]
        elif event["event"] == "assigned" and own_before is not None:
            # Nothing was merged yet.
            merged = points[-1].merged
            points.append(
                Point(time_s=event["time_s"], bytes_up=bytes_up, steps=steps, merged=merged, own=own_before)
            )
        elif event["event"] == "evaluated":
            own = [loss for key, loss in event.items() if key.startswith("own-loss.")]
            merged = event["loss"]
            points.append(
                Point(
                    time_s=event["time_s"],
                    bytes_up=bytes_up,
                    steps=steps,
                    merged=merged,
                    own=float(np.mean(own)) if own else merged,
                )
            )
    return points


def layout_of(config: RunConfig) -> ExpertLayout:
    """Return the experts of a run's base."""
    return read_layout(resolve_model_name(config.model.name), config.model.dtype, config.model.hold)


def memory_bytes(config: RunConfig, layout: ExpertLayout, experts: tuple[int, ...]) -> float:
    """Return what a device holds while it trains so many experts in each MoE layer, activations left out."""
    tuning, optimizer = tuning_from(config, layout.layers), config.train.optimizer
    of_one = tuned_expert_bytes(layout, tuning, optimizer)
    shared = layout.shared_bytes + tuned_shared_bytes(layout, tuning, optimizer)
    return shared + sum(n * of_one[at] for n, at in zip(experts, layout.layers, strict=True))
