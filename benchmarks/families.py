"""``python -m benchmarks.families``: the laws on a tiny checkpoint of every MoE family.

Ends with one JSON line: how many families there are, on how many slicing is bit-exact and the
exported adapter exact, and how many are refused. ``--table FILE`` writes docs/families.md.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from inspect import cleandoc
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.tiny_models import FAMILIES, VOCABULARY, save_tiny
from moe.disk.layout import open_storage, read_layout
from moe.experts import ExpertArrays, ExpertLayout, Part, Tuning
from moe.export.adapter_targets import has_adapter
from moe.export.checkpoint import export_adapter, export_merged, load_adapter
from moe.families.blocks import REFUSED_FAMILIES, find_blocks
from moe.families.special_families import SPECIAL_FAMILIES
from moe.inspect.selftest import check
from moe.objective import language_model_inputs, language_model_loss
from moe.submodel.load import all_experts, load_full, load_submodel
from moe.tuning.adapters import MergedModel, attach, initial_arrays, set_arrays
from moe.tuning.shared_parts import check_shared

_TUNING = Tuning(lora_rank=2, lora_alpha=4.0)
# Half a unit in the last place of a float32, and what its effect on logits may be exceeded by: an error no
# larger is rounding. Linear attention (qwen3_next) makes 1e-4 of it, most families 1e-5.
_HALF_UNIT, _EXACT = 2.0**-24, 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyResult:
    """What the laws gave on one family; errors are largest differences of logits."""

    family: str
    router: str
    keep_all_error: float
    is_merge_exact: bool
    submodel_error: float
    has_router_rows: bool
    parts: tuple[Part, ...]
    rounding: float
    adapter_error: float | None
    checkpoint_error: float


def measure(family: str, folder: Path) -> FamilyResult:
    """Try laws 1, 2, 6 and 10 on one family, and training with one kept expert a layer.

    Parameters
    ----------
    family : str
        A ``model_type``.
    folder : Path
        An empty folder to work in.
    """
    path = save_tiny(folder / "base", family)
    result, layout = check(path), read_layout(path)
    # With all that may be tuned: the router's rows too, where the family has them.
    tuning = replace(_TUNING, router_rows=layout.router_width is not None, parts=_parts(path, layout))
    tokens = torch.randint(0, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(1))
    generator = np.random.default_rng(0)
    arrays = {
        key: generator.normal(0, 0.1, value.shape).astype(np.float32)
        for key, value in initial_arrays(layout, tuning, layout.experts).items()
    }
    merged = MergedModel(path, tuning).set(arrays).model
    expected = _logits(merged, tokens)
    rounding = _rounding(merged, tokens, expected)
    whole = attach(load_submodel(path, all_experts(open_storage(path).blocks.values())), tuning)
    set_arrays(whole, arrays)
    _train_with_one_expert(path, layout.layers, tokens)
    export_merged(path, arrays, tuning, folder / "merged")
    return FamilyResult(
        family=family,
        router=type(find_blocks(open_storage(path).model)[0].router).__name__,
        keep_all_error=result.keep_all_error,
        is_merge_exact=result.is_merge_exact,
        submodel_error=_distance(_logits(whole, tokens), expected),
        has_router_rows=tuning.router_rows,
        parts=tuning.shared_parts,
        rounding=rounding,
        adapter_error=_adapter_error(path, folder / "adapter", arrays, tuning, tokens, expected),
        checkpoint_error=_distance(_logits(load_full(folder / "merged"), tokens), expected),
    )


def _parts(path: Path, layout: ExpertLayout) -> tuple[Part, ...]:
    """Return what can be tuned of a family's layers."""
    able: list[Part] = ["experts"]
    for part in get_args(Part):
        if part in layout.linears:
            with suppress(ValueError):
                check_shared(open_storage(path), Tuning(parts=(part,)))
                able.append(part)
    return tuple(able)


def _rounding(model: nn.Module, tokens: Tensor, expected: Tensor) -> float:
    """Return how far logits move where every weight moves by half a unit in its last place; uses it up."""
    generator, found = torch.Generator().manual_seed(0), 0.0
    base = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for _ in range(3):
        with torch.no_grad():
            for name, weight in model.named_parameters():
                sign = torch.randint(0, 2, weight.shape, generator=generator) * 2 - 1
                weight.copy_(base[name] * (1 + sign * _HALF_UNIT))
        found = max(found, _distance(_logits(model, tokens), expected))
    return found


