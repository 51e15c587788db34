"""What every contender is given: content of a size, a client that does nothing, a sky of so many devices."""

import os
import time
from itertools import count
from typing import Any, cast

import numpy as np
import psutil
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from sim.grid.groups import each_of_group
from sim.grid.transit import SKY_RECORD
from sim.plans.plan import Contact, ContactPlan
from sim.population import Cluster, Population, build_population

DEVICES_A_CLUSTER = 50
ORBIT_S, CONTACT_S, BYTES_PER_S = 5_400.0, 500.0, 1e9
ADAPTER_BYTES = 100_000
_ANSWERS = count(os.getpid())


def content(num_bytes: int = ADAPTER_BYTES) -> RecordDict:
    """Return a content with one float32 array of so many bytes."""
    values = np.random.default_rng(0).standard_normal(num_bytes // 4).astype(np.float32)
    return RecordDict({"arrays": ArrayRecord({"w": Array(values)})})


def echo_app() -> ClientApp:
    """Return a ClientApp whose devices send back what they get, or their mean where a node hosts several."""
    app = ClientApp(mods=[each_of_group])

    @app.train()
    def train(message: Message, _context: Context) -> Message:
        values = message.content.array_records["arrays"]["w"].numpy()
        sky = message.content.config_records.get(SKY_RECORD)
        hosted = cast(list[int], sky["devices"]) if sky else [0]
        # Its own bytes, as after training: no two devices' are equal.
        own = [values + np.float32(next(_ANSWERS)) for _ in hosted]
        answer = np.asarray(own[0] if len(own) == 1 else np.mean(own, axis=0, dtype=np.float64), np.float32)
        return Message(RecordDict({"arrays": ArrayRecord({"w": Array(answer)})}), reply_to=message)

    @app.query()
    def who(message: Message, _context: Context) -> Message:
        time.sleep(0.3)  # long enough for the others to be asked
        return Message(RecordDict({"who": ConfigRecord({"pid": os.getpid()})}), reply_to=message)

    return app


def population(num_devices: int, steps: int = 1, devices_per_node: int = 1) -> Population:
    """Return clusters of fifty devices, busy for a part of the gap with so many steps."""
    count = max(1, num_devices // DEVICES_A_CLUSTER)
    clusters = [Cluster(name=f"c{at}", latitude_deg=0.0, longitude_deg=0.0) for at in range(count)]
    return build_population(
        clusters=clusters,
        num_devices=num_devices,
        devices_per_node=devices_per_node,
        step_time_s=1_500.0 / steps,
        speed_spread=0.3,
        data_spread=0.0,
        memory_bytes=1,
        seed=0,
    )


def plan(people: Population) -> ContactPlan:
    """Return three contacts for every cluster, an orbit apart, the clusters one after another."""
    rate = np.full(2, BYTES_PER_S)
    contacts = {}
    for at, cluster in enumerate(people.clusters):
        first_s = 10.0 + ORBIT_S * at / len(people.clusters)
        contacts[cluster.name] = tuple(
            Contact(
                rise_s=rise_s,
                set_s=rise_s + CONTACT_S,
                satellites=("SAT-1",),
                time_s=np.array([rise_s, rise_s + CONTACT_S]),
                down_bytes_per_s=rate,
                up_bytes_per_s=rate,
            )
            for rise_s in (first_s, first_s + ORBIT_S, first_s + 2 * ORBIT_S)
        )
    return ContactPlan(horizon_s=4 * ORBIT_S, contacts=contacts)


class Meter:
    """Wall time, processor time and memory of this process and all it started."""

    def __init__(self) -> None:
        self._began_s, self._cpu_s = time.monotonic(), cpu_s()

    def read(self) -> dict[str, Any]:
        """Return what has passed since the meter was made."""
        return {"wall_s": time.monotonic() - self._began_s, "cpu_s": cpu_s() - self._cpu_s}


def family() -> list[psutil.Process]:
    """Return this process and its living descendants."""
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def cpu_s() -> float:
    """Return the processor seconds of the family so far."""
    return sum(_cpu_of(process) for process in family())


def memory_bytes() -> int:
    """Return the family's memory, pages that processes share counted once (PSS)."""
    return sum(_memory_of(process) for process in family())


def _cpu_of(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _memory_of(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0
