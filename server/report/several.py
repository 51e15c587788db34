"""Several runs side by side: the same charts overlaid, their numbers, and what differs in their settings."""

from collections.abc import Callable, Sequence
from typing import Any

from server.report import first_screen
from server.report.charts import curves
from server.report.charts.chart import Chart, axis, layout, rounded, scaled, size_text, style
from server.report.run_files import RunFiles
from server.report.sections import NONE, Section, Table, step_flops, toml

HOUR_S = 3600.0
SAME_LOSS = 0.0005
"""Mean losses nearer to each other than this are shown by the same digits."""


def labels(runs: Sequence[RunFiles]) -> list[str]:
    """Return a name for each run: its folder's, with as much before it as tells them apart."""
    depth, paths = 1, [run.folder.resolve().parts for run in runs]
    while depth < max(map(len, paths)) and len({path[-depth:] for path in paths}) < len({*paths}):
        depth += 1
    names = ["/".join(path[-depth:]) for path in paths]
    return [name if names.count(name) == 1 else f"{name} ({at + 1})" for at, name in enumerate(names)]


def lead(runs: Sequence[RunFiles], names: Sequence[str]) -> str:
    """Return which run ended best, by either measure."""
    said = []
    for measure, what in (("own", "own sub-models"), ("merged", "the merged model")):
        ends = [
            (curves.mean_of(pair.after), name)
            for run, name in zip(runs, names, strict=True)
            if (pair := first_screen.losses(run, measure))
        ]
        if len(ends) > 1:
            lowest, name = min(ends)
            if all(end - lowest < SAME_LOSS for end, _ in ends):
                said.append(f"By the loss of {what} they ended alike ({lowest:.3f}).")
            else:
                said.append(f"By the loss of {what} {name} ended lowest ({lowest:.3f}).")
    return " ".join(said) or "Too little was measured to say which did better."


def sections(runs: Sequence[RunFiles], names: Sequence[str]) -> list[Section]:
    """Return the sections of the comparison."""
    found = [
        Section(key="numbers", title="In numbers", tables=[_numbers(runs, names)]),
        Section(key="settings", title="What differs in their settings", tables=[_settings(runs, names)]),
        Section(
            key="learning",
            title="Learning",
            charts=[
                *_curves(runs, names, "own", "Loss of the own sub-models, mean over clusters"),
                *_curves(runs, names, "merged", "Loss of the merged model, mean over clusters"),
            ],
        ),
        Section(
            key="merging",
            title="Merging and windows",
            charts=[
                *_staleness(runs, names),
                *_windows(runs, names),
                *_captures(runs, names),
                *_moved(runs, names),
            ],
        ),
        Section(key="clusters", title="Cluster by cluster", charts=_gains(runs, names)),
    ]
    return [section for section in found if not section.is_empty]


def _numbers(runs: Sequence[RunFiles], names: Sequence[str]) -> Table:
    def mean(run: RunFiles, measure: str, when: str) -> float | None:
        pair = first_screen.losses(run, measure)
        return curves.mean_of(getattr(pair, when)) if pair else None

    rows: list[tuple[str, Callable[[RunFiles], float | None], Callable[[float], str]]] = [
        ("own sub-models' loss before", lambda run: mean(run, "own", "before"), "{:.3f}".format),
        ("own sub-models' loss after", lambda run: mean(run, "own", "after"), "{:.3f}".format),
        ("merged model's loss before", lambda run: mean(run, "merged", "before"), "{:.3f}".format),
        ("merged model's loss after", lambda run: mean(run, "merged", "after"), "{:.3f}".format),
        ("clock at the end, hours", lambda run: run.end_s / HOUR_S, "{:.1f}".format),
        ("bytes crossed both ways", lambda run: run.history.num_bytes, size_text),
        ("device steps that came up", lambda run: float(sum(run.history.steps.values())), scaled),
        ("training FLOPs on devices", _flops, scaled),
        ("merges", lambda run: float(run.history.kinds["merged"]), "{:.0f}".format),
        ("mean staleness", _mean_staleness, "{:.2f}".format),
        ("refused replies", lambda run: float(run.history.refusals.total()), "{:.0f}".format),
    ]
    cells = []
    for what, get, show in rows:
        values = [get(run) for run in runs]
        cells.append(
            [what, *(NONE if value is None else show(value) for value in values), _spread(values, show)]
        )
    return Table(head=("", *names, "difference"), rows=cells, note="Difference: the last run less the first.")


def _spread(values: Sequence[float | None], show: Callable[[float], str]) -> str:
    first, last = values[0], values[-1]
    if first is None or last is None:
        return NONE
    sign = "+" if last > first else "−" if last < first else ""
    return sign + show(abs(last - first))


def _flops(run: RunFiles) -> float | None:
    flops = step_flops(run)
    return sum(n * flops.get(name, 0.0) for name, n in run.history.steps.items()) if flops else None


def _mean_staleness(run: RunFiles) -> float | None:
    total = run.history.staleness.total()
    return sum(age * n for (age, _), n in run.history.staleness.items()) / total if total else None


def _settings(runs: Sequence[RunFiles], names: Sequence[str]) -> Table:
    keys = list(dict.fromkeys(key for run in runs for key in run.settings))
    rows = []
    for key in keys:
        values = [toml(run.settings[key]) if key in run.settings else NONE for run in runs]
        if len(set(values)) > 1:
            rows.append([key, *values])
    note = "" if rows else "Nothing: they have the same settings."
    return Table(head=("setting", *names), rows=rows, note=note, kind="text")


