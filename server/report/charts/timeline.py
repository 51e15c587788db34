"""The timeline: contacts, bytes down and up, training, merges and idle time of every cluster."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from server.record.history import History, Merge, PassTraffic, Transfer
from server.record.scene import Pass, Scene
from server.report.charts.chart import CONTACT, DOWN, MERGE, UP, Chart, layout, size_text
from server.report.charts.world import thinned

MOST_LANES = 40
MOST_STEPS = 300
MOST_MERGES = 3_000
# Lanes are one apart and counted from the top; parts of a lane by their middle and height.
BAND, DOWN_AT, UP_AT, TRAIN_AT = (0.0, 0.86), (-0.3, 0.18), (0.3, 0.18), (0.0, 0.34)


def timeline(scene: Scene | None, history: History, clusters: Sequence[str], end_s: float) -> list[Chart]:
    """Return the timeline chart; empty if nothing ever crossed.

    Parameters
    ----------
    scene : Scene or None
        Contacts and the start; without it only what the events say.
    history : History
        What happened.
    clusters : Sequence[str]
        In order.
    end_s : float
        End of the run on its clock.
    """
    lanes = history.lanes(clusters)
    shown = list(lanes)[:MOST_LANES]
    if not shown or not (history.passes or history.arrivals):
        return []
    clock = _Clock(scene)
    planned = {c.name: c.passes for c in scene.clusters} if scene else {}
    devices = {c.name: c.num_devices for c in scene.clusters} if scene else {}
    bars = _Bars()
    for row, lane in enumerate(shown):
        _draw_lane(
            bars, row, history.passes.get(lane, {}), planned.get(lane, ()), clock, end_s,
        )  # fmt: skip
        _draw_training(bars, row, history.training_now(lane, end_s), devices.get(lane, 0), clock)
    rows = {lane: row for row, lane in enumerate(shown)}
    row_of_cluster: dict[str, list[int]] = {}
    for lane, row in rows.items():
        row_of_cluster.setdefault(lanes[lane][1], []).append(row)
    merges = [merge for merge in history.merges if merge.cluster in row_of_cluster][:MOST_MERGES]
    points = {lane: history.arrivals[lane] for lane in shown if lane in history.arrivals}
    data = [*bars.traces(), _merge_trace(merges, row_of_cluster, clock)]
    if points:
        data += _point_traces(points, rows, clock)
    notes = [
        "What is neither coloured nor in contact is idle. Pick a pass to zoom to it, or drag over a span."
    ]
    if len(lanes) > len(shown):
        notes.append(f"The first {len(shown)} of {len(lanes)} clusters.")
    if len(history.merges) > MOST_MERGES:
        notes.append(f"The first {MOST_MERGES} of {len(history.merges)} merges.")
    return [
        Chart(
            key="timeline",
            title="Contacts, training, bytes and merges",
            figure={
                "data": data,
                "layout": layout(
                    barmode="overlay",
                    bargap=0,
                    xaxis={"type": "date", "range": [clock.at(-0.01 * end_s), clock.at(1.01 * end_s)]},
                    yaxis={
                        "tickvals": list(range(len(shown))),
                        "ticktext": [lanes[lane][0] for lane in shown],
                        "range": [len(shown) - 0.4, -0.6],
                        "fixedrange": True,
                        "showgrid": False,
                        "zeroline": False,
                        "automargin": True,
                    },
                    legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
                    margin={"l": 70, "r": 12, "t": 40, "b": 40},
                    dragmode="zoom",
                ),
            },
            note=" ".join(notes),
            height_px=150 + 62 * len(shown),
            is_wide=True,
            kind="timeline",
            more={"passes": bars.passes(shown, lanes)},
        )
    ]


class _Clock:
    """Seconds of the run as instants that plotly reads; a run without a known start begins in 2000."""

    def __init__(self, scene: Scene | None) -> None:
        start = scene.start_utc if scene and scene.start_utc else "2000-01-01T00:00:00+00:00"
        self._start = dt.datetime.fromisoformat(start).astimezone(dt.UTC)

    def at(self, time_s: float) -> str:
        return (self._start + dt.timedelta(seconds=round(time_s, 1))).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-5]


class _Bars:
    """Bars by kind, and the words about each pass."""

    def __init__(self) -> None:
        self._columns: dict[str, dict[str, list[Any]]] = {}
        self._passes: list[tuple[int, str, str, str]] = []

    def add(self, kind: str, row: int, start: str, length_s: float, text: str, opacity: float = 1.0) -> None:
        columns = self._columns.setdefault(
            kind, {"base": [], "x": [], "y": [], "hovertext": [], "opacity": []}
        )
        columns["base"].append(start)
        columns["x"].append(round(max(length_s, 1.0) * 1000))
        columns["y"].append(row)
        columns["hovertext"].append(text)
        columns["opacity"].append(opacity)

    def add_pass(self, row: int, start: str, end: str, text: str) -> None:
        self._passes.append((row, start, end, text))

    def passes(self, shown: Sequence[str], lanes: Mapping[str, tuple[str, str]]) -> list[list[str]]:
        return [[lanes[shown[row]][0], start, end, text] for row, start, end, text in self._passes]

    def traces(self) -> list[dict[str, Any]]:
        looks = (
            ("in contact", CONTACT, BAND),
            ("devices training", "train", TRAIN_AT),
            ("bytes down", DOWN, DOWN_AT),
            ("bytes up", UP, UP_AT),
        )
        found = []
        for kind, colour, (middle, height) in looks:
            if (columns := self._columns.get(kind)) is None:
                continue
            colours = [f"rgba(0,158,115,{o:g})" for o in columns["opacity"]] if colour == "train" else colour
            found.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": kind,
                    "base": columns["base"],
                    "x": columns["x"],
                    "y": [row + middle for row in columns["y"]],
                    "width": height,
                    "marker": {"color": colours, "line": {"width": 0.6, "color": colours}},
                    "hovertext": columns["hovertext"],
                    "hoverinfo": "text",
                }
            )
        return found


def _draw_lane(
    bars: _Bars,
    row: int,
    traffic: Mapping[float, PassTraffic],
    passes: Sequence[Pass],
    clock: _Clock,
    end_s: float,
) -> None:
    known = {contact.rise_s: contact for contact in passes}
    for rise_s in sorted({*known, *traffic}):
        contact, crossed = known.get(rise_s), traffic.get(rise_s)
        if rise_s > end_s:
            continue
        set_s = contact.set_s if contact else _last_s(crossed, rise_s)
        words = pass_words(contact, crossed)
        if contact:
            bars.add("in contact", row, clock.at(rise_s), set_s - rise_s, words)
        bars.add_pass(row, clock.at(rise_s), clock.at(set_s), words.replace("<br>", "; "))
        if crossed is None:
            continue
        for kind, transfer in (("bytes down", crossed.down), ("bytes up", crossed.up)):
            if transfer.num_bytes > 0:
                to_s = min(transfer.to_s, set_s)
                from_s = min(transfer.from_s, to_s)
                text = f"{size_text(transfer.num_bytes)} {kind[6:]}, {transfer.messages} messages"
                bars.add(kind, row, clock.at(from_s), to_s - from_s, text)


def _last_s(crossed: PassTraffic | None, rise_s: float) -> float:
    ends = [t.to_s for t in (crossed.down, crossed.up) if t.to_s < float("inf")] if crossed else []
    return max([rise_s + 1.0, *ends])


def pass_words(contact: Pass | None, crossed: PassTraffic | None) -> str:
    """Return what filled a pass and what did not fit, as hover text."""
    lines = []
    if contact:
        by = f" by {', '.join(contact.satellites)}" if 0 < len(contact.satellites) <= 4 else ""
        lines.append(f"{minutes(contact.set_s - contact.rise_s)} in contact{by}")
    pairs: tuple[tuple[str, Transfer | None, float | None], ...] = (
        ("down", crossed.down if crossed else None, contact.down_bytes if contact else None),
        ("up", crossed.up if crossed else None, contact.up_bytes if contact else None),
    )
    for way, transfer, capacity in pairs:
        carried = transfer.num_bytes if transfer else 0.0
        text = f"{way}: {size_text(carried)}"
        if capacity:
            text += f" of {size_text(capacity)} that the window carries ({share_text(carried / capacity)})"
        if transfer and transfer.messages:
            text += f", {transfer.messages} messages"
        if transfer and transfer.carried_over:
            text += f"; {transfer.carried_over} did not fit and went on later"
        lines.append(text)
    return "<br>".join(lines)


def share_text(share: float) -> str:
    """Return a share in percent, ``"<0.1 %"`` for the smallest."""
    return "0 %" if share == 0 else "<0.1 %" if share < 0.001 else f"{share:.1%}".replace("%", " %")


def minutes(length_s: float) -> str:
    """Return a length as ``"7 min 30 s"``."""
    whole = round(length_s)
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def _draw_training(
    bars: _Bars, row: int, steps: list[tuple[float, int]], devices: int, clock: _Clock
) -> None:
    most = max([devices, *(count for _, count in steps)])
    for (from_s, count), (to_s, _) in zip(kept := thinned(steps, MOST_STEPS), kept[1:], strict=False):
        if count > 0:
            text = f"{count} of {most} devices train"
            bars.add(
                "devices training",
                row,
                clock.at(from_s),
                to_s - from_s,
                text,
                round(0.25 + 0.75 * count / most, 2),
            )


def _merge_trace(merges: Sequence[Merge], rows: Mapping[str, list[int]], clock: _Clock) -> dict[str, Any]:
    points = [(merge, row) for merge in merges for row in rows[merge.cluster]]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "merge",
        "x": [clock.at(merge.time_s) for merge, _ in points],
        "y": [row for _, row in points],
        "marker": {
            "symbol": "diamond",
            "size": 11 if len(points) < 200 else 6,
            "color": MERGE,
            "line": {"width": 1, "color": "text"},
        },
        "hovertext": [
            f"merge {merge.number}: {merge.num_updates} updates, training loss {merge.train_loss:.3f}, "
            f"staleness {merge.mean_staleness:.1f}"
            for merge, _ in points
        ],
        "hoverinfo": "text",
    }


def _point_traces(
    points: Mapping[str, list[tuple[float, str, float]]], rows: Mapping[str, int], clock: _Clock
) -> list[dict[str, Any]]:
    """Return moments of transfers for a network whose windows nobody knows."""
    found = []
    for way, colour, symbol, middle in (
        ("down", DOWN, "triangle-down", DOWN_AT[0]),
        ("up", UP, "triangle-up", UP_AT[0]),
    ):
        own = [
            (lane, time_s, carried)
            for lane, at in points.items()
            for time_s, its, carried in at
            if its == way
        ]
        found.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": f"bytes {way}",
                "x": [clock.at(time_s) for _, time_s, _ in own],
                "y": [rows[lane] + middle for lane, _, _ in own],
                "marker": {"symbol": symbol, "size": 9, "color": colour},
                "hovertext": [f"{size_text(carried)} {way}" for _, _, carried in own],
                "hoverinfo": "text",
            }
        )
    return found
