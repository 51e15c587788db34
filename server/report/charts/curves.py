"""Held-out loss against time, bytes, device steps and FLOPs; training loss of every merge."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from server.record.history import Evaluation, Merge
from server.report.charts.chart import MOST_LINES, Chart, axis, layout, rounded, style

Flops = Mapping[str, float]
"""Cluster -> FLOPs of one device step; empty where the model's sizes are not known."""


def spent(points: Sequence[Evaluation], flops: Flops, clock: str) -> dict[str, tuple[str, list[float]]]:
    """Return what curves are drawn against: label -> axis title and one value an evaluation."""
    unit, unit_s = time_unit(points[-1].time_s)
    found = {
        "time": (f"{clock} time, {unit}", [point.time_s / unit_s for point in points]),
        "bytes": ("bytes crossed both ways", [point.num_bytes for point in points]),
        "device steps": ("device steps that came up", [float(sum(p.steps.values())) for p in points]),
    }
    if flops:
        found["FLOPs"] = (
            "training FLOPs on devices (estimate)",
            [sum(n * flops.get(name, 0.0) for name, n in p.steps.items()) for p in points],
        )
    return found


def time_unit(length_s: float) -> tuple[str, float]:
    """Return the unit that suits a length of time, and its seconds."""
    if length_s < 7200.0:
        return "minutes", 60.0
    return ("hours", 3600.0) if length_s <= 4 * 86_400.0 else ("days", 86_400.0)


def loss_curves(
    points: Sequence[Evaluation],
    clusters: Sequence[str],
    flops: Flops,
    *,
    clock: str,
    own_before: Mapping[str, float] | None = None,
) -> list[Chart]:
    """Return one chart of each measure: the own sub-models' losses and the merged model's.

    Parameters
    ----------
    own_before : Mapping[str, float] or None
        Losses of the own sub-models before tuning: there are none at the first evaluation, because nobody
        has experts yet, but they are measured when a run ends.
    """
    points = with_start(points, own_before)
    charts = []
    for key, title, note, get in (
        (
            "own",
            "Loss of each cluster's own sub-model",
            "What a device runs: its cluster's experts, on the cluster's own held-out text.",
            _own,
        ),
        (
            "merged",
            "Loss of the merged model under its full router",
            "What the server has: all experts together, on every cluster's held-out text.",
            _merged,
        ),
    ):
        measured = [point for point in points if get(point)]
        if not measured:
            continue
        charts.append(
            _loss_chart(
                f"loss-{key}", title, note, measured, [get(p) for p in measured], clusters, flops, clock
            )
        )
    return charts


def _loss_chart(
    key: str,
    title: str,
    note: str,
    points: Sequence[Evaluation],
    losses: Sequence[Mapping[str, float]],
    clusters: Sequence[str],
    flops: Flops,
    clock: str,
) -> Chart:
    # Clusters differ more from each other than a run changes them: the change is shown first.
    changes = [{name: loss - losses[0].get(name, loss) for name, loss in at.items()} for at in losses]
    lines, left_out = _lines(changes, clusters)
    shown = {
        "change": ("change of loss, nats a token", [line["y"] for line in lines]),
        "loss": ("loss, nats a token", [line["y"] for line in _lines(losses, clusters)[0]]),
    }
    axes = spent(points, flops, clock)
    return Chart(
        key=key,
        title=title,
        figure={
            "data": [line | {"x": axes["time"][1]} for line in lines],
            "layout": layout(xaxis=axis(axes["time"][0]), yaxis=axis(shown["change"][0])),
        },
        note=f"{note} {left_out}".strip(),
        choices={
            "show": {label: {"axis": text, "y": values} for label, (text, values) in shown.items()},
            "against": {
                label: {"axis": text, "x": [values] * len(lines)} for label, (text, values) in axes.items()
            },
        },
    )


def with_start(points: Sequence[Evaluation], own_before: Mapping[str, float] | None) -> Sequence[Evaluation]:
    """Return the evaluations with the own sub-models' losses before tuning at the first."""
    if own_before and points:
        return [replace(points[0], own=own_before), *points[1:]]
    return points


def _own(point: Evaluation) -> Mapping[str, float]:
    return point.own


def _merged(point: Evaluation) -> Mapping[str, float]:
    return point.merged


def mean_of(losses: Mapping[str, float]) -> float:
    """Return the mean over clusters."""
    return sum(losses.values()) / len(losses)


def _lines(
    values: Sequence[Mapping[str, float]], clusters: Sequence[str]
) -> tuple[list[dict[str, Any]], str]:
    mean = _line("mean", [mean_of(at) for at in values], width=4, colour="text", dash="solid")
    if len(clusters) <= MOST_LINES:
        own = [
            _line(name, [at.get(name) for at in values], width=1.8, colour=colour, dash=dash)
            for name, (colour, dash) in zip(clusters, map(style, range(len(clusters))), strict=True)
        ]
        return [*own, mean], ""
    ordered = [sorted(at.values()) for at in values]
    lines = []
    for label, share in (("lowest", 0.0), ("a tenth below", 0.1), ("a tenth above", 0.9), ("highest", 1.0)):
        ranked = [of_all[round(share * (len(of_all) - 1))] for of_all in ordered]
        lines.append(_line(label, ranked, width=1.2, colour="grey", dash="dot" if 0 < share < 1 else "dash"))
    return [*lines, mean], f"{len(clusters)} clusters: their mean and range are drawn, not each line."


def _line(
    name: str, values: Sequence[float | None], *, width: float, colour: str, dash: str
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "y": rounded(values, 4),
        "line": {"width": width, "color": colour, "dash": dash},
        "marker": {"size": 6 if width > 3 else 4, "color": colour},
        "hovertemplate": f"{name}: %{{y:.3f}}<extra></extra>",
    }


def train_losses(merges: Sequence[Merge], clusters: Sequence[str]) -> list[Chart]:
    """Return the training loss behind every merge, by cluster."""
    if not merges:
        return []
    shown = clusters[:MOST_LINES]
    unit, unit_s = time_unit(merges[-1].time_s)
    data = []
    for number, name in enumerate(shown):
        own = [merge for merge in merges if merge.cluster == name]
        colour, dash = style(number)
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "x": [round(merge.time_s / unit_s, 3) for merge in own],
                "y": [round(merge.train_loss, 4) for merge in own],
                "customdata": [[merge.number, merge.num_updates] for merge in own],
                "line": {"color": colour, "width": 1.5, "dash": dash},
                "marker": {"size": 5, "color": colour},
                "hovertemplate": f"{name}: %{{y:.3f}}<br>merge %{{customdata[0]}} of "
                "%{customdata[1]} updates<extra></extra>",
            }
        )
    left = len(clusters) - len(shown)
    return [
        Chart(
            key="train-loss",
            title="Training loss behind each merge",
            figure={
                "data": data,
                "layout": layout(xaxis=axis(f"time, {unit}"), yaxis=axis("loss, nats a token")),
            },
            note="Mean over the updates of a merge, weighted by their examples."
            + (f" The first {len(shown)} clusters; {left} more are left out." if left else ""),
        )
    ]
