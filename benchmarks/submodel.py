"""``python -m benchmarks.submodel``: what a sub-model of two experts saves, against the full model.

Each number comes from a process of its own, one thread: step time and memory of tuning two kept
experts a layer (ours) against PEFT LoRA on the experts of the full model, and memory of building the
sub-model lazily against loading and slicing, on a checkpoint of more than 1 GB. Ends with one JSON line.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from benchmarks.tiny_models import save_tiny
from moe.adapters import attach, get_arrays
from moe.blocks import find_blocks
from moe.experts import Tuning
from moe.layout import read_layout
from moe.quiet import quiet_peft
from moe.submodel import load_full, load_submodel

_KEPT = (0, 1)
_STEPS = 8
_NUM_TOKENS = 256
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
    """Largest resident memory while in use, beyond what there was at the start; bytes.

    Anonymous and file-backed pages count alike: a mapped checkpoint is memory too.
    """

    def __enter__(self) -> "PeakMemory":
        self._start_bytes = self._peak_bytes = _resident_bytes()
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


def ours(path: Path) -> nn.Module:
    """Return a sub-model of two experts a layer, ready to tune."""
    return attach(load_submodel(path, {layer: _KEPT for layer in read_layout(path).layers}), Tuning())


def ours_renormalised(path: Path) -> nn.Module:
    """Return the same, where tokens that want none of the two experts go without."""
    keep = {layer: _KEPT for layer in read_layout(path).layers}
    return attach(load_submodel(path, keep, absent="renormalise"), Tuning())


def full_lora(path: Path) -> nn.Module:
    """Return the full model with PEFT LoRA of the same rank on all its experts."""
    model = load_full(path)
    targets = [f"{block.path}.{name}" for block in find_blocks(model) for name in block.projections.values()]
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


_CASES: dict[str, Callable[[Path], nn.Module]] = {
    "ours": ours,
    "ours_renormalised": ours_renormalised,
    "full_lora": full_lora,
    "sliced": sliced,
}


def tune(case: str, path: Path) -> dict[str, float]:
    """Tune for some steps; return the least step time and the peak memory, weights and all."""
    tokens = torch.randint(0, 1024, (4, _NUM_TOKENS // 4), generator=torch.Generator().manual_seed(0))
    times_s = []
    with PeakMemory() as memory:
        model = _CASES[case](path)
        model.train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
        for _ in range(_STEPS):
            start_s = time.perf_counter()
            model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            times_s.append(time.perf_counter() - start_s)
    trained = [p for p in model.parameters() if p.requires_grad]
    is_ours = case.startswith("ours")
    upload = sum(a.nbytes for a in get_arrays(model).values()) if is_ours else _nbytes(trained)
    return {"step_s": min(times_s), "peak_bytes": memory.num_bytes, "upload_bytes": upload}


def build(case: str, path: Path) -> dict[str, float]:
    """Build a model; return how long it took, its peak memory and the bytes of what it holds."""
    start_s = time.perf_counter()
    with PeakMemory() as memory:
        model = _CASES[case](path)
        # Mapped pages count only once touched.
        touched = sum(float(tensor.sum()) for tensor in model.state_dict().values())
    return {
        "build_s": time.perf_counter() - start_s,
        "peak_bytes": memory.num_bytes,
        "model_bytes": _nbytes(model.parameters()) if touched == touched else 0,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.submodel", description=__doc__)
    parser.add_argument("--child", nargs=3, metavar=("WHAT", "CASE", "PATH"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.child:
        what, case, path = options.child
        print(json.dumps({"tune": tune, "build": build}[what](case, Path(path))))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(_measure_all(Path(folder))))
    return 0


def _measure_all(folder: Path) -> dict[str, float]:
    names = ("step_time_ratio", "memory_ratio", "upload_ratio")
    ratios: dict[str, list[float]] = {name: [] for name in (*names, *(f"restrict_{n}" for n in names[:2]))}
    for title, (family, changes) in _MODELS.items():
        path = save_tiny(folder / family, family, max_shard_size="50MB", **changes)
        theirs = _child("tune", "full_lora", path)
        for prefix, case in (("", "ours_renormalised"), ("restrict_", "ours")):
            mine = _child("tune", case, path)
            for name, key in zip(names, ("step_s", "peak_bytes", "upload_bytes"), strict=True):
                if prefix + name in ratios:
                    ratios[prefix + name].append(mine[key] / theirs[key])
            print(
                f"{title}, {case}: step {mine['step_s'] * 1e3:.0f} of {theirs['step_s'] * 1e3:.0f} ms, "
                f"memory {mine['peak_bytes'] / 1e6:.0f} of {theirs['peak_bytes'] / 1e6:.0f} MB, upload "
                f"{mine['upload_bytes'] / 1e6:.2f} of {theirs['upload_bytes'] / 1e6:.2f} MB",
                flush=True,
            )
    path = save_tiny(folder / "large", "mixtral", max_shard_size="200MB", **_GIGABYTE)
    lazy, wasteful = _child("build", "ours", path), _child("build", "sliced", path)
    print(
        f"building from {read_layout(path).total_bytes / 1e9:.2f} GB: {lazy['build_s']:.2f} s and "
        f"{lazy['peak_bytes'] / 1e6:.0f} MB for {lazy['model_bytes'] / 1e6:.0f} MB; load-then-slice "
        f"{wasteful['build_s']:.2f} s and {wasteful['peak_bytes'] / 1e6:.0f} MB",
        flush=True,
    )
    worst = {name: round(max(values), 4) for name, values in ratios.items()}
    return {**worst, "lazy_peak_over_submodel": round(lazy["peak_bytes"] / lazy["model_bytes"], 3)}


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
