"""``python -m benchmarks.throughput.contender NAME DEVICES``: one contender, once; prints a line of JSON."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from benchmarks.throughput.world import (
    DEVICES_A_CLUSTER,
    Meter,
    content,
    echo_app,
    memory_bytes,
    plan,
    population,
)
from engine.allocator import keep_pages
from engine.client_call import take_part_in_a_run
from engine.local_grid import LocalGrid
from engine.processes import Processes
from server.machine.environment import default_nodes
from sim.grid.grid import SatelliteGrid

WORKERS = 2
NODES = default_nodes(WORKERS)
"""Flower nodes that lend their workers, where there is not one for each device."""

PEAK_VARIABLE = "MEASURE_PEAK"
LOOK_EVERY_S = 0.5

Measured = dict[str, Any]


def one_node_a_device(grid: Grid, num_devices: int) -> Measured:
    """Send to every Flower node, wait for all: Flower's own way."""
    nodes = wait_for_nodes(grid, num_devices)
    instruction = content()
    warm(grid, nodes[:WORKERS])
    meter = Meter()
    replies = list(grid.send_and_receive([Message(instruction, node, "train") for node in nodes]))
    return meter.read() | {"replies": sum(reply.has_content() for reply in replies)}


def over_the_sky(grid: Grid, num_devices: int, devices_per_node: int = 1) -> Measured:
    """Send to every node of a population as its cluster rises, in groups; take each reply and drop it."""
    people = population(num_devices, devices_per_node=devices_per_node)
    warm(grid, wait_for_nodes(grid, WORKERS)[:WORKERS])
    sky = SatelliteGrid(grid, plan(people), people, min_steps=1, max_steps=1, is_grouped=True)
    instruction, asked, waiting, num_replies = content(), set[int](), dict[str, None](), 0
    meter = Meter()
    while not sky.is_over and num_replies < len(people.nodes):
        fresh = [node for node in sky.get_node_ids() if node not in asked]
        asked.update(fresh)
        waiting |= dict.fromkeys(sky.push_messages([Message(instruction, node, "train") for node in fresh]))
        for reply in sky.pull_messages(waiting.keys()):
            del waiting[reply.metadata.reply_to_message_id]
            num_replies += reply.has_content()
    assert num_replies == len(people.nodes), f"{num_replies} of {len(people.nodes)} replies"
    return meter.read() | {"replies": num_replies}


def sums_over_the_sky(grid: Grid, num_devices: int) -> Measured:
    """Have a node stand for all devices of its cluster and answer with the mean: exact, merging is linear."""
    return over_the_sky(grid, num_devices, DEVICES_A_CLUSTER)


def wait_for_nodes(grid: Grid, count: int) -> list[int]:
    """Return Flower's nodes once there are so many; the ServerApp may start before they have registered."""
    while len(nodes := list(grid.get_node_ids())) < count:
        time.sleep(0.1)
    return nodes


def warm(grid: Grid, nodes: list[int]) -> None:
    """Have every worker started and the app imported before anything is measured."""
    heard: set[object] = set()
    while len(heard) < WORKERS:
        replies = grid.send_and_receive([Message(content(1000), node, "query") for node in nodes])
        heard |= {reply.content.config_records["who"]["pid"] for reply in replies}


def through_flower(measure: Callable[[Grid, int], Measured], num_devices: int, num_nodes: int) -> Measured:
    """Measure inside a simulation of Flower's with Ray."""
    found: Measured = {}
    server = ServerApp()

    @server.main()
    def main(grid: Grid, _context: Context) -> None:
        found.update(with_peak(lambda: measure(grid, num_devices)))

    run_simulation(
        server,
        imported_app(),
        num_supernodes=num_nodes,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": WORKERS, "logging_level": 40, "log_to_driver": False},
        },
    )
    return found


def imported_app() -> ClientApp:
    """Return the app from a module that workers can import, not from this script."""
    from benchmarks.throughput import client

    return client.app


def with_peak(measure: Callable[[], Measured]) -> Measured:
    """Add the highest memory seen meanwhile, where ``$MEASURE_PEAK`` asks for it: looking takes time."""
    if not os.environ.get(PEAK_VARIABLE):
        return measure()
    peak, done = [memory_bytes()], threading.Event()

    def look() -> None:
        while not done.wait(LOOK_EVERY_S):
            peak.append(memory_bytes())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    measured = measure()
    done.set()
    thread.join()
    return measured | {"peak_mb": round(max(*peak, memory_bytes()) / 1e6)}


def in_a_pool(measure: Callable[[Grid, int], Measured], num_devices: int) -> Measured:
    """Measure over our own pool of processes."""
    take_part_in_a_run()
    keep_pages()  # as `engine.run` does
    computer = Processes(echo_app, {}, num_workers=WORKERS, preload=("benchmarks.throughput.world",))
    try:
        return with_peak(lambda: measure(LocalGrid(computer), num_devices))
    finally:
        computer.close()


def main(name: str, num_devices: int) -> None:
    """Measure one contender."""
    if name == "flower":
        measured = through_flower(one_node_a_device, num_devices, num_devices)
    elif name == "ours":
        measured = through_flower(over_the_sky, num_devices, NODES)
    elif name == "sums":
        measured = through_flower(sums_over_the_sky, num_devices, NODES)
    elif name == "processes":
        measured = in_a_pool(over_the_sky, num_devices)
    elif name == "processes-sums":
        measured = in_a_pool(sums_over_the_sky, num_devices)
    else:
        raise SystemExit(f"there is no contender {name!r}")
    print("\n" + json.dumps({"contender": name, "devices": num_devices, **measured}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
