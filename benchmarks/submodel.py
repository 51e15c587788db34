"""``python -m benchmarks.submodel``: what a sub-model of two experts saves, against the full model.

Each number is the median of several processes of one thread, whose CPU time is the time of a step (it
counts no other program's work): time and memory of tuning two kept
experts a layer (ours, under each rule for absent experts) against PEFT LoRA on the experts of the full
model, and memory of building the sub-model lazily against loading and slicing, on a checkpoint of more
than 1 GB.

Ends with one JSON line. ``step_time_ratio`` and ``memory_ratio`` are those of ``renormalise``, which
does exactly the share of the full model's work that falls on the kept experts; rules that send more
tokens to them have keys of their own. Each is the worse of two models. ``upload_over_share`` is the
upload's ratio over kept / all experts.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from benchmarks.tiny_models import VOCABULARY, save_tiny
from moe.disk.layout import read_layout
from moe.experts import Tuning
from moe.families.blocks import find_blocks
from moe.quiet import quiet_peft
from moe.submodel.absent import Absent
from moe.submodel.load import load_full, load_submodel
from moe.tuning.adapters import attach, get_arrays

_KEPT = (0, 1)
_STEPS = 8
_NUM_TOKENS = 256
_BATCH = 4
_PLAIN: Absent = "renormalise"
_RATIOS = {"step_time_ratio": "step_s", "memory_ratio": "peak_bytes", "upload_ratio": "upload_bytes"}
_LARGE: dict[str, Any] = {
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "head_dim": 64,
    "vocab_size": 1024,
}
_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral, 8 experts": ("mixtral", {**_LARGE, "hidden_size": 512, "intermediate_size": 1024}),
    "qwen3, 16 experts": (
        "qwen3_moe",
        {
            **_LARGE,
            "hidden_size": 512,
            "moe_intermediate_size": 512,
            "num_experts": 16,
            "num_experts_per_tok": 4,
        },
    ),
}
# 4 layers x 8 experts x 3 x 1024 x 3072 weights of 4 bytes: 1.2 GB
_GIGABYTE: dict[str, Any] = {**_LARGE, "hidden_size": 1024, "intermediate_size": 3072}


class PeakMemory:
    """Largest resident memory while in use, beyond ``start_bytes`` (default: what there is on entry).

    Anonymous and file-backed pages count alike: a mapped checkpoint is memory too.
    """

    def __init__(self, start_bytes: int | None = None) -> None:
        self._start_bytes = _resident_bytes() if start_bytes is None else start_bytes

    def __enter__(self) -> "PeakMemory":
        self._peak_bytes = _resident_bytes()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._peak_bytes = max(self._peak_bytes, _resident_bytes())

    @property
    def num_bytes(self) -> int:
        """The peak so far."""
        return self._peak_bytes - self._start_bytes

    def _watch(self) -> None:
        while not self._is_over.wait(0.002):
            self._peak_bytes = max(self._peak_bytes, _resident_bytes())


def ours(path: Path, absent: Absent) -> nn.Module:
    """Return a sub-model of two experts a layer, ready to tune."""
    keep = {layer: _KEPT for layer in read_layout(path).layers}
    return attach(load_submodel(path, keep, absent=absent), Tuning())


def full_lora(path: Path) -> nn.Module:
    """Return the full model with PEFT LoRA of the same rank on all its experts."""
    model = load_full(path)
    targets = [block.tensor_name(name, 0) for block in find_blocks(model) for name in block.parameters]
    config = LoraConfig(
        task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=[], target_parameters=targets
    )
    with quiet_peft():
        return get_peft_model(model, config)


def sliced(path: Path) -> nn.Module:
    """Return two experts a layer the wasteful way: everything loaded, then cut."""
    model = load_full(path)
    for block in find_blocks(model):
        for name in block.parameters:
            whole = getattr(block.experts, name)
            setattr(block.experts, name, nn.Parameter(whole.data[: len(_KEPT)].clone(), requires_grad=False))
    return model


_RULES = get_args(Absent)
_CASES: dict[str, Callable[[Path], nn.Module]] = {
    **{rule: partial(ours, absent=rule) for rule in _RULES},
    "full_lora": full_lora,
    "sliced": sliced,
}


def tune(case: str, path: Path) -> dict[str, float]:
    """Tune for some steps; return the least step time, the peak memory (weights and all) and the upload."""
    with tempfile.TemporaryDirectory() as folder:
        # Libraries load parts of themselves at first use: not the model's memory.
        _step_times_s(_CASES[case](save_tiny(Path(folder), "mixtral")), 1, VOCABULARY)
    start_bytes = _resident_bytes()
    model = _CASES[case](path)
    for parameter in model.parameters():
        # Out of the files' mapped pages, of which more may lie about than the model uses.
        parameter.data = parameter.data.clone()
    gc.collect()
    with PeakMemory(start_bytes) as memory:
        times_s = _step_times_s(model, _STEPS, _LARGE["vocab_size"])
    trained = [p for p in model.parameters() if p.requires_grad]
    upload = sum(a.nbytes for a in get_arrays(model).values()) if case in _RULES else _nbytes(trained)
    return {"step_s": min(times_s), "peak_bytes": memory.num_bytes, "upload_bytes": upload}


def _step_times_s(model: nn.Module, num_steps: int, vocabulary: int) -> list[float]:
    size = (_BATCH, _NUM_TOKENS // _BATCH)
    tokens_BT = torch.randint(0, vocabulary, size, generator=torch.Generator().manual_seed(0))
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    times_s = []
    for _ in range(num_steps):
        start_s = time.process_time()
        model(input_ids=tokens_BT, labels=tokens_BT, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times_s.append(time.process_time() - start_s)
    return times_s


def build(case: str, path: Path) -> dict[str, float]:
    """Build a model; return how long it took, its peak memory and the bytes of what it holds."""
    start_s = time.process_time()
    with PeakMemory() as memory:
        model = _CASES[case](path)
        # Mapped pages count only once touched.
        touched = sum(float(tensor.sum()) for tensor in model.state_dict().values())
    return {
        "build_s": time.process_time() - start_s,
        "peak_bytes": memory.num_bytes,
        "model_bytes": _nbytes(model.parameters()) if touched == touched else 0,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.submodel", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="runs of each case; medians count (default: 3)")
    parser.add_argument("--child", nargs=3, metavar=("WHAT", "CASE", "PATH"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.child:
        what, case, path = options.child
        print(json.dumps({"tune": tune, "build": build}[what](case, Path(path))))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        tuned = _tune_all(Path(folder), options.runs)
        print(json.dumps({**tuned, **_build_all(Path(folder), options.runs)}))
    return 0


def _tune_all(folder: Path, runs: int) -> dict[str, float]:
    """Return the ratios to full-model LoRA, each the worse of the models."""
    worst: dict[str, float] = {}
    print(f"{'':<22} {'case':<12} {'step':>8} {'memory':>9} {'upload':>9}   of full-model LoRA")
    for title, (family, changes) in _MODELS.items():
        path = save_tiny(folder / family, family, max_shard_size="50MB", **changes)
        theirs = _median("tune", "full_lora", path, runs)
        print(_row(title, "full LoRA", theirs), flush=True)
        share = len(_KEPT) / max(read_layout(path).num_experts.values())
        for rule in _RULES:
            mine = _median("tune", rule, path, runs)
            ratios = {name: mine[key] / theirs[key] for name, key in _RATIOS.items()}
            print(_row(title, rule, mine), "  ", "  ".join(f"{r:.3f}" for r in ratios.values()), flush=True)
            ratios["upload_over_share"] = ratios["upload_ratio"] / share
            for name, ratio in ratios.items():
                key = name if rule == _PLAIN or name.startswith("upload") else f"{rule}_{name}"
                worst[key] = round(max(ratio, worst.get(key, 0.0)), 4)
    return worst


def _row(title: str, case: str, result: dict[str, float]) -> str:
    step_ms, memory_mb, upload_mb = (
        result["step_s"] * 1e3,
        result["peak_bytes"] / 1e6,
        result["upload_bytes"] / 1e6,
    )
    return f"{title:<22} {case:<12} {step_ms:>5.0f} ms {memory_mb:>6.0f} MB {upload_mb:>6.2f} MB"


def _build_all(folder: Path, runs: int) -> dict[str, float]:
    path = save_tiny(folder / "large", "mixtral", max_shard_size="200MB", **_GIGABYTE)
    lazy, wasteful = _median("build", _PLAIN, path, runs), _median("build", "sliced", path, runs)
    print(
        f"building from {read_layout(path).total_bytes / 1e9:.2f} GB: {lazy['build_s']:.2f} s and "
        f"{lazy['peak_bytes'] / 1e6:.0f} MB for {lazy['model_bytes'] / 1e6:.0f} MB; load-then-slice "
        f"{wasteful['build_s']:.2f} s and {wasteful['peak_bytes'] / 1e6:.0f} MB",
        flush=True,
    )
    return {
        "lazy_peak_over_submodel": round(lazy["peak_bytes"] / lazy["model_bytes"], 3),
        "lazy_build_time_ratio": round(lazy["build_s"] / wasteful["build_s"], 3),
        "lazy_build_memory_ratio": round(lazy["peak_bytes"] / wasteful["peak_bytes"], 3),
    }


def _median(what: str, case: str, path: Path, runs: int) -> dict[str, float]:
    results = [_child(what, case, path) for _ in range(runs)]
    return {key: statistics.median(result[key] for result in results) for key in results[0]}


def _child(what: str, case: str, path: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.submodel", "--child", what, case, str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _nbytes(parameters: Any) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main())
