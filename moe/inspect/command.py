"""``python -m moe.inspect PATH_OR_NAME``: what a checkpoint's experts are, before anything is run."""

import argparse
import math
import re
from collections.abc import Sequence

from moe.disk.layout import layout_of, open_storage, trust_code_of
from moe.disk.storage import Storage
from moe.experts import ExpertLayout, Tuning
from moe.export.adapter_targets import has_adapter
from moe.families.blocks import TESTED_FAMILIES, MoEBlock
from moe.inspect.selftest import check
from moe.one_line_faults import one_line_faults
from moe.tuning.memory_budget import tuned_expert_bytes

_UNITS = ("B", "kB", "MB", "GB", "TB")


def describe(storage: Storage) -> str:
    """Return what a person wants to know of a checkpoint; reads headers, not weights.

    Parameters
    ----------
    storage : Storage
        From `moe.disk.layout.open_storage`.
    """
    layout = layout_of(storage)
    block = next(iter(storage.blocks.values()))
    is_tested = "tested" if layout.family in TESTED_FAMILIES else "not in the tests: run with --self-test"
    counts = "/".join(map(str, sorted(set(layout.num_experts.values()))))
    depth = block.family.depth(storage.model.config.get_text_config())
    rows = [
        ("family", f"{layout.family} ({is_tested})"),
        ("layers with experts", f"{len(layout.layers)} of {depth}"),
        ("experts a layer", counts + _identity_experts(block)),
        ("chosen per token", str(layout.top_k)),
        ("router", f"{type(block.router).__name__}, {_router_tensors(block)}"),
        ("shared experts", ", ".join(_shared_experts(storage, block)) or "none"),
        ("dtype", str(storage.model.dtype).removeprefix("torch.")),
        *_format(storage),
        ("linear layers of an expert", ", ".join(f"{n} {i}->{o}" for n, (o, i) in layout.shapes.items())),
        ("to take home", _exports(storage)),
        ("bytes of the whole", _bytes(layout.total_bytes)),
        ("bytes of one expert", _bytes(max(layout.expert_bytes.values()))),
        ("bytes of the shared part", _bytes(layout.shared_bytes)),
        *_other_parts(storage),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    tuning = Tuning() if has_adapter(storage) else Tuning(method="full")
    told = f"LoRA of rank {tuning.lora_rank}" if has_adapter(storage) else "in full"
    held = f"a device that keeps, in every layer, holds (and while it tunes them, {told} with AdamW)"
    lines += ["", held, *_holdings(layout, tuning)]
    if storage.checkpoint.packed and tuning.method != "full":
        as_in_file = layout_of(storage.held_as("file"))
        lines += ["", 'and with model.hold = "file":', *_holdings(as_in_file, tuning)]
    return "\n".join(lines)


@one_line_faults("moe.inspect")
def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m moe.inspect") -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Say what a checkpoint's experts are; reads headers, not weights.",
        epilog=f"example:\n  {prog} /models/OLMoE-1B-7B\n  {prog} allenai/OLMoE-1B-7B-0924 --self-test",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="folder of a checkpoint, or a name on the Hugging Face hub")
    parser.add_argument(
        "--self-test",
        action="store_true",
        help="load the model (twice its bytes): keep-all equals it, slice then merge is exact",
    )
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run the code that a checkpoint of an unknown family brings with it",
    )
    options = parser.parse_args(arguments)
    if options.trust_remote_code:
        trust_code_of(options.model)
    print(describe(open_storage(options.model)))
    if not options.self_test:
        return 0
    result = check(options.model)
    print(f"\nself-test {'passed' if result.has_passed else 'FAILED'}")
    print(f"  keep-all against the model  {result.keep_all_error:.1e} of the largest logit")
    print(f"  slice, then merge           {'bit-identical' if result.is_merge_exact else 'DIFFERENT'}")
    return 0 if result.has_passed else 1


def _holdings(layout: ExpertLayout, tuning: Tuning) -> list[str]:
    one_of_each = sum(tuned_expert_bytes(layout, tuning, "adamw").values())
    smallest = min(layout.num_experts.values())
    counts = sorted({1, 2, 4, smallest // 4, smallest // 2, smallest} - {0})
    lines = []
    for count in [count for count in counts if count <= smallest]:
        held = layout.shared_bytes + sum(count * layout.expert_bytes[layer] for layer in layout.layers)
        lines.append(
            f"  {count:>4} experts  {_bytes(held):>9}  {held / layout.total_bytes:>4.0%} of the whole"
            f"  ({_bytes(layout.shared_bytes + count * one_of_each)})"
        )
    return lines


def _format(storage: Storage) -> list[tuple[str, str]]:
    """Return rows on what is packed: how, in how many bits, and what it becomes."""
    checkpoint = storage.checkpoint
    if not checkpoint.packed:
        return []
    packed_bytes = sum(checkpoint.raw_bytes(name) for name in checkpoint.packed)
    numbers = sum(math.prod(entry.shape) for entry in checkpoint.packed.values())
    file_bytes = sum(checkpoint.raw_bytes(name) for name in checkpoint.tensors)
    becomes = sum(spec.num_bytes for spec in checkpoint.tensors.values())
    dtype = str(storage.model.dtype).removeprefix("torch.")
    bits = f"{8 * packed_bytes / numbers:.2f} bits a number with its scales"
    return [
        ("format", f"{checkpoint.format}: {bits}, {packed_bytes / file_bytes:.0%} of the bytes"),
        ("bytes in the files", f"{_bytes(file_bytes)}, dequantised to {dtype} {_bytes(becomes)}"),
    ]


def _identity_experts(block: MoEBlock) -> str:
    count = block.family.num_identity
    told = f", and {count} that give back their input: never assigned, everybody has them"
    return told if count else ""


def _exports(storage: Storage) -> str:
    return "a PEFT adapter, or merged weights" if has_adapter(storage) else "merged weights only"


def _router_tensors(block: MoEBlock) -> str:
    named = [*block.router.named_parameters(), *block.router.named_buffers()]
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in named) or "no tensors"


def _shared_experts(storage: Storage, block: MoEBlock) -> list[str]:
    parent = storage.model.get_submodule(block.parent_path)
    return [name for name, _ in parent.named_children() if name.startswith("shared_")]


def _other_parts(storage: Storage) -> list[tuple[str, str]]:
    """Return rows on what there is beside the language model, such as a vision tower."""
    rows = []
    model = storage.model
    if model.config.get_text_config() is not model.config:
        # All before the numbered layers: ``model.language_model``
        text = re.split(r"\.\w+\.\d+\.", next(iter(storage.blocks.values())).path)[0]
        whole, _, name = text.rpartition(".")
        parts = {child: part for child, part in model.get_submodule(whole).named_children() if child != name}
        sizes = {child: sum(p.nbytes for p in part.parameters()) for child, part in parts.items()}
        told = ", ".join(f"{child} {_bytes(size)}" for child, size in sizes.items() if size)
        rows.append(("of it not for text", told or "nothing"))
    if unused := sum(storage.checkpoint.tensors[name].num_bytes for name in storage.unused_names):
        rows.append(("bytes left on disk", f"{_bytes(unused)}, which {type(model).__name__} does not use"))
    return rows


def _bytes(count: int) -> str:
    value = float(count)
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.2f} {unit}"
        value /= 1000
    raise AssertionError(count)
