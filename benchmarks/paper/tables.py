"""From cells to tables: means with 95 % intervals over seeds, paired by seed with FedAvg."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t

REFERENCE = "FedAvg"
Cells = Mapping[int, Mapping[str, Any]]
"""Of one method in one world, by seed."""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and half width of the 95 % interval of a mean (Student's t); no width from one value."""
    if len(values) < 2:
        return fmean(values), math.nan
    return fmean(values), float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


def paired(cells: Cells, reference: Cells, name: str) -> list[float]:
    """Return a measure's differences from the reference, by seeds that both have."""
    return [cells[seed][name] - reference[seed][name] for seed in sorted(cells.keys() & reference.keys())]


def hours_to(cell: Mapping[str, Any], loss: float, name: str) -> float:
    """Return the simulated hours until a measured loss is at most so much; infinite if it never is."""
    reached = [point["time_s"] / 3600.0 for point in cell["points"] if point[name] <= loss]
    return min(reached, default=math.inf)


def speedups(cells: Cells, reference: Cells, name: str) -> list[float]:
    """Return, by seed, how many times sooner the loss is reached that the reference ends with.

    Both from the beginning of the run, the reference at the measurement at which it first has that loss. NaN
    for what is there before anything is trained: it was not reached.
    """
    found = []
    for seed in sorted(cells.keys() & reference.keys()):
        loss = reference[seed]["points"][-1][name]
        hours = hours_to(cells[seed], loss, name)
        found.append(hours_to(reference[seed], loss, name) / hours if hours else math.nan)
    return found


def mixed(methods: Mapping[str, Cells]) -> list[str]:
    """Return what is wrong with the cells of a world: those of a seed must begin with the same loss.

    The embedded text and the bases made of it depend on the installed packages; on one text two machines
    agree to a millionth.
    """
    faults = []
    for seed in sorted({seed for cells in methods.values() for seed in cells}):
        begin = {name: cells[seed]["merged_before"] for name, cells in methods.items() if seed in cells}
        lowest, highest = min(begin, key=begin.__getitem__), max(begin, key=begin.__getitem__)
        if begin[highest] - begin[lowest] > 1e-4 * begin[lowest]:
            faults.append(
                f"seed {seed} was measured on different texts or bases: before training {lowest} has "
                f"{begin[lowest]:.4f}, {highest} {begin[highest]:.4f}; delete the files of one and measure "
                "again"
            )
    return faults


def table(methods: Mapping[str, Cells]) -> str:
    """Return the table of one world."""
    reference = methods.get(REFERENCE, {})
    head = (
        f"{'method':24} {'seeds':>5} {'own':>15} {'merged':>15} {'own - FedAvg':>16} {'merged - FedAvg':>16} "
        f"{'sooner':>7} {'up MB':>7} {'memory':>7} {'steps':>6} {'others':>15} {'load':>11}"
    )
    lines = [head, "-" * len(head)]
    for name, cells in methods.items():
        if not cells:
            continue
        of = list(cells.values())
        sooner = speedups(cells, reference, "own")
        told = f"{fmean(sooner):.1f}x" if sooner and all(map(math.isfinite, sooner)) else "-"
        lines.append(
            f"{name:24} {len(of):5} {_spread([c['own'] for c in of])} {_spread([c['merged'] for c in of])} "
            f"{_spread(paired(cells, reference, 'own'), signed=True):>16} "
            f"{_spread(paired(cells, reference, 'merged'), signed=True):>16} "
            f"{told:>7} {fmean(c['bytes_up'] for c in of) / 1e6:7.2f} "
            f"{_ratio(of, list(reference.values()), 'memory_bytes'):>7} {fmean(c['steps'] for c in of):6.0f} "
            f"{_spread([change for c in of if (change := forgotten(c)) is not None], signed=True):>15} "
            f"{_loads(of):>11}"
        )
    before = [c for cells in methods.values() for c in cells.values() if not math.isnan(c["merged_before"])]
    if before:
        lines.append(f"before: merged {fmean(c['merged_before'] for c in before):.3f}")
    return "\n".join(lines)


def forgotten(cell: Mapping[str, Any]) -> float | None:
    """Return by how much a device's model got worse on the others' text; None where it was not measured."""
    if math.isnan(cell.get("others_after", math.nan)):
        return None
    return float(cell["others_after"] - cell["others_before"])


def _loads(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return how unevenly the merged model's experts are used, before and after."""
    known = [c for c in cells if not math.isnan(c.get("load_cv_after", math.nan))]
    if not known:
        return "-"
    before, after = (fmean(c[f"load_cv_{when}"] for c in known) for when in ("before", "after"))
    return f"{before:.2f} > {after:.2f}"


def headline(methods: Mapping[str, Cells]) -> dict[str, float | int | None]:
    """Return the numbers of one world for the JSON line; None for what its cells cannot say."""
    ours, fedavg, central = (methods.get(name, {}) for name in ("EMS-FL", REFERENCE, "central"))
    both = sorted(ours.keys() & fedavg.keys())
    share = [
        (ours[s]["merged_before"] - ours[s]["merged"]) / (central[s]["merged_before"] - central[s]["merged"])
        for s in sorted(ours.keys() & central.keys())
    ]
    sooner = speedups(ours, fedavg, "own")
    return {
        "speedup_to_fedavg_loss": _rounded(sooner, 2),
        "own_loss_gain": _rounded([-d for d in paired(ours, fedavg, "own")], 4),
        "merged_loss_gain": _rounded([-d for d in paired(ours, fedavg, "merged")], 4),
        "share_of_central_gain": _rounded(share, 3),
        "memory_ratio": _rounded([ours[s]["memory_bytes"] / fedavg[s]["memory_bytes"] for s in both], 3),
        "upload_ratio": _rounded([ours[s]["update_bytes"] / fedavg[s]["update_bytes"] for s in both], 3),
        "capture": _rounded([c["capture"] for c in ours.values()], 3),
        "forgetting": _rounded([f for c in ours.values() if (f := forgotten(c)) is not None], 4),
        "staleness": _rounded([c["staleness"] for c in ours.values()], 2),
        "seeds": len(both),
    }


def _spread(values: Sequence[float], *, signed: bool = False) -> str:
    finite = [value for value in values if not math.isnan(value)]
    if not finite:
        return f"{'-':>15}"
    mean, half = interval(finite)
    sign = "+" if signed else ""
    return f"{f'{mean:{sign}.3f}' + ('' if math.isnan(half) else f' ±{half:.3f}'):>15}"


def _ratio(cells: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]], name: str) -> str:
    if not reference:
        return "-"
    return f"{fmean(c[name] for c in cells) / fmean(c[name] for c in reference):.2f}"


def _rounded(values: Sequence[float], digits: int) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return round(fmean(finite), digits) if finite and len(finite) == len(values) else None
