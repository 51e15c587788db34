"""What the simulated sky costs a message: ``python -m benchmarks.sky_messages [NODES ...]``.

Every node of eight clusters always has one training message under way for a simulated day, the client does
nothing, and the strategy only pushes and pulls, so all that is left is Flower's messages and the sky. Ends
with one line of JSON. Processor time, since other programs may be running.
"""

import json
import resource
import sys
from collections.abc import Sequence
from itertools import cycle
from time import process_time
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict

from sim.grid.grid import SatelliteGrid
from sim.plans.plan import Contact, ContactPlan
from sim.population import Cluster, build_population
from tests.fake_grid import FakeGrid

DAY_S, ORBIT_S, CONTACT_S, BYTES_PER_S = 86_400.0, 5_400.0, 500.0, 1e6
NUM_CLUSTERS = 8


def contacts(offset_s: float) -> tuple[Contact, ...]:
    """Return a contact an orbit."""
    rises_s = np.arange(offset_s, DAY_S - CONTACT_S, ORBIT_S).tolist()
    rate = np.full(2, BYTES_PER_S)
    return tuple(
        Contact(
            rise_s=rise_s,
            set_s=rise_s + CONTACT_S,
            satellites=("SAT-1",),
            time_s=np.array([rise_s, rise_s + CONTACT_S]),
            down_bytes_per_s=rate,
            up_bytes_per_s=rate,
        )
        for rise_s in rises_s
    )


def content(num_bytes: int) -> RecordDict:
    """Return a content with one array of so many bytes."""
    return RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(num_bytes, dtype=np.uint8))})})


def measure(num_nodes: int) -> dict[str, Any]:
    """Run a day and return what it cost."""
    clusters = [Cluster(name=f"c{i}", latitude_deg=0.0, longitude_deg=0.0) for i in range(NUM_CLUSTERS)]
    population = build_population(
        clusters=clusters,
        num_devices=num_nodes,
        devices_per_node=1,
        step_time_s=1.0,
        speed_spread=0.5,
        data_spread=0.0,
        memory_bytes=1,
        seed=0,
    )
    plan = ContactPlan(
        horizon_s=DAY_S, contacts={c.name: contacts(10.0 + 3.7 * i) for i, c in enumerate(clusters)}
    )
    # Replies of many sizes, so that few arrive at the same instant.
    replies, instruction, num_events = cycle([content(500 + 7 * i) for i in range(200)]), content(1000), 0

    def on_event(_: dict[str, Any]) -> None:
        nonlocal num_events
        num_events += 1

    inner = FakeGrid(lambda _: next(replies), num_nodes=16)
    grid = SatelliteGrid(inner, plan, population, min_steps=1, max_steps=1000, on_event=on_event)
    begin_s, num_replies, num_pulls = process_time(), 0, 0
    waiting: dict[str, None] = {}
    idle = [node.node_id for node in population.nodes]
    while not grid.is_over:
        waiting |= dict.fromkeys(
            grid.push_messages([Message(instruction, node_id, "train") for node_id in idle])
        )
        idle = []
        for reply in grid.pull_messages(waiting.keys()):
            del waiting[reply.metadata.reply_to_message_id]
            idle.append(reply.metadata.src_node_id)
        num_replies, num_pulls = num_replies + len(idle), num_pulls + 1
        inner.pushed.clear()
    spent_s = process_time() - begin_s
    return {
        "nodes": num_nodes,
        "replies": num_replies,
        "events": num_events,
        "pulls": num_pulls,
        "cpu_s": round(spent_s, 2),
        "cpu_us_per_message": round(spent_s / num_replies * 1e6, 1),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main(arguments: Sequence[str]) -> None:
    """Measure each number of nodes."""
    results = [measure(int(text)) for text in arguments or ("100", "1000", "10000")]
    for result in results:
        print("  ".join(f"{name} {value}" for name, value in result.items()))
    print(json.dumps({"benchmark": "sky_messages", "results": results}))


if __name__ == "__main__":
    main(sys.argv[1:])
