"""``python -m benchmarks.throughput.training HOW DEVICES STEPS``: the same local steps, two ways.

``bare``: in each of two processes a loop over its devices that sets the sub-model's values and trains.
``ours``: the same devices as nodes of the simulated sky, through messages, groups and the pool of processes.
Imports, models and tokenised text are ready before anything is measured. Prints a line of JSON.
"""

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict

from benchmarks.throughput.world import Meter, plan, population
from client.client_state import ClientState
from client.train import train
from engine.allocator import keep_pages
from engine.client_call import take_part_in_a_run
from engine.local_grid import LocalGrid
from engine.processes import Processes
from engine.run import PRELOAD, client_app
from moe.experts import ExpertArrays, ExpertId
from moe.tuning.adapters import get_arrays, initial_arrays, set_arrays
from scenario.settings.config import Scalar, flat_config
from scenario.settings.reading import read_config
from sim.grid.grid import SatelliteGrid
from strategy.messages import train_instruction

WORKERS = 2
TEXT_DEVICES = 96
"""Devices of the demo, whose text the simulated ones share: there is no text for thousands."""
EXPERTS = frozenset(ExpertId(layer, 1) for layer in range(3))

SETTINGS: dict[str, Scalar] = flat_config(read_config({}))


def values() -> ExpertArrays:
    """Return what every device starts from."""
    state = ClientState(read_config(SETTINGS))
    return initial_arrays(state.path, state.tuning, sorted(EXPERTS))


# ---- the bare loop

_STATE: list[ClientState] = []
barrier: Any = None


def begin_bare(everybody: Any) -> None:
    """Make a process one of the loop's."""
    global barrier
    barrier = everybody


def warm_bare(_: int) -> None:
    """Load the model and the text of every device; each process takes one, since it waits for the others."""
    import torch

    torch.set_num_threads(1)
    keep_pages()
    barrier.wait()
    if not _STATE:
        _STATE.append(ClientState(read_config(SETTINGS)))
        _bare_steps(range(TEXT_DEVICES), 1)


def _bare_steps(devices: range, steps: int) -> None:
    state = _STATE[0]
    start = initial_arrays(state.path, state.tuning, sorted(EXPERTS))
    model = state.submodel(EXPERTS)
    for device in devices:
        set_arrays(model, start)
        train(
            model, state.blocks(device % TEXT_DEVICES), state.train_spec(steps, float("inf")), [1, device, 0]
        )
        get_arrays(model)


def bare_steps(part: tuple[int, int, int]) -> None:
    """Train every device of a part."""
    first, count, steps = part
    _bare_steps(range(first, first + count), steps)


def bare(num_devices: int, steps: int) -> dict[str, float]:
    """Measure the bare loop."""
    each = num_devices // WORKERS
    context = get_context("spawn")
    with ProcessPoolExecutor(
        WORKERS, mp_context=context, initializer=begin_bare, initargs=(context.Barrier(WORKERS),)
    ) as pool:
        list(pool.map(warm_bare, range(WORKERS)))
        meter = Meter()
        list(pool.map(bare_steps, [(at * each, each, steps) for at in range(WORKERS)]))
        return meter.read()


# ---- ours


def ours(num_devices: int, steps: int) -> dict[str, float]:
    """Measure the same through the sky."""
    take_part_in_a_run()
    computer = Processes(client_app, SETTINGS, num_workers=WORKERS, preload=PRELOAD)
    try:
        grid = LocalGrid(computer)
        start = values()
        warm = [_warm(start, device) for _ in range(WORKERS) for device in range(TEXT_DEVICES)]
        assert all(reply.has_content() for reply in grid.send_and_receive(warm))
        people = population(num_devices, steps)
        nodes = [replace(n, device_ids=(n.device_ids[0] % TEXT_DEVICES,)) for n in people.nodes]
        people = replace(people, nodes=tuple(nodes))
        sky = SatelliteGrid(grid, plan(people), people, min_steps=steps, max_steps=steps, is_grouped=True)
        meter, asked, num_replies = Meter(), set[int](), 0
        waiting: dict[str, None] = {}
        while not sky.is_over and num_replies < num_devices:
            fresh = [node for node in sky.get_node_ids() if node not in asked]
            asked.update(fresh)
            waiting |= dict.fromkeys(sky.push_messages([train_instruction(node, start, 0) for node in fresh]))
            for reply in sky.pull_messages(waiting.keys()):
                assert reply.has_content(), reply.error.reason
                del waiting[reply.metadata.reply_to_message_id]
                num_replies += 1
        assert num_replies == num_devices, f"{num_replies} of {num_devices} replies"
        return meter.read()
    finally:
        computer.close()


def _warm(start: ExpertArrays, device: int) -> Message:
    message = train_instruction(1, start, 0)
    message.content["sky"] = _sky(device, 1)
    return Message(RecordDict(dict(message.content)), 1, "train")


def _sky(device: int, steps: int) -> ConfigRecord:
    return ConfigRecord(
        {"cluster": "c0", "devices": [device], "local-steps": steps, "time-s": 0.0, "node": device + 1}
    )


def main(how: str, num_devices: int, steps: int) -> None:
    """Measure one of the two."""
    measured = {"bare": bare, "ours": ours}[how](num_devices, steps)
    print("\n" + json.dumps({"how": how, "devices": num_devices, "steps": steps, **measured}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