def _adapter_error(
    path: Path, folder: Path, arrays: ExpertArrays, tuning: Tuning, tokens: Tensor, expected: Tensor
) -> float | None:
    """Return how far off an exported adapter is; None for a family that PEFT cannot adapt."""
    if not has_adapter(open_storage(path)):
        return None
    export_adapter(path, arrays, tuning, folder)
    return _distance(_logits(load_adapter(path, folder), tokens), expected)


def table(results: Sequence[FamilyResult], failures: dict[str, str]) -> str:
    """Return the results as the text of docs/families.md."""
    lines = [
        "# Model families",
        "",
        "Made by `python -m benchmarks.families --table docs/families.md`, on tiny random checkpoints,",
        "CPU, float32. Errors are the largest difference of logits; 0 is the same bits. Where the router's",
        "rows can be tuned (`train.router-rows`), they are, and so are attention and shared experts beside",
        "the routed ones (`train.parts`), in every number behind the column parts. What is missing there",
        "has no linear layers in the tiny checkpoint, or is stored otherwise than the model has it.",
        "Rounding: what half a unit in the last place of every weight does to the same logits.",
        "",
        "| `model_type` | router | keep all | slice, merge | rows | parts | device | adapter | files "
        "| rounding |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        exact = "bit-identical" if row.is_merge_exact else "DIFFERENT"
        errors = [_told(e) for e in (row.submodel_error, row.adapter_error, row.checkpoint_error)]
        keep = _told(row.keep_all_error)
        rows = "yes" if row.has_router_rows else "no"
        parts = ", ".join(row.parts) or "-"
        told = [row.family, row.router, keep, exact, rows, parts, *errors, _told(row.rounding)]
        lines.append(f"| {' | '.join(told)} |")
    lines += [f"| {family} | - | failed: {reason} | | | | | | | |" for family, reason in failures.items()]
    lines += ["", "In a way of their own:", ""]
    lines += [f"- {' '.join(cleandoc(family.__doc__ or '').split())}" for family in SPECIAL_FAMILIES.values()]
    lines += ["", "Refused by name:", ""]
    lines += [f"- `{family}`: {reason}" for family, reason in REFUSED_FAMILIES.items()]
    lines += [
        "",
        "Any other family with fused experts is tried by `python -m moe.inspect PATH --self-test`.",
        "",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.families", description=__doc__)
    parser.add_argument("families", nargs="*", default=FAMILIES, help="only these (default: all)")
    parser.add_argument("--table", type=Path, help="write the results to this Markdown file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    results: list[FamilyResult] = []
    failures: dict[str, str] = {}
    for family in options.families:
        with tempfile.TemporaryDirectory() as folder:
            try:
                results.append(measure(family, Path(folder)))
                print(f"{family:<22} {_verdict(results[-1])}", flush=True)
            except Exception as error:
                # One family's failure, of whatever kind, is a result; the others still count.
                failures[family] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
                print(f"{family:<22} failed: {failures[family]}", flush=True)
    if options.table:
        options.table.write_text(table(results, failures), encoding="utf-8")
    adapted = [row for row in results if row.adapter_error is not None]
    numbers = {
        "families": len(options.families),
        "bit_exact": sum(row.is_merge_exact for row in results),
        "adapter_exact": sum((row.adapter_error or 0.0) <= _EXACT * row.rounding for row in adapted),
        "refused": len(REFUSED_FAMILIES),
    }
    print(json.dumps(numbers))
    is_whole = numbers["bit_exact"] == len(results) == len(options.families)
    # Families that PEFT cannot adapt are not counted as exact, and are no failure either.
    return 0 if is_whole and numbers["adapter_exact"] == len(adapted) else 1


def _told(error: float | None) -> str:
    if error is None:
        return "merged weights only"
    return f"{error:.0e}" if error else "0"


def _verdict(row: FamilyResult) -> str:
    exact = "bit-identical" if row.is_merge_exact else "merge DIFFERENT"
    return f"keep-all {row.keep_all_error:.0e}  {exact}  adapter {_told(row.adapter_error)}"


def _train_with_one_expert(path: Path, layers: Sequence[int], tokens: Tensor) -> None:
    model = attach(load_submodel(path, {layer: (3,) for layer in layers}), _TUNING)
    language_model_loss(model, tokens).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    if not all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients):
        raise ValueError("training with one kept expert gave no finite gradient")


def _logits(model: nn.Module, tokens: Tensor) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model(**language_model_inputs(model, tokens)).logits.float()


def _distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max())


if __name__ == "__main__":
    sys.exit(main())
