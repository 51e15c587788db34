"""What the experts are to the clusters: relevance and assignment, capture, and how far each has moved."""

from collections.abc import Mapping, Sequence
from typing import Any

from server.record.scene import Findings, ModelScene
from server.report.charts.chart import COLOURS, SEQUENTIAL, Chart, axis, layout, rounded

MOST_LAYERS = 8
MOST_CELLS = 40_000
MANY_ROWS = 24


def relevance(
    findings: Findings, model: ModelScene, assignment: Mapping[str, Any] | None, clusters: Sequence[str]
) -> list[Chart]:
    """Return a heat map a layer of who uses which expert, with the assigned ones marked."""
    known = [name for name in clusters if name in findings.relevance]
    if not known:
        return []
    layers = _chosen(len(model.layers), MOST_LAYERS if len(known) <= MANY_ROWS else MOST_LAYERS // 2)
    cells = sum(model.num_experts[at] for at in layers) * len(known)
    if cells > MOST_CELLS:
        known = known[: max(1, MOST_CELLS * len(known) // cells)]
    taken = assignment["experts"] if assignment else {}
    charts = []
    mark_px = 13 if len(known) <= MANY_ROWS and max(model.num_experts) <= 16 else 7
    for at in layers:
        layer, count = model.layers[at], model.num_experts[at]
        own = [
            (int(name.partition(".")[2]), row)
            for row, cluster in enumerate(known)
            for name in taken.get(cluster, ())
            if int(name.partition(".")[0]) == layer
        ]
        heat = {
            "type": "heatmap",
            "z": [rounded([100 * share for share in findings.relevance[name][at]], 2) for name in known],
            "x": list(range(count)),
            "y": known,
            "colorscale": SEQUENTIAL,
            "zmin": 0,
            "colorbar": {
                "title": {"text": "% of routing", "side": "right", "font": {"size": 12}},
                "thickness": 10,
            },
            "hovertemplate": "%{y}, expert %{x}: %{z:.1f} %<extra></extra>",
            "xgap": 1,
            "ygap": 1,
        }
        mark = {
            "type": "scatter",
            "mode": "markers",
            "name": "assigned",
            "x": [expert for expert, _ in own],
            "y": [known[row] for _, row in own],
            "marker": {
                "symbol": "square-open",
                "size": mark_px,
                "color": "#D55E00",
                "line": {"width": 3 if mark_px > 9 else 1.5},
            },
            "hoverinfo": "skip",
        }
        charts.append(
            Chart(
                key=f"relevance-{layer}",
                title=f"Layer {layer}: who uses which expert",
                figure={
                    "data": [heat, mark],
                    "layout": layout(
                        xaxis=axis("expert", dtick=1 if count <= 16 else None, showgrid=False),
                        yaxis={
                            "type": "category",
                            "autorange": "reversed",
                            "automargin": True,
                            "showgrid": False,
                        },
                        showlegend=False,
                    ),
                },
                note="Squares mark the experts that were assigned."
                + (f" {len(known)} of {len(clusters)} clusters." if len(known) < len(clusters) else "")
                + (
                    f" {len(layers)} of {len(model.layers)} layers."
                    if len(layers) < len(model.layers)
                    else ""
                ),
                height_px=120 + min(30 * len(known), 12 * max(len(known), 2 * MANY_ROWS)),
            )
        )
    return charts


def _chosen(count: int, most: int) -> list[int]:
    """Return the layers that are drawn: all, or evenly spread ones with the first and the last."""
    if count <= most:
        return list(range(count))
    return sorted({round(at * (count - 1) / (most - 1)) for at in range(most)})


def capture(assignment: Mapping[str, Any] | None, clusters: Sequence[str]) -> list[Chart]:
    """Return each cluster's capture beside that of a random assignment."""
    known = [name for name in clusters if assignment and name in assignment["capture"]]
    if assignment is None or not known:
        return []
    data = [
        {
            "type": "bar",
            "name": label,
            "x": known,
            "y": rounded([100 * assignment[field][name] for name in known], 2),
            "marker": {"color": colour},
            "hovertemplate": "%{x}, " + label + ": %{y:.1f} %<extra></extra>",
        }
        for label, field, colour in (
            ("its own experts", "capture", COLOURS[0]),
            ("a random assignment", "random_capture", COLOURS[4]),
        )
    ]
    return [
        Chart(
            key="capture",
            title="Routing that the assigned experts capture",
            is_wide=True,
            height_px=320,
            figure={
                "data": data,
                "layout": layout(
                    xaxis={"automargin": True}, yaxis=axis("% of routing", rangemode="tozero"), bargap=0.25
                ),
            },
            note="Where both bars are alike, routing is near uniform: the merged model gains little.",
        )
    ]


def moved(findings: Findings, model: ModelScene) -> list[Chart]:
    """Return how far each expert has moved: the norm of its change."""
    widest = max(model.num_experts, default=0)
    if not widest or not any(any(row) for row in findings.moved):
        return []
    return [
        Chart(
            key="moved",
            title="How far each expert has moved",
            figure={
                "data": [
                    {
                        "type": "heatmap",
                        "z": [rounded([*row, *[None] * (widest - len(row))], 4) for row in findings.moved],
                        "x": list(range(widest)),
                        "y": [str(layer) for layer in model.layers],
                        "colorscale": SEQUENTIAL,
                        "zmin": 0,
                        "colorbar": {
                            "title": {"text": "norm", "side": "right", "font": {"size": 12}},
                            "thickness": 10,
                        },
                        "hovertemplate": "layer %{y}, expert %{x}: %{z:.3g}<extra></extra>",
                        "xgap": 1,
                        "ygap": 1,
                    }
                ],
                "layout": layout(
                    xaxis=axis("expert", dtick=1 if widest <= 16 else None, showgrid=False),
                    yaxis=axis("layer", type="category", autorange="reversed", showgrid=False),
                    showlegend=False,
                ),
            },
            note="Frobenius norm of the change of its weights since the base model; zero was never merged.",
            height_px=130 + 26 * len(model.layers),
        )
    ]
