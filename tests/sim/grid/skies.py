"""Small skies and runs the tests of the grid share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict

from sim.grid.grid import SatelliteGrid
from sim.grid.message_bytes import content_bytes
from sim.plans.plan import Contact, ContactPlan
from sim.population import Cluster, Device, Node, Population
from tests.fake_grid import Client, FakeGrid

STEPS = {"min_steps": 1, "max_steps": 10_000}


def flat(rise_s: float, set_s: float, down: float, up: float, *, delay_s: float = 0.0) -> Contact:
    """Return a contact with constant rates in bytes per second."""
    time_s, ones = np.array([rise_s, set_s]), np.ones(2)
    return Contact(
        rise_s=rise_s,
        set_s=set_s,
        satellites=("SAT-1",),
        time_s=time_s,
        down_bytes_per_s=down * ones,
        up_bytes_per_s=up * ones,
        delay_s=delay_s,
    )


def people(nodes_per_cluster: Mapping[str, Sequence[float]]) -> Population:
    """Return a population of one device a node, given the step times in seconds of each cluster's nodes."""
    devices: list[Device] = []
    nodes: list[Node] = []
    for cluster, step_times_s in nodes_per_cluster.items():
        for step_time_s in step_times_s:
            number = len(nodes)
            devices.append(
                Device(
                    device_id=number, cluster=cluster, data_share=1.0, step_time_s=step_time_s, memory_bytes=1
                )
            )
            nodes.append(
                Node(node_id=number + 1, cluster=cluster, device_ids=(number,), step_time_s=step_time_s)
            )
    clusters = tuple(Cluster(name=name, latitude_deg=0.0, longitude_deg=0.0) for name in nodes_per_cluster)
    return Population(clusters=clusters, devices=tuple(devices), nodes=tuple(nodes))


def payload(num_bytes: int) -> RecordDict:
    """Return a content of exactly ``num_bytes`` on the link (20 or more)."""
    content = RecordDict({"x": ArrayRecord({"y": _array(num_bytes - FRAME_BYTES)})})
    assert content_bytes(content) == num_bytes
    return content


def _array(num_bytes: int) -> Array:
    return Array(dtype="", shape=(), stype="", data=bytes(num_bytes))


FRAME_BYTES = content_bytes(RecordDict({"x": ArrayRecord({"y": _array(0)})}))  # what the encoding adds


def train(node_id: int, num_bytes: int, *, kind: str = "train", ttl: float | None = None) -> Message:
    """Return an instruction of ``num_bytes`` to a node."""
    return Message(payload(num_bytes), node_id, kind, ttl=ttl)


def answering(num_bytes: int) -> Client:
    """Return a client whose every reply has ``num_bytes``."""
    return lambda _: payload(num_bytes)


def sky(
    contacts: Mapping[str, Sequence[Contact]],
    step_times_s: Mapping[str, Sequence[float]],
    *,
    client: Client | None = None,
    horizon_s: float = 10_000.0,
    inner: FakeGrid | None = None,
    **options: Any,
) -> tuple[SatelliteGrid, list[dict[str, Any]]]:
    """Return a grid over a fake one, and the list its events are appended to."""
    log: list[dict[str, Any]] = []
    grid = SatelliteGrid(
        inner or FakeGrid(client or answering(100)),
        ContactPlan(horizon_s=horizon_s, contacts={name: tuple(its) for name, its in contacts.items()}),
        people(step_times_s),
        on_event=log.append,
        **{**STEPS, **options},
    )
    return grid, log


def run_until(grid: SatelliteGrid, stop: Callable[[], bool], ids: set[str]) -> list[Message]:
    """Pull until ``stop()`` or the end and return all replies."""
    replies: list[Message] = []
    while not stop() and not grid.is_over:
        replies += grid.pull_messages(ids)
    return replies
