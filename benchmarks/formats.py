"""``python -m benchmarks.formats``: sub-models of quantised checkpoints, and the same dequantised.

For each format, a checkpoint of 4 layers of 8 experts, and of it a sub-model of two experts a layer, in
bfloat16: how long it takes to build, the peak of memory over the bytes it holds, and a step of tuning
(a default run's 512 tokens) with ``hold = "file"`` over one with the weights dequantised. Each number is the
median of several processes of one thread, whose CPU time is the time. Whether the numbers are those of
transformers with ``dequantize=True`` is asked on a tiny checkpoint of the format, to the bit; where
transformers cannot load one, of the format's description.

Ends with one JSON line: ``formats``, ``build_peak_ratio`` and ``step_ratio_file`` (the worst of all),
``exact``.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, FineGrainedFP8Config
from transformers.utils.quantization_config import Mxfp4Config

from benchmarks.gguf_files import Kind, write_gguf
from benchmarks.quantised import fp8, int4, quantise
from benchmarks.submodel import PeakMemory
from benchmarks.tiny_models import VOCABULARY, save_tiny
from moe.disk.layout import open_storage, read_layout
from moe.disk.shards import Hold
from moe.experts import Tuning
from moe.submodel.load import load_full, load_submodel
from moe.tuning.adapters import attach

_KEPT = (0, 1)
_STEPS = 5
_BATCH, _LENGTH = 8, 64
_LARGE: dict[str, Any] = {
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "head_dim": 128,
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "vocab_size": 1024,
}
_LAYERS = ["sliding_attention", "full_attention"] * 2
_BLOCK, _GROUP = 128, 32
_GGUF = {"gguf-q8_0": Kind.Q8_0, "gguf-q4_0": Kind.Q4_0}
_FAMILIES = {
    **{"fp8": "mixtral", "mxfp4": "gpt_oss", "int4": "mixtral", "fp8-rows": "mixtral", "nf4": "mixtral"},
    **dict.fromkeys(_GGUF, "qwen3_moe"),
}
# Blocks and groups as they are published; the tiny checkpoints have smaller ones.
_PUBLISHED: Mapping[str, dict[str, Any]] = {
    "fp8": {
        "write": lambda name, weight: fp8(name, weight, (_BLOCK, _BLOCK)),
        "weight_block_size": [_BLOCK, _BLOCK],
    },
    "int4": {
        "write": lambda name, weight: int4(name, weight, _GROUP),
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {
                    **{"num_bits": 4, "type": "int", "strategy": "group"},
                    **{"group_size": _GROUP, "symmetric": True},
                },
            }
        },
    },
}
_TINY: Mapping[str, dict[str, Any]] = {"gpt_oss": {"hidden_size": 64, "intermediate_size": 32}}


def build(path: Path, hold: Hold) -> dict[str, float]:
    """Build a sub-model; return how long it took, its peak memory and the bytes it holds."""
    start_s = time.process_time()
    with PeakMemory() as memory:
        model = _submodel(path, hold)
        # Mapped pages count only once touched.
        tensors = [*model.parameters(), *model.buffers()]
        touched = sum(
            int(tensor.detach().reshape(-1).view(torch.uint8)[:: 1 << 12].sum()) for tensor in tensors
        )
    held = sum(tensor.nbytes for tensor in tensors)
    return {
        "build_s": time.process_time() - start_s,
        "peak": memory.num_bytes,
        "held": held,
        "touched": touched,
    }


def step(path: Path, hold: Hold) -> dict[str, float]:
    """Tune a sub-model for some steps; return the least time of one and the peak memory, weights and all."""
    with PeakMemory() as memory:
        model: Any = attach(_submodel(path, hold), Tuning()).train()
        gc.collect()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
        tokens_BT = torch.randint(0, 256, (_BATCH, _LENGTH), generator=torch.Generator().manual_seed(0))
        times_s = []
        for _ in range(_STEPS):
            start_s = time.process_time()
            model(input_ids=tokens_BT, labels=tokens_BT, use_cache=False).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            times_s.append(time.process_time() - start_s)
    return {"step_s": min(times_s), "peak": memory.num_bytes}


def is_exact(form: str, folder: Path) -> bool | None:
    """Tell whether the numbers are those of transformers, to the bit; None where it cannot load them here."""
    family = _FAMILIES[form]
    if form in _GGUF:
        return _is_exact_gguf(folder, _GGUF[form])
    path = save_tiny(folder, family, dtype=torch.bfloat16, **_TINY.get(family, {"intermediate_size": 32}))
    quantise(path, form)
    ours = load_full(path).state_dict()
    config: Any
    if form == "nf4":
        return _means_its_table(path)
    if form in ("int4", "fp8-rows"):
        if find_spec("compressed_tensors") is None:
            return None
        config = transformers.CompressedTensorsConfig(dequantize=True)
    else:
        config = Mxfp4Config(dequantize=True) if form == "mxfp4" else FineGrainedFP8Config(dequantize=True)
    theirs = AutoModelForCausalLM.from_pretrained(path, dtype="auto", quantization_config=config).state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def _is_exact_gguf(folder: Path, kind: Kind) -> bool:
    file = write_gguf(folder, "qwen3_moe", kind)
    config = AutoConfig.from_pretrained(open_storage(file).checkpoint.folder)
    del config.quantization_config  # transformers takes widths of experts that are not its defaults from here
    theirs = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file.name, dtype=torch.bfloat16, config=config
    ).state_dict()
    ours = load_full(file).state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def _large(folder: Path, form: str) -> Path:
    """Write the checkpoint that is timed."""
    if form in _GGUF:
        sizes = {name: size for name, size in _LARGE.items() if name != "vocab_size"}
        return write_gguf(
            folder, "qwen3_moe", _GGUF[form], **sizes, moe_intermediate_size=_LARGE["intermediate_size"]
        )
    layers = {"layer_types": _LAYERS} if form == "mxfp4" else {}
    path = save_tiny(
        folder, _FAMILIES[form], dtype=torch.bfloat16, max_shard_size="100MB", **_LARGE, **layers
    )
    quantise(path, form, **_PUBLISHED.get(form, {}))
    return path


def _means_its_table(path: Path) -> bool:
    """Tell whether an nf4 expert is the numbers of its table times the scales of its blocks."""
    name = "model.layers.0.block_sparse_moe.experts.0.w2.weight"
    tensors = {key: value for file in path.glob("*.safetensors") for key, value in load_file(file).items()}
    pairs, table = tensors[name].flatten(), tensors[f"{name}.quant_map"]
    places = torch.stack((pairs >> 4, pairs & 15), 1).flatten().int()
    scale = tensors[f"{name}.absmax"].repeat_interleave(len(places) // tensors[f"{name}.absmax"].numel())
    found = open_storage(path).read_expert(0, 0)["down_proj"][0]
    return torch.equal(found, (table[places] * scale).view_as(found).to(torch.bfloat16))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.formats", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="runs of each case; medians count (default: 3)")
    parser.add_argument("--formats", nargs="+", choices=list(_FAMILIES), default=list(_FAMILIES))
    parser.add_argument("--child", nargs=3, metavar=("WHAT", "HOLD", "PATH"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    if options.child:
        what, hold, path = options.child
        with tempfile.TemporaryDirectory() as folder:
            _warm(Path(folder), Path(path), hold)
        cases: dict[str, Callable[[Path, Hold], dict[str, float]]] = {"build": build, "step": step}
        print(json.dumps(cases[what](Path(path), hold)))
        return 0
    print(
        f"{'format':<10} {'held as':<12} {'build':>7} {'peak':>8} {'held':>8} {'ratio':>6} "
        f"{'step':>8} {'peak':>8} {'of dequantised':>15}  exact"
    )
    peaks, steps, exact = [], [], {}
    for form in options.formats:
        with tempfile.TemporaryDirectory() as folder:
            exact[form] = is_exact(form, Path(folder) / "tiny")
            path = _large(Path(folder) / "large", form)
            base_s = 0.0
            for hold in get_args(Hold):
                built = _median("build", hold, path, options.runs)
                stepped = _median("step", hold, path, options.runs)
                base_s = base_s or stepped["step_s"]
                peaks.append(built["peak"] / built["held"])
                if hold == "file":
                    steps.append(stepped["step_s"] / base_s)
                print(
                    f"{form:<10} {hold:<12} {built['build_s']:>5.2f} s {built['peak'] / 1e6:>5.0f} MB "
                    f"{built['held'] / 1e6:>5.0f} MB {peaks[-1]:>6.2f} {stepped['step_s'] * 1e3:>5.0f} ms "
                    f"{stepped['peak'] / 1e6:>5.0f} MB {stepped['step_s'] / base_s:>15.2f}  "
                    f"{_told(exact[form])}",
                    flush=True,
                )
    print(
        json.dumps(
            {
                "formats": options.formats,
                "build_peak_ratio": round(max(peaks), 3),
                "step_ratio_file": round(max(steps), 3),
                "exact": all(found is not False for found in exact.values()),
                "not_compared": [form for form, found in exact.items() if found is None],
            }
        )
    )
    return 0


def _told(found: bool | None) -> str:
    return "not compared (pip install compressed-tensors)" if found is None else "yes" if found else "NO"


def _submodel(path: Path, hold: Hold) -> Any:
    return load_submodel(path, dict.fromkeys(read_layout(path).layers, _KEPT), hold=hold)


def _warm(folder: Path, path: Path, hold: Hold) -> None:
    """Let libraries load the parts of themselves that they load at first use."""
    if path.suffix == ".gguf":
        tiny = write_gguf(folder, "qwen3_moe")
    else:
        said = json.loads((path / "config.json").read_text())["quantization_config"]
        form = next(form for form in _FAMILIES if _is_of(form, said))
        family = _FAMILIES[form]
        tiny = save_tiny(folder, family, dtype=torch.bfloat16, **_TINY.get(family, {"intermediate_size": 32}))
        quantise(tiny, form)
    model = attach(_submodel(tiny, hold), Tuning())
    tokens_BT = torch.randint(0, VOCABULARY, (2, 8))
    model(input_ids=tokens_BT, labels=tokens_BT, use_cache=False).loss.backward()


def _is_of(form: str, said: Mapping[str, Any]) -> bool:
    method = {"int4": "pack-quantized", "fp8-rows": "float-quantized", "nf4": "bitsandbytes"}.get(form, form)
    return method in (said.get("format"), said.get("quant_method"))


def _median(what: str, hold: str, path: Path, runs: int) -> dict[str, float]:
    results = [_child(what, hold, path) for _ in range(runs)]
    return {key: statistics.median(result[key] for result in results) for key in results[0]}


def _child(what: str, hold: str, path: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.formats", "--child", what, hold, str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    sys.exit(main())
