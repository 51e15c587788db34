"""``python -m benchmarks.averaging``: what averaging LoRA's factors loses against averaging their products.

Devices of one domain of the demo share one expert a layer and tune it from the same start, as in one pass
of a cluster; then the server merges, once all updates fresh and once a lone update three versions late.
The error is that of the merged change of the weights, relative to the same rule on the products, by
Frobenius norms over all experts. Ends with one JSON line.
"""

import argparse
import json
import sys
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.absent import assign, read_blocks
from client.train import TrainSpec, train
from moe.disk.layout import read_layout
from moe.experts import ExpertArrays, ExpertId, Tuning
from moe.factors import PROJECTIONS
from moe.submodel.load import load_submodel
from moe.tuning.adapters import attach, get_arrays, initial_arrays
from moe.tuning.merge import lora_change
from scenario.model_name import resolve_model_name
from strategy.aggregation import WeightedDelta, merge_experts
from strategy.staleness import polynomial

_STALE_VERSIONS = 3


def merge_error(
    path: str, tuning: Tuning, start: ExpertArrays, trained: Sequence[ExpertArrays], discount: float
) -> float:
    """Return the relative error of the server's rule on the tuned arrays against the rule on products."""
    experts = {key.expert for key in start}
    updates = [
        WeightedDelta(
            delta={key: arrays[key] - value for key, value in start.items()},
            num_examples=1,
            discounts=dict.fromkeys(experts, discount),
        )
        for arrays in trained
    ]
    got = changes(path, tuning, merge_experts(start, updates))
    wanted = sum(discount * changes(path, tuning, arrays) for arrays in trained) / len(trained)
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def changes(path: str, tuning: Tuning, arrays: ExpertArrays) -> NDArray[np.float64]:
    """Return the change of every tuned weight in one row."""
    shapes = read_layout(path).shapes
    found = []
    for expert in sorted({key.expert for key in arrays}):
        for projection in PROJECTIONS:
            change = lora_change(arrays, tuning, expert, projection, shapes[projection][1])
            found.append(np.zeros(np.prod(shapes[projection])) if change is None else change.numpy().ravel())
    return np.concatenate(found).astype(np.float64)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.averaging", description=__doc__)
    parser.add_argument("--devices", type=int, default=4, help="devices that share an expert (default: 4)")
    parser.add_argument("--steps", type=int, default=12, help="local steps of every device (default: 12)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    path = resolve_model_name("demo")
    layout = read_layout(path)
    blocks = read_blocks(path, min(layout.num_experts.values()))
    keep, _ = assign(path, layout, blocks)
    domain = next(iter(blocks))
    experts = [ExpertId(layer, index) for layer, kept in keep[domain].items() for index in kept]
    spec = TrainSpec(
        steps=options.steps,
        wall_budget_s=float("inf"),
        batch_size=8,
        learning_rate=1e-2,
        optimizer="adamw",
        weight_decay=0.0,
        max_grad_norm=1.0,
    )
    results: dict[str, dict[str, float]] = {}
    for tuning in (Tuning(method="ffa"), Tuning(method="lora")):
        trained: list[ExpertArrays] = []
        for device, mine_NT in enumerate(np.array_split(blocks[domain][0], options.devices)):
            model = attach(load_submodel(path, keep[domain]), tuning)
            train(model, mine_NT, spec, [0, device])
            trained.append(get_arrays(model))
        start = initial_arrays(layout, tuning, experts)
        late = polynomial()(_STALE_VERSIONS)
        results[tuning.method] = {
            "fresh": round(merge_error(path, tuning, start, trained, 1.0), 6),
            "one_fresh": round(merge_error(path, tuning, start, trained[:1], 1.0), 6),
            "one_late": round(merge_error(path, tuning, start, trained[:1], late), 6),
        }
        print(f"{tuning.method:<5} {domain}: {results[tuning.method]}", flush=True)
    print(json.dumps({"devices": options.devices, "steps": options.steps, **results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
