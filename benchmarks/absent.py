"""``python -m benchmarks.absent``: which rule for absent experts? Without the sky, on the demo's domains.

Each cluster is one device that has as many domains as it keeps experts a layer (``--kept``, default
one), assigned by routing mass. Every cluster tunes its experts once, from the base; then the held-out
loss of its own sub-model, and of the merged model under its full router, are means over the clusters.
Ends with one JSON line.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from transformers import AutoTokenizer

from client.train import TrainSpec, train
from demo.corpus import domains
from demo.packing import pack
from moe.disk.layout import read_layout
from moe.experts import ExpertArrays, ExpertLayout, Tuning
from moe.objective import mean_loss
from moe.submodel.absent import Absent
from moe.submodel.load import load_full, load_submodel
from moe.submodel.routing import routing_mass
from moe.tuning.adapters import MergedModel, attach, get_arrays
from scenario.model_name import resolve_model_name

_RULES = get_args(Absent)
_LENGTH_TOKENS = 64
_HELD_OUT = 48
_MAX_TRAIN = 512
_BATCH = 8
_PROFILED = 32

Blocks = Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]]
"""Cluster -> blocks to train on and held-out blocks, each ``[N, T]``."""


def assign(
    path: str, layout: ExpertLayout, blocks: Blocks, num_kept: int = 1
) -> tuple[dict[str, dict[int, list[int]]], float]:
    """Give each cluster its experts so that most routing mass is captured; return that share too."""
    model = load_full(path)
    mass_CLE = np.stack(
        [
            routing_mass(model, torch.from_numpy(_sample(train_NT)).split(_BATCH))
            for train_NT, _ in blocks.values()
        ]
    )
    share_CLE = mass_CLE / mass_CLE.sum(axis=2, keepdims=True)
    keep: dict[str, dict[int, list[int]]] = {n: {layer: [] for layer in layout.layers} for n in blocks}
    captured = []
    for row, layer in enumerate(layout.layers):
        seats, experts = linear_sum_assignment(-np.repeat(share_CLE[:, row], num_kept, axis=0))
        captured.append(share_CLE[seats // num_kept, row, experts].sum() / len(blocks))
        for seat, expert in zip(seats, experts, strict=True):
            keep[list(blocks)[seat // num_kept]][layer].append(int(expert))
    return keep, float(np.mean(captured))


def measure(
    path: str,
    rule: str,
    keep: Mapping[str, Mapping[int, Sequence[int]]],
    blocks: Blocks,
    spec: TrainSpec,
    tuning: Tuning,
) -> dict[str, float]:
    """Tune every cluster once under a rule; return mean held-out losses in nats per token."""
    merged: ExpertArrays = {}
    before, after = [], []
    for number, (name, (train_NT, held_NT)) in enumerate(blocks.items()):
        model = attach(load_submodel(path, keep[name], absent=rule), tuning)
        before.append(mean_loss(model, held_NT, _BATCH))
        train(model, train_NT, spec, [0, number])
        after.append(mean_loss(model, held_NT, _BATCH))
        merged |= get_arrays(model)
    full = MergedModel(path, tuning)
    base = [mean_loss(full.model, held_NT, _BATCH) for _, held_NT in blocks.values()]
    full.set(merged)
    whole = [mean_loss(full.model, held_NT, _BATCH) for _, held_NT in blocks.values()]
    names = ("submodel_before", "submodel_after", "merged_before", "merged_after")
    return {n: round(float(np.mean(v)), 4) for n, v in zip(names, (before, after, base, whole), strict=True)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.absent", description=__doc__)
    parser.add_argument("--steps", type=int, default=60, help="local steps of every cluster (default: 60)")
    parser.add_argument("--kept", type=int, default=1, help="experts a cluster keeps in a layer (default: 1)")
    parser.add_argument("--router-rows", action="store_true", help="also tune the kept experts' router rows")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    path = resolve_model_name("demo")
    layout = read_layout(path)
    most = min(layout.num_experts.values())
    blocks = read_blocks(path, most, options.kept)
    keep, capture = assign(path, layout, blocks, options.kept)
    print(
        f"{len(blocks)} clusters, {options.kept} experts of {most} a layer, capture {capture:.2f}", flush=True
    )
    spec = TrainSpec(
        steps=options.steps,
        wall_budget_s=float("inf"),
        batch_size=_BATCH,
        learning_rate=5e-3,
        optimizer="adamw",
        weight_decay=0.0,
        max_grad_norm=1.0,
    )
    results = {}
    for rule in _RULES:
        results[rule] = measure(path, rule, keep, blocks, spec, Tuning(router_rows=options.router_rows))
        print(
            f"{rule:<12} " + "  ".join(f"{name} {value:.3f}" for name, value in results[rule].items()),
            flush=True,
        )
    print(json.dumps({"capture": round(capture, 4), **results}))
    return 0


def _sample(train_NT: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return some blocks, spread over all of a cluster's domains."""
    return train_NT[:: max(1, len(train_NT) // _PROFILED)][:_PROFILED]


def read_blocks(path: str, most: int, num_kept: int = 1) -> Blocks:
    """Return the blocks of ``most // num_kept`` clusters of ``num_kept`` domains each."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    packed: list[tuple[str, NDArray[np.int64], NDArray[np.int64]]] = []
    for name, texts in list(domains().items())[: most // num_kept * num_kept]:
        held = max(1, len(texts) // 8)
        train_NT = pack(tokenizer, texts[held:], sequence_length=_LENGTH_TOKENS, max_examples=_MAX_TRAIN)
        held_NT = pack(tokenizer, texts[:held], sequence_length=_LENGTH_TOKENS, max_examples=_HELD_OUT)
        packed.append((name, train_NT, held_NT))
    return {
        "+".join(name for name, _, _ in group): (
            np.concatenate([train_NT for _, train_NT, _ in group]),
            np.concatenate([held_NT for _, _, held_NT in group]),
        )
        for group in zip(*[iter(packed)] * num_kept, strict=True)
    }


if __name__ == "__main__":
    sys.exit(main())
