"""``python -m benchmarks.standin``: how good an assignment is that devices without experts ask for.

Each of eight clusters holds one domain of the embedded text and may have one eighth of every layer's
experts. Experts are assigned by what devices profile, and the assignment is judged by the exact profile of
more blocks: its capture over that of the exact assignment is what is kept. Bases on which it can fail: small
experts that follow domains some way (field, and deep, which has twice the layers) or little (flat).

Stand-ins are fitted to the maker's text, of all domains and of every other one. Beside them: the exact
profile of as few blocks, and nothing in the place of the experts. ``L1`` is the distance of the profiles'
shares, mean over clusters and all layers but the first, which is always exact.

Time and memory of making them are those of a process of one thread, on a random checkpoint whose layers are
large beside the program: peak resident memory over that before, and over the shared part with one layer.

Ends with one JSON line. ``capture_kept`` is the worst base's with all domains, ``stand_in_bytes_ratio`` the
largest base's share of the experts' bytes in 16 bit, ``prepare_peak_ratio`` as told above.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.submodel import PeakMemory
from benchmarks.tiny_models import VOCABULARY, save_tiny
from demo import corpus
from demo.base_model import ensure_base_model
from demo.packing import pack
from demo.recipe import BY_NAME, FIELD, Recipe
from moe.disk.layout import read_layout
from moe.disk.tokens import load_tokenizer
from moe.experts import ExpertLayout
from moe.standin.fit import fit_stand_ins
from moe.standin.load import load_with_stand_ins
from moe.standin.stand_in import StandIn, StandIns
from moe.submodel.load import load_full
from moe.submodel.routing import routing_mass
from strategy.assignment import assign_experts

LENGTH, JUDGED, SEEN, ROWS = 64, 128, 96, 32
"""Tokens of a block; blocks of a cluster that judge, and that devices profile; blocks of a forward pass."""
FIT_BLOCKS = 128
SHARE = 8
"""One expert in so many is a cluster's."""
DEEP = replace(FIELD, num_layers=6)
BASES: Mapping[str, Recipe] = {
    "field": BY_NAME["demo-field"],
    "flat": BY_NAME["demo-flat"],
    "deep": DEEP,
}
LARGE: dict[str, Any] = {
    **{"hidden_size": 512, "head_dim": 64, "num_attention_heads": 8, "num_hidden_layers": 6},
    **{"num_experts": 64, "moe_intermediate_size": 512, "num_experts_per_tok": 4},
}
HALF_PRECISION_BYTES = 2