def _curves(runs: Sequence[RunFiles], names: Sequence[str], measure: str, title: str) -> list[Chart]:
    data, spent = [], []
    for number, (run, name) in enumerate(zip(runs, names, strict=True)):
        start = first_screen.losses(run, "own") if run.summary else None
        points = [
            point
            for point in curves.with_start(run.history.evaluations, start.before if start else None)
            if getattr(point, measure)
        ]
        if not points:
            continue
        axes = curves.spent(points, step_flops(run), "run's")
        colour, dash = style(number)
        spent.append(axes)
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "x": axes["time"][1],
                "y": rounded([curves.mean_of(getattr(point, measure)) for point in points], 4),
                "line": {"color": colour, "dash": dash, "width": 2.5},
                "marker": {"size": 6, "color": colour},
                "hovertemplate": f"{name}: %{{y:.3f}}<extra></extra>",
            }
        )
    if not data:
        return []
    shared = [label for label in spent[0] if all(label in axes for axes in spent)]
    return [
        Chart(
            key=f"curve-{measure}",
            title=title,
            figure={
                "data": data,
                "layout": layout(xaxis=axis(spent[0]["time"][0]), yaxis=axis("loss, nats a token")),
            },
            choices={
                "against": {
                    label: {"axis": spent[0][label][0], "x": [axes[label][1] for axes in spent]}
                    for label in shared
                }
            },
        )
    ]


def _grouped(
    key: str,
    title: str,
    y_title: str,
    names: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Any], Sequence[float | None]]],
    note: str = "",
) -> list[Chart]:
    data = [
        {
            "type": "bar",
            "name": name,
            "x": list(x),
            "y": rounded(list(y), 4),
            "marker": {"color": style(names.index(name))[0]},  # the same in every chart
            "hovertemplate": f"{name}, %{{x}}: %{{y}}<extra></extra>",
        }
        for name, x, y in rows
        if len(x)
    ]
    if not data:
        return []
    figure = {
        "data": data,
        "layout": layout(xaxis={"type": "category", "automargin": True}, yaxis=axis(y_title), bargap=0.25),
    }
    return [Chart(key=key, title=title, figure=figure, note=note)]


def _staleness(runs: Sequence[RunFiles], names: Sequence[str]) -> list[Chart]:
    rows = []
    for run, name in zip(runs, names, strict=True):
        total = run.history.staleness.total()
        ages = range(max((age for age, _ in run.history.staleness), default=-1) + 1)
        shares = [
            100 * sum(n for (its, _), n in run.history.staleness.items() if its == age) / total
            for age in ages
        ]
        rows.append((name, [str(age) for age in ages], shares))
    return _grouped(
        "staleness", "Staleness of updates", "% of experts merged", names, rows, "In merges behind."
    )


def _captures(runs: Sequence[RunFiles], names: Sequence[str]) -> list[Chart]:
    rows = [
        (
            name,
            list(run.history.assignment["capture"]),
            [100 * v for v in run.history.assignment["capture"].values()],
        )
        for run, name in zip(runs, names, strict=True)
        if run.history.assignment
    ]
    return _grouped("capture", "Routing that the assigned experts capture", "% of routing", names, rows)


def _gains(runs: Sequence[RunFiles], names: Sequence[str]) -> list[Chart]:
    charts = []
    for measure, title in (
        ("own", "Fall of each own sub-model's loss"),
        ("merged", "Fall of the merged model's loss"),
    ):
        rows = [
            (name, list(pair.gains), list(pair.gains.values()))
            for run, name in zip(runs, names, strict=True)
            if (pair := first_screen.losses(run, measure))
        ]
        charts += _grouped(f"gain-{measure}", title, "nats a token", names, rows)
    return charts


def _moved(runs: Sequence[RunFiles], names: Sequence[str]) -> list[Chart]:
    rows = [
        (
            name,
            [str(layer) for layer in run.scene.model.layers],
            [max(row, default=0.0) for row in run.findings.moved],
        )
        for run, name in zip(runs, names, strict=True)
        if run.findings and run.scene
    ]
    return _grouped(
        "moved", "How far the furthest expert of each layer has moved", "norm of its change", names, rows
    )


def _windows(runs: Sequence[RunFiles], names: Sequence[str]) -> list[Chart]:
    rows = [
        (name, ["down", "up"], [_fill(run, "down"), _fill(run, "up")])
        for run, name in zip(runs, names, strict=True)
        if run.scene and run.scene.is_simulated
    ]
    return _grouped(
        "fill",
        "Share of the windows' bytes that was used",
        "% of capacity",
        names,
        rows,
        "Windows up to the run's end.",
    )


def _fill(run: RunFiles, way: str) -> float | None:
    assert run.scene is not None
    windows = [c for cluster in run.scene.clusters for c in cluster.passes if c.rise_s <= run.end_s]
    capacity = sum(c.down_bytes if way == "down" else c.up_bytes for c in windows)
    carried = sum(
        getattr(p, way).num_bytes for passes in run.history.passes.values() for p in passes.values()
    )
    return 100 * carried / capacity if capacity else None
