"""A numeric world for the strategy: nodes that answer by arithmetic, no model, no torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Message, RecordDict

from moe.experts import ExpertArrays, ExpertLayout, ParameterKey
from strategy.ems_fl import EmsFl
from strategy.messages import (
    ExpertUpdate,
    Profile,
    profile_reply,
    read_task,
    update_reply,
)
from strategy.settings import EmsFlSettings
from strategy.wire.arrays import encode_arrays
from tests.fake_grid import FakeGrid

LAYERS, NUM_EXPERTS, SHAPE = (0, 2), 4, (3, 2)
FINGERPRINT = "base-1"


def layout() -> ExpertLayout:
    """Return two layers of four experts, 100 bytes each, 1000 shared."""
    return ExpertLayout(
        family="arithmetic",
        num_experts=dict.fromkeys(LAYERS, NUM_EXPERTS),
        top_k=2,
        expert_bytes=dict.fromkeys(LAYERS, 100),
        shared_bytes=1000,
        shapes={"fc_in": (3, 5)},
    )


def zeros() -> ExpertArrays:
    """Return what the server starts from."""
    keys = [ParameterKey(layer, index, "fc_in.lora_B") for layer in LAYERS for index in range(NUM_EXPERTS)]
    return {key: np.zeros(SHAPE, np.float32) for key in keys}


@dataclass
class ArithmeticClient:
    """Every node moves each expert halfway to its own target; ``clusters`` says who is where."""

    clusters: Mapping[int, str]
    favourite: Mapping[str, int]
    examples: int = 10
    memory_bytes: int = 1200
    fingerprint: str = FINGERPRINT
    trained: list[tuple[int, int]] = field(default_factory=list)

    def __call__(self, message: Message) -> RecordDict:
        node = message.metadata.dst_node_id
        if message.metadata.message_type == "query":
            return profile_reply(self.profile(node), message).content
        task = read_task(message)
        self.trained.append((node, task.dispatch))
        arrays = {key: 0.5 * (self.target(node, key) - value) for key, value in task.values.items()}
        if task.reply_with == "values":
            arrays = {key: task.values[key] + delta for key, delta in arrays.items()}
        update = ExpertUpdate(arrays=arrays, num_examples=self.examples, train_loss=1.5, local_steps=3)
        return update_reply(update, message).content

    def profile(self, node: int) -> Profile:
        mass = np.ones(NUM_EXPERTS)
        mass[self.favourite[self.clusters[node]]] = 20.0
        return Profile(
            cluster=self.clusters[node],
            devices=(100 + node,),
            mass=(mass, mass),
            num_examples=self.examples,
            memory_bytes=self.memory_bytes,
            fingerprint=self.fingerprint,
        )

    def target(self, node: int, key: ParameterKey) -> np.ndarray:
        return np.full(SHAPE, node + key.layer / 8 + key.index / 64, np.float32)


class Ticks:
    """A clock that advances one second whenever it is read: for worlds without a sky."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


def settings(clusters: tuple[str, ...], **changes: Any) -> EmsFlSettings:
    """One expert of a layer for each cluster, unless changed."""
    values: dict[str, Any] = {
        "layout": layout(),
        "fingerprint": FINGERPRINT,
        "clusters": clusters,
        "one_of_each_bytes": 200,
        "max_experts": lambda _, memory_bytes: (memory_bytes - 1000) // 200,
    }
    return EmsFlSettings(**{**values, **changes})


def play(
    client: Callable[[Message], RecordDict | None],
    num_nodes: int,
    strategy_settings: EmsFlSettings,
    *,
    max_merges: int = 4,
    horizon_s: float = 2000.0,
    delay: Callable[[int], int] = lambda _: 0,
    kind: type[EmsFl] = EmsFl,
    initial: ExpertArrays | None = None,
) -> tuple[EmsFl, list[dict[str, Any]]]:
    """Run the strategy over the fake grid; returns it with its events."""
    events: list[dict[str, Any]] = []
    grid = FakeGrid(client, num_nodes=num_nodes, delay=delay)
    strategy = kind(strategy_settings, clock=Ticks(), on_event=events.append)
    strategy.start(grid, encode_arrays(initial or zeros()), max_merges, horizon_s)
    return strategy, events
