"""``python -m benchmarks.device``: what a step of tuning costs on a GPU, beside the CPU.

Four layers of OLMoE-1B-7B's width (hidden 2048, experts of 1024, its vocabulary), of whose 16 experts four
are chosen and four kept; each case is a process of its own, of one thread as a client's is. Times are wall
seconds, the losses' way back from the GPU included; memory is torch's count on the device, ``held`` what
`moe.tuning.memory_budget` reckons with: everything but activations. Cases with two workers share the device
and run at once.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.tiny_models import save_tiny
from client.train import TrainSpec, train
from moe.device import choose_device, to_device
from moe.disk.layout import read_layout
from moe.experts import Tuning
from moe.submodel.load import load_submodel
from moe.tuning.adapters import attach
from moe.tuning.memory_budget import tuned_expert_bytes

_KEPT = (0, 3, 7, 12)
_VOCABULARY = 50304
_MODEL: dict[str, Any] = {
    "num_hidden_layers": 4,
    "hidden_size": 2048,
    "intermediate_size": 1024,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "vocab_size": _VOCABULARY,
    "max_position_embeddings": 4096,
}
# Device, dtype, blocks a step, tokens a block, steps, threads (0: as torch likes), workers at once.
_CASES: tuple[tuple[str, str, int, int, int, int, int], ...] = (
    ("cpu", "float32", 4, 128, 1, 1, 1),
    ("cpu", "float32", 4, 128, 3, 0, 1),
    ("cuda", "float32", 4, 128, 30, 1, 1),
    ("cuda", "bfloat16", 4, 128, 30, 1, 1),
    ("cuda", "float32", 8, 1024, 10, 1, 1),
    ("cuda", "bfloat16", 8, 1024, 20, 1, 1),
    ("cuda", "bfloat16", 8, 1024, 20, 1, 2),
    ("cuda", "bfloat16", 4, 128, 60, 1, 2),
)


def measure(
    path: str, device: str, dtype: str, batch: int, length: int, steps: int, threads: int
) -> dict[str, Any]:
    """Tune a sub-model; return seconds of a step and bytes on the device.

    Waits for a line on standard input between the first steps, which make ready, and those that count.
    """
    if threads:
        torch.set_num_threads(threads)
    where, tuning = choose_device(device), Tuning()
    layout = read_layout(path, dtype)
    keep = {layer: _KEPT for layer in layout.layers}
    began_s = time.monotonic()
    model = to_device(attach(load_submodel(path, keep, dtype=dtype), tuning), where)
    load_s = time.monotonic() - began_s
    blocks_NT = np.random.default_rng(0).integers(0, _VOCABULARY, (batch, length))
    first = train(model, blocks_NT, _spec(2, batch), [0]).loss
    print("ready", flush=True)
    sys.stdin.readline()
    began_s = time.monotonic()
    mean = train(model, blocks_NT, _spec(steps, batch), [0]).loss
    step_s = (time.monotonic() - began_s) / steps
    held_bytes = layout.shared_bytes + len(_KEPT) * sum(tuned_expert_bytes(layout, tuning, "adamw").values())
    is_cuda = where.type == "cuda"
    return {
        "threads": torch.get_num_threads(),
        "load_s": round(load_s, 2),
        "step_s": round(step_s, 4),
        "tokens_per_s": round(batch * length / step_s),
        "loss_first": round(first, 3),
        "loss_mean": round(mean, 3),
        "held_mb": round(held_bytes / 1e6),
        "allocated_mb": round(torch.cuda.memory_allocated() / 1e6) if is_cuda else None,
        "peak_mb": round(torch.cuda.max_memory_allocated() / 1e6) if is_cuda else None,
    }


def _spec(steps: int, batch: int) -> TrainSpec:
    return TrainSpec(
        steps=steps,
        wall_budget_s=float("inf"),
        batch_size=batch,
        learning_rate=1e-3,
        optimizer="adamw",
        weight_decay=0.0,
        max_grad_norm=1.0,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device", description=__doc__)
    parser.add_argument("--child", nargs=7, metavar="CASE", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        path, device, dtype, *sizes = options.child
        print(json.dumps(measure(path, device, dtype, *map(int, sizes))), flush=True)
        return 0
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads on the CPU", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = save_tiny(Path(folder), "olmoe", max_shard_size="400MB", **_MODEL)
        for device, dtype, *sizes, workers in _CASES:
            if device == "cpu" or torch.cuda.is_available():
                for result in _at_once([str(path), device, dtype, *map(str, sizes)], workers):
                    case = {"device": device, "dtype": dtype, "tokens": sizes[:2], "workers": workers}
                    print(json.dumps(case | result), flush=True)
    return 0


def _at_once(case: Sequence[str], workers: int) -> list[dict[str, Any]]:
    """Run a case in so many processes, whose counted steps begin together."""
    command = [sys.executable, "-m", "benchmarks.device", "--child", *case]
    pipe = subprocess.PIPE
    running = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(workers)]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    # One ends later than the other by at most what the line takes to reach it.
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate()[0] for process in running]
    return [json.loads(output) for output in outputs]


if __name__ == "__main__":
    sys.exit(main())
