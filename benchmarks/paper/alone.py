"""Methods that send nothing: each device alone, and one that has everybody's text."""

from collections.abc import Iterator
from statistics import fmean
from typing import Literal

import numpy as np
import torch

from benchmarks.paper.measures import Measures, Point, layout_of, memory_bytes
from benchmarks.paper.methods import Settings
from benchmarks.paper.worlds import visits
from client.client_state import ClientState
from client.train import train
from moe.experts import ExpertArrays, ExpertId, held_with
from moe.tuning.adapters import get_arrays, initial_arrays, set_arrays
from scenario.derive import text_from
from scenario.settings.reading import read_config
from server.evaluate import Evaluator
from strategy.assignment import Assignment, assign_experts

MEASUREMENTS = 8
"""Of central training, whose best is taken: it is an upper bound, not a method."""


class World:
    """A run's devices, texts and models, without its sky."""

    def __init__(self, settings: Settings) -> None:
        torch.set_num_threads(1)
        self.config = read_config(settings)
        self.state = ClientState(self.config)
        self.layout = layout_of(self.config)
        self.clusters = {
            cluster.name: [
                device
                for node in self.state.population.cluster_nodes(cluster.name)
                for device in node.device_ids
            ]
            for cluster in self.state.population.clusters
        }
        text = text_from(self.config, self.state.population)
        self.evaluator = Evaluator(
            self.config, self.state.path, self.state.tuning, text, tuple(self.clusters)
        )
        self.initial = initial_arrays(self.state.path, self.state.tuning, self.layout.experts)

    def assignment(self) -> Assignment:
        """Return who would own what: an equal deal, by everybody's profile."""
        mass = {
            name: [np.sum(layers, axis=0) for layers in zip(*map(self.state.mass, devices), strict=True)]
            for name, devices in self.clusters.items()
        }
        share = max(1, min(self.layout.num_experts.values()) // len(self.clusters))
        return assign_experts(mass, self.layout.layers, dict.fromkeys(self.clusters, share))

    def trained(
        self, values: ExpertArrays, blocks: np.ndarray, visit: int, device: int, steps: int
    ) -> ExpertArrays:
        """Return values after a visit's worth of steps on blocks, as a device would take them."""
        model = self.state.submodel(frozenset(key.expert for key in values if not key.is_shared))
        set_arrays(model, values)
        train(model, blocks, self.state.train_spec(steps, float("inf")), [self.config.seed, device, visit])
        return {key: value for key, value in get_arrays(model).items() if key in values}


def alone(settings: Settings, how: Literal["sky", "own-alone", "whole-alone", "central"]) -> Measures:
    """Measure a method that never sends anything."""
    world = World(settings)
    return _central(world, settings) if how == "central" else _each_alone(world, settings, how)


def _each_alone(world: World, settings: Settings, how: str) -> Measures:
    """Every device on its own blocks for as many visits as a day under the sky gives; the mean of all."""
    held: dict[str, tuple[ExpertId, ...]] = dict.fromkeys(world.clusters, world.layout.experts)
    if how == "own-alone":
        held = dict(world.assignment().experts)
    steps, count = world.config.train.max_steps, visits(settings)
    before, others_before, others = list[float](), list[float](), list[float]()
    after: list[tuple[str, float]] = []
    for name, devices in world.clusters.items():
        start = held_with(set(held[name]), world.initial)
        before.append(_own_loss(world, name, held[name], start))
        others_before.append(_others_loss(world, name, held[name], start))
        for device in devices:
            values = start
            for visit in range(count):
                values = world.trained(values, world.state.blocks(device), visit, device, steps)
            after.append((name, _own_loss(world, name, held[name], values)))
            others.append(_others_loss(world, name, held[name], values))
    by_cluster = [fmean(loss for of, loss in after if of == name) for name in world.clusters]
    merged_before = fmean(world.evaluator.merged(world.initial).values())
    done = len(after) * count * steps
    point = Point(time_s=float("nan"), bytes_up=0.0, steps=done, merged=float("nan"), own=fmean(by_cluster))
    forgot = (fmean(others_before), fmean(others))
    return _measures(world, held, fmean(before), merged_before, [point], done, forgot)


def _central(world: World, settings: Settings) -> Measures:
    """One model on everybody's blocks together, for as many steps as all devices take together."""
    blocks = np.concatenate([world.state.blocks(d) for devices in world.clusters.values() for d in devices])
    total = len(world.state.population.devices) * visits(settings) * world.config.train.max_steps
    before = fmean(world.evaluator.merged(world.initial).values())
    points = list(_measured(world, blocks, total))
    best = min(points, key=lambda point: point.merged)
    held = dict.fromkeys(world.clusters, world.layout.experts)
    # One model for all: on the text of the others it has, in the mean, what it has on everybody's.
    return _measures(world, held, before, before, [*points, best], total, (before, best.merged))


def _measured(world: World, blocks: np.ndarray, total: int) -> Iterator[Point]:
    values, each = world.initial, max(1, total // MEASUREMENTS)
    for at in range(MEASUREMENTS):
        values = world.trained(values, blocks, at, 0, each)
        loss = fmean(world.evaluator.merged(values).values())
        yield Point(time_s=float("nan"), bytes_up=0.0, steps=(at + 1) * each, merged=loss, own=loss)


def _own_loss(world: World, cluster: str, held: tuple[ExpertId, ...], values: ExpertArrays) -> float:
    return world.evaluator.submodel(cluster, held, values)


def _others_loss(world: World, cluster: str, held: tuple[ExpertId, ...], values: ExpertArrays) -> float:
    """Return the mean loss of a cluster's model on the text of the others."""
    return fmean(_own_loss(world, other, held, values) for other in world.clusters if other != cluster)


def _measures(
    world: World,
    held: dict[str, tuple[ExpertId, ...]],
    own_before: float,
    merged_before: float,
    points: list[Point],
    steps: int,
    others: tuple[float, float],
) -> Measures:
    a_layer = {
        name: tuple(sum(e.layer == layer for e in experts) for layer in world.layout.layers)
        for name, experts in held.items()
    }
    return Measures(
        own=points[-1].own,
        merged=points[-1].merged,
        own_before=own_before,
        merged_before=merged_before,
        points=points,
        bytes_up=0.0,
        bytes_down=0.0,
        update_bytes=0.0,
        steps=steps,
        flops=float("nan"),
        memory_bytes=max(memory_bytes(world.config, world.layout, experts) for experts in a_layer.values()),
        capture=float("nan"),
        random_capture=float("nan"),
        staleness=0.0,
        others_before=others[0],
        others_after=others[1],
        load_cv_before=float("nan"),
        load_cv_after=float("nan"),
    )