Profile = dict[str, list[NDArray[np.float64]]]
"""Cluster -> gate mass [E] by layer."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.standin", description=__doc__)
    parser.add_argument("--bases", nargs="*", default=list(BASES), choices=list(BASES), help="these alone")
    parser.add_argument("--rank", type=int, default=16, help="of the stand-ins")
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.prepare:
        print(json.dumps(prepare(options.prepare, options.rank)))
        return 0
    print(json.dumps(results(options.bases, options.rank)))
    return 0


def results(bases: Sequence[str], rank: int) -> dict[str, Any]:
    """Print the tables and return what the line of JSON has."""
    found = {name: measure(name, rank) for name in bases}
    memory = _prepare_apart(rank)
    print(
        f"\nmaking them, {memory['tokens']:.0f} tokens, hidden 512, 6 layers of 64 experts: "
        f"{memory['wall_s']:.0f} s, peak {memory['peak_bytes'] / 1e6:.0f} MB over the program; shared part "
        f"{memory['shared_bytes'] / 1e6:.1f} MB, a layer's experts {memory['layer_bytes'] / 1e6:.0f} MB, "
        f"all {memory['experts_bytes'] / 1e6:.0f} MB"
    )
    return {
        "capture_kept": min(base["kept, all domains"] for base in found.values()),
        "stand_in_bytes_ratio": max(base["bytes_ratio"] for base in found.values()),
        "prepare_peak_ratio": memory["peak_bytes"] / (memory["shared_bytes"] + memory["layer_bytes"]),
        "bases": found,
    }


def measure(name: str, rank: int) -> dict[str, float]:
    """Print a base's rows and return its numbers."""
    path = ensure_base_model(lambda text: print(f"{name}: {text}", flush=True), BASES[name])
    layout = read_layout(path)
    full = load_full(path)
    blocks = _blocks(path, corpus.domains(), JUDGED)
    truth = _profile(full, blocks, JUDGED)
    exact = _captured(truth, truth, layout)
    maker = _blocks(path, corpus.maker_texts(), FIT_BLOCKS // len(blocks))
    began_s = time.process_time()
    whole = fit_stand_ins(path, list(maker.values()), base=name, rank=rank)
    took_s = time.process_time() - began_s
    half = list(maker.values())[::2]
    fits = {
        "exact, fewer blocks": None,
        "all domains": whole,
        "half the domains": fit_stand_ins(path, [*half, *half], base=name, rank=rank),
        "nothing": _nothing_like(whole),
    }
    experts_bytes = (layout.total_bytes - layout.shared_bytes) / layout.weight_bytes * HALF_PRECISION_BYTES
    ratio = whole.num_bytes / experts_bytes
    print(
        f"\n{name}: {len(layout.layers)} layers of {max(layout.num_experts.values())} experts, exact capture "
        f"{np.mean(list(exact.values())):.3f}; stand-ins {whole.num_bytes / 1e3:.0f} kB, {ratio:.2%} of the "
        f"experts in 16 bit; fitted in {took_s:.1f} s of CPU\n{'':<22}{'kept':>8}{'worst':>8}{'L1':>8}"
    )
    result = {"exact_capture": float(np.mean(list(exact.values()))), "bytes_ratio": ratio, "fit_s": took_s}
    for what, stand_ins in fits.items():
        model = full if stand_ins is None else load_with_stand_ins(path, stand_ins)
        profile = _profile(model, blocks, SEEN)
        captured = _captured(profile, truth, layout)
        kept = sum(captured.values()) / sum(exact.values())
        worst = min(captured[cluster] / exact[cluster] for cluster in exact)
        print(f"  {what:<20}{kept:>8.3f}{worst:>8.3f}{_l1(profile, truth):>8.3f}")
        result[f"kept, {what}"] = kept
    return result


def prepare(path: Path, rank: int) -> dict[str, float]:
    """Make the stand-ins of a checkpoint from random tokens in this process; return time and memory."""
    layout = read_layout(path)
    tokens_NT = torch.randint(0, VOCABULARY, (FIT_BLOCKS, LENGTH), generator=torch.Generator().manual_seed(1))
    began_s = time.monotonic()
    with PeakMemory() as memory:
        fit_stand_ins(path, [tokens_NT], base="", rank=rank)
    return {
        "wall_s": time.monotonic() - began_s,
        "tokens": tokens_NT.numel(),
        "peak_bytes": memory.num_bytes,
        "shared_bytes": layout.shared_bytes,
        "layer_bytes": max(layout.expert_bytes.values()) * max(layout.num_experts.values()),
        "experts_bytes": layout.total_bytes - layout.shared_bytes,
    }


def _prepare_apart(rank: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = save_tiny(Path(folder) / "large", "qwen3_moe", max_shard_size="1GB", **LARGE)
        command = [sys.executable, "-m", "benchmarks.standin", "--prepare", str(path), "--rank", str(rank)]
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(told.stdout.splitlines()[-1])
    return found


def _blocks(path: Path, texts: Mapping[str, Sequence[str]], count: int) -> dict[str, Tensor]:
    tokenizer = load_tokenizer(path)
    return {
        name: torch.from_numpy(pack(tokenizer, passages, sequence_length=LENGTH, max_examples=count))
        for name, passages in texts.items()
    }


def _profile(model: Any, blocks: Mapping[str, Tensor], count: int) -> Profile:
    return {name: list(routing_mass(model, rows[:count].split(ROWS))) for name, rows in blocks.items()}


def _captured(profile: Profile, truth: Profile, layout: ExpertLayout) -> dict[str, float]:
    """Return the share of each cluster's true mass on the experts that a profile gives it."""
    most = dict.fromkeys(profile, max(layout.num_experts.values()) // SHARE)
    assignment = assign_experts(profile, layout.layers, most)
    row = {layer: number for number, layer in enumerate(layout.layers)}
    shares = {name: [mass / mass.sum() for mass in layers] for name, layers in truth.items()}
    return {
        name: float(sum(shares[name][row[expert.layer]][expert.index] for expert in experts) / len(row))
        for name, experts in assignment.experts.items()
    }


def _l1(profile: Profile, truth: Profile) -> float:
    distances = [
        np.abs(mine / mine.sum() - true / true.sum()).sum()
        for name in truth
        for mine, true in list(zip(profile[name], truth[name], strict=True))[1:]
    ]
    return float(np.mean(distances))


def _nothing_like(stand_ins: StandIns) -> StandIns:
    """Return stand-ins that give zeros."""
    of_layer = {
        layer: StandIn(**{name: torch.zeros_like(tensor) for name, tensor in stand_in.tensors.items()})
        for layer, stand_in in stand_ins.of_layer.items()
    }
    return StandIns(base=stand_ins.base, of_layer=of_layer)


if __name__ == "__main__":
    sys.exit(main())
