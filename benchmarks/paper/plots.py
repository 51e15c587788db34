"""The tables' curves as pictures: loss against hours, bytes and steps; gain against capture."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paper.tables import REFERENCE, Cells, interval, paired

AXES = (("time_s", 3600.0, "simulated hours"), ("bytes_up", 1e6, "MB sent up"), ("steps", 1e3, "1,000 steps"))
"""What a loss is drawn against: the point's field, what it is divided by, its name."""
LEVEL_STYLES = (":", "--", "-.")
"""Of the lines of methods that send nothing."""
LOSSES = {"own": "each cluster's model, own text", "merged": "merged model, everybody's text"}


def mean_curve(cells: Sequence[Mapping[str, Any]], axis: str, loss: str, at: Sequence[float]) -> list[float]:
    """Return the mean over seeds of the loss last measured at each value of an axis.

    NaN from where the first of the runs has ended.
    """
    rows = []
    for cell in cells:
        points = sorted(cell["points"], key=lambda point: point[axis])
        known = np.array([point[axis] for point in points])
        losses = np.array([point[loss] for point in points])
        places = np.searchsorted(known, at, side="right") - 1
        rows.append(np.where((places < 0) | (np.asarray(at) > known[-1]), np.nan, losses[places]))
    return [float(value) for value in np.mean(rows, axis=0)]


def draw_curves(methods: Mapping[str, Cells], title: str, path: Path) -> None:
    """Draw both losses of a world's methods against hours, bytes and steps; who never sends is a level line.

    Raises
    ------
    SystemExit
        If matplotlib is not installed.
    """
    level = [method for method, cells in methods.items() if cells and _is_level(list(cells.values()))]
    styles = dict(zip(level, cycle(LEVEL_STYLES), strict=False))
    figure, panels = _pyplot().subplots(2, len(AXES), figsize=(13, 7), sharey="row")
    for column, (axis, unit, name) in enumerate(AXES):
        for row, (loss, label) in enumerate(LOSSES.items()):
            panel = panels[row][column]
            for method, cells in methods.items():
                style = styles.get(method, "-")
                _draw_method(panel, method, list(cells.values()), axis, unit, loss, style)
            panel.set_xlabel(name)
            panel.grid(alpha=0.3)
            if column == 0:
                panel.set_ylabel(f"nats a token:\n{label}")
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=5, frameon=False)
    figure.suptitle(title)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path)


def draw_gains(worlds: Mapping[str, Mapping[str, Cells]], path: Path) -> None:
    """Draw what EMS-FL gains over FedAvg against how far the base's experts follow the clusters' data.

    Parameters
    ----------
    worlds : dict
        By name of a world: its methods' cells, EMS-FL and FedAvg among them.
    path : Path
        Of the picture.
    """
    figure, panel = _pyplot().subplots(figsize=(6, 4))
    for loss, mark in (("own", "o"), ("merged", "s")):
        at, means, halves = [], [], []
        for methods in worlds.values():
            ours = methods["EMS-FL"]
            mean, half = interval([-gain for gain in paired(ours, methods[REFERENCE], loss)])
            at.append(float(np.mean([c["capture"] - c["random_capture"] for c in ours.values()])))
            means.append(mean)
            halves.append(0.0 if math.isnan(half) else half)
        panel.errorbar(at, means, yerr=halves, fmt=mark, capsize=3, label=LOSSES[loss])
    panel.axhline(0.0, color="gray", linewidth=0.8)
    panel.set_xlabel("capture above a random deal's")
    panel.set_ylabel("EMS-FL's gain over FedAvg\nnats a token")
    panel.legend(frameon=False)
    panel.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)


def _draw_method(
    panel: Any,
    method: str,
    cells: Sequence[Mapping[str, Any]],
    axis: str,
    unit: float,
    loss: str,
    style: str,
) -> None:
    if not cells or math.isnan(cells[0][loss]):
        return
    if _is_level(cells):
        panel.axhline(np.mean([cell[loss] for cell in cells]), label=method, linestyle=style, color="black")
        return
    ends = min(cell["points"][-1][axis] for cell in cells)
    at = np.linspace(0.0, ends, 200)
    panel.plot(at / unit, mean_curve(cells, axis, loss, at.tolist()), label=method)


def _is_level(cells: Sequence[Mapping[str, Any]]) -> bool:
    return math.isnan(cells[0]["points"][0]["time_s"])


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise SystemExit(
            "--plots needs matplotlib, which nothing else here does: pip install matplotlib"
        ) from None
    matplotlib.use("svg")
    # Text stays text and no file has a date or random names: the same numbers are the same picture.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "ems-fl"})
    import matplotlib.pyplot

    return matplotlib.pyplot
