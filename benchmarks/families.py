"""``python -m benchmarks.families``: the laws on a tiny checkpoint of every MoE family.

Ends with one JSON line: how many families there are, on how many slicing is bit-exact and the
exported adapter exact, and how many are refused. ``--table FILE`` writes docs/families.md.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from inspect import cleandoc
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.tiny_models import FAMILIES, VOCABULARY, save_tiny
from moe.disk.layout import open_storage, read_layout
from moe.experts import ExpertArrays, Tuning
from moe.export.adapter_targets import has_adapter
from moe.export.checkpoint import export_adapter, export_merged, load_adapter
from moe.families.blocks import REFUSED_FAMILIES, find_blocks
from moe.families.special_families import SPECIAL_FAMILIES
from moe.inspect.selftest import check
from moe.objective import language_model_inputs, language_model_loss
from moe.submodel.load import all_experts, load_full, load_submodel
from moe.tuning.adapters import MergedModel, attach, initial_arrays, set_arrays

_TUNING = Tuning(lora_rank=2, lora_alpha=4.0)
# Logits of the tiny models are of order 1 to 10, in float32.
_EXACT = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyResult:
    """What the laws gave on one family; errors are largest differences of logits."""

    family: str
    router: str
    keep_all_error: float
    is_merge_exact: bool
    submodel_error: float
    has_router_rows: bool
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
    tuning = replace(_TUNING, router_rows=layout.router_width is not None)
    tokens = torch.randint(0, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(1))
    generator = np.random.default_rng(0)
    arrays = {
        key: generator.normal(0, 0.1, value.shape).astype(np.float32)
        for key, value in initial_arrays(layout, tuning, layout.experts).items()
    }
    expected = _logits(MergedModel(path, tuning).set(arrays).model, tokens)
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
        adapter_error=_adapter_error(path, folder / "adapter", arrays, tuning, tokens, expected),
        checkpoint_error=_distance(_logits(load_full(folder / "merged"), tokens), expected),
    )


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
        "rows can be tuned (`train.router-rows`), they are, in every number behind the column rows.",
        "",
        "| `model_type` | router | keep all | slice, merge | rows | sub-model = merged | adapter | files |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        exact = "bit-identical" if row.is_merge_exact else "DIFFERENT"
        errors = [_told(e) for e in (row.submodel_error, row.adapter_error, row.checkpoint_error)]
        keep = _told(row.keep_all_error)
        rows = "yes" if row.has_router_rows else "no"
        lines.append(f"| {row.family} | {row.router} | {keep} | {exact} | {rows} | {' | '.join(errors)} |")
    lines += [f"| {family} | - | failed: {reason} | | | | | |" for family, reason in failures.items()]
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
    errors = [row.adapter_error for row in results if row.adapter_error is not None]
    numbers = {
        "families": len(options.families),
        "bit_exact": sum(row.is_merge_exact for row in results),
        "adapter_exact": sum(error <= _EXACT for error in errors),
        "refused": len(REFUSED_FAMILIES),
    }
    print(json.dumps(numbers))
    is_whole = numbers["bit_exact"] == len(results) == len(options.families)
    # Families that PEFT cannot adapt are not counted as exact, and are no failure either.
    return 0 if is_whole and numbers["adapter_exact"] == len(errors) else 1


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
