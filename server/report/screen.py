"""The last screen of a run: what was learned, what it cost, what more would have cost.

Pure functions from a `server.report.summary.RunSummary`. The screen goes through Flower's log, which
knows no width and no colour: plain text, 100 columns, ASCII rules.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from typing import Any

from rich.box import Box
from rich.console import Console
from rich.table import Table

from server.record.run_log import day_clock
from server.report.summary import ClusterSummary, RunSummary

WIDTH = 100
WORST_NAMED = 3
"""Clusters that a warning names; of more it tells the number."""
NONE = "-"
"""Shown where there is no such number; a metric is never invented."""

LOSS_TITLE = "Held-out loss, nats a token: own sub-model, and the merged model under its full router"
ACCURACY_TITLE = "Held-out accuracy, choosing among all responses of the data: own sub-model, merged model"
TRAFFIC_TITLE = "What each cluster held (experts a layer), sent and did"
COST_TITLE = "Cost, beside the same messages with every expert's adapter, or with the whole model"
ASSIGNMENT_TITLE = "Experts a layer by cluster, and the share of its routing that they capture"

# Rules under the head and above the last row, and nothing else: it survives any font and any log.
RULES = Box("    \n    \n -- \n    \n -- \n -- \n    \n    \n", ascii=True)


def render_summary(summary: RunSummary) -> str:
    """Return the last screen as plain text, at most 100 columns wide."""
    clock = "simulated" if summary.is_simulated else "elapsed"
    lines = [
        f"{summary.strategy} ended: {summary.stop_reason}",
        f"{clock} {day_clock(summary.clock_s)} (d hh:mm), wall {duration(summary.wall_s)}",
        *(warning_text(text) for text in summary.warnings),
        *([] if summary.capture_kept is None else [_kept_text(summary.capture_kept)]),
        *([textwrap.fill(summary.comparison, WIDTH)] if summary.comparison else []),
        f"run folder: {summary.run_folder}",
    ]
    parts = (
        _titled(LOSS_TITLE, loss_table(summary)),
        *([_titled(ACCURACY_TITLE, accuracy_table(summary.clusters))] if _has_accuracy(summary) else []),
        _titled(TRAFFIC_TITLE, traffic_table(summary.clusters)),
        _titled(COST_TITLE, cost_table(summary)),
        "\n".join(lines) + "\n",
    )
    return "\n".join(parts)


def _kept_text(kept: float) -> str:
    return textwrap.fill(
        f"devices profiled without experts: the assignment keeps {kept:.1%} of the capture that the experts' "
        "own routing of the held-out text would give",
        WIDTH,
    )


def render_assignment(clusters: Sequence[ClusterSummary], near_uniform: Mapping[str, float]) -> str:
    """Return the table of who got what, with a warning for clusters whose routing is near uniform.

    Parameters
    ----------
    clusters : Sequence[ClusterSummary]
        With experts and captures.
    near_uniform : Mapping[str, float]
        Clusters whose capture is hardly above what a random assignment gives, and how many times that it is.
    """
    table = _table(
        "cluster",
        "domain",
        right=("experts", "capture", "random", "gain"),
    )
    for cluster in clusters:
        table.add_row(
            printable(cluster.name),
            printable(cluster.domain),
            experts_text(cluster.experts_per_layer),
            percent(cluster.capture),
            percent(cluster.random_capture),
            _ratio(cluster.capture, cluster.random_capture),
        )
    warning = near_uniform_warning(near_uniform)
    return _titled(ASSIGNMENT_TITLE, table) + (warning_text(warning) + "\n" if warning else "")


def near_uniform_gains(event: Mapping[str, Any]) -> dict[str, float]:
    """Return the clusters whose capture an assignment calls near uniform, with its ratio to random's."""
    return {name: event["capture"][name] / event["random_capture"][name] for name in event["near_uniform"]}


def near_uniform_warning(gains: Mapping[str, float]) -> str:
    """Return one sentence about clusters whose capture is near uniform; empty for none.

    Parameters
    ----------
    gains : Mapping[str, float]
        Their capture over what a random assignment gives.
    """
    if not gains:
        return ""
    worst = sorted(gains, key=gains.__getitem__)[:WORST_NAMED]
    who = ", ".join(printable(name) for name in worst)
    if len(gains) > WORST_NAMED:
        who = f"{len(gains)} clusters (the worst: {who})"
    return (
        f"the routing of {who} is near uniform over the experts, so few experts capture little of it: own "
        "sub-models learn their clusters' data, but the merged model gains nothing and may get worse "
        '(docs/results.md). Take the sub-models, or strategy = "fedavg" for one model; a base whose experts '
        "follow the domains, or more experts per cluster, would capture more"
    )


def warning_text(text: str) -> str:
    """Return a warning wrapped to the width of the screen."""
    return textwrap.fill(f"warning: {text}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def loss_table(summary: RunSummary) -> Table:
    """Return held-out losses before and after, by cluster and in the mean, and on the server's own text."""
    clusters = summary.clusters
    table = _table("cluster", "domain",
        right=("own before", "after", "change", "merged before", "after", "change"),
    )  # fmt: skip
    for cluster in clusters:
        own = cluster.own_loss_before, cluster.own_loss_after
        merged = cluster.merged_loss_before, cluster.merged_loss_after
        table.add_row(printable(cluster.name), printable(cluster.domain), *_losses(*own), *_losses(*merged))
    own_mean = _mean(c.own_loss_before for c in clusters), _mean(c.own_loss_after for c in clusters)
    merged_mean = _mean(c.merged_loss_before for c in clusters), _mean(c.merged_loss_after for c in clusters)
    table.add_section()
    table.add_row("mean", "", *_losses(*own_mean), *_losses(*merged_mean))
    if summary.server_loss_before is not None:
        of_server = _losses(summary.server_loss_before, summary.server_loss_after)
        table.add_row("the server", "its own text", *_losses(None, None), *of_server)
    return table


def accuracy_table(clusters: Sequence[ClusterSummary]) -> Table:
    """Return shares of held-out questions answered as the data does, by cluster and in the mean."""
    table = _table("cluster", "domain", right=("own before", "after", "merged before", "after"))
    measures = [f"{model}_accuracy_{when}" for model in ("own", "merged") for when in ("before", "after")]
    for cluster in clusters:
        shares = [percent(getattr(cluster, measure)) for measure in measures]
        table.add_row(printable(cluster.name), printable(cluster.domain), *shares)
    table.add_section()
    means = [percent(_mean(getattr(c, measure) for c in clusters)) for measure in measures]
    table.add_row("mean", "", *means)
    return table


def _has_accuracy(summary: RunSummary) -> bool:
    return any(cluster.merged_accuracy_after is not None for cluster in summary.clusters)


def traffic_table(clusters: Sequence[ClusterSummary]) -> Table:
    """Return experts, contacts, bytes and work, by cluster and in total."""
    table = _table(
        "cluster",
        right=("experts", "capture", "random", "contacts", "down", "up", "steps", "merges", "failed"),
    )
    for cluster in clusters:
        table.add_row(
            printable(cluster.name),
            experts_text(cluster.experts_per_layer),
            percent(cluster.capture),
            percent(cluster.random_capture),
            *_work([cluster]),
        )
    table.add_section()
    captures = _mean(c.capture for c in clusters), _mean(c.random_capture for c in clusters)
    table.add_row("all", "", *(percent(share) for share in captures), *_work(clusters))
    return table


def cost_table(summary: RunSummary) -> Table:
    """Return bytes and trainable parameters beside what sending more would have cost."""
    table = _table(
        "",
        right=("this run", "full adapter", "ratio", "full model", "ratio"),
    )
    rows = (("bytes down", "bytes_down", size), ("bytes up", "bytes_up", size),
            ("tuned parameters/device", "trainable_parameters", count))  # fmt: skip
    brought = sum(cluster.model_bytes_down for cluster in summary.clusters)
    for title, field, shown in rows:
        spent, adapter, model = (
            getattr(cost, field) for cost in (summary.spent, summary.full_adapter, summary.full_model)
        )
        if field == "bytes_down":
            spent -= brought
        table.add_row(
            title, shown(spent), shown(adapter), _ratio(adapter, spent), shown(model), _ratio(model, spent)
        )
    if brought:
        whole = summary.whole_model_bytes
        table.add_row("the model itself, down", size(brought), "", "", size(whole), _ratio(whole, brought))
    return table


def size(num_bytes: int) -> str:
    """Return a number of bytes in decimal units, three digits: ``"12.3 MB"``."""
    if num_bytes < 1000:
        return f"{num_bytes} B"
    return _scaled(num_bytes, ("kB", "MB", "GB", "TB", "PB"))


def count(number: int) -> str:
    """Return a count in decimal units, three digits: ``"1.23 M"``."""
    return str(number) if number < 1000 else _scaled(number, ("k", "M", "G", "T", "P"))


def percent(share: float | None) -> str:
    """Return a share as a percentage, or ``-``."""
    return NONE if share is None else f"{share:.1%}"


def duration(wall_s: float) -> str:
    """Return wall seconds as ``"4 min 03 s"``, or ``"7.5 s"`` below a minute."""
    if wall_s < 59.95:
        return f"{wall_s:.1f} s"
    minutes, seconds = divmod(round(wall_s), 60)
    return f"{minutes} min {seconds:02d} s"


def printable(name: str) -> str:
    """Return a name from someone's data without line breaks and control characters, for one cell."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def experts_text(experts_per_layer: Sequence[int]) -> str:
    """Return ``"2"`` if every layer has two experts, ``"1-3"`` if they differ, ``-`` for none."""
    if not experts_per_layer:
        return NONE
    fewest, most = min(experts_per_layer), max(experts_per_layer)
    return str(most) if fewest == most else f"{fewest}-{most}"


def _scaled(number: int, units: Sequence[str]) -> str:
    scaled, unit = number / 1000, 0
    # 999.95 would be shown as four digits: it belongs to the next unit.
    while scaled >= 999.5 and unit < len(units) - 1:
        scaled, unit = scaled / 1000, unit + 1
    digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
    return f"{scaled:.{digits}f} {units[unit]}"


def _losses(before: float | None, after: float | None) -> tuple[str, str, str]:
    change = NONE if before is None or after is None else f"{after - before:+.3f}"
    shown = [NONE if loss is None else f"{loss:.3f}" for loss in (before, after)]
    return shown[0], shown[1], change


def _work(clusters: Sequence[ClusterSummary]) -> tuple[str, ...]:
    return (
        str(sum(c.contacts for c in clusters)),
        size(sum(c.bytes_down for c in clusters)),
        size(sum(c.bytes_up for c in clusters)),
        str(sum(c.local_steps for c in clusters)),
        _sum(c.merges for c in clusters),
        _sum(c.failures for c in clusters),
    )


def _sum(counts: Iterable[int | None]) -> str:
    listed = list(counts)
    present = [count for count in listed if count is not None]
    return str(sum(present)) if len(present) == len(listed) else NONE


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean, or None if any value is missing: a mean over some would not compare."""
    listed = list(values)
    present = [value for value in listed if value is not None]
    return sum(present) / len(present) if present and len(present) == len(listed) else None


def _ratio(larger: float | None, smaller: float | None) -> str:
    if larger is None or not smaller:
        return NONE
    ratio = larger / smaller
    if ratio >= 99_999.5:
        return ">99999x"
    return f"{ratio:.1f}x" if ratio < 99.95 else f"{ratio:.0f}x"


def _table(*left: str, right: Sequence[str]) -> Table:
    table = Table(padding=(0, 1, 0, 0), header_style="", box=RULES, show_edge=False, pad_edge=False)
    for name in left:
        table.add_column(name, overflow="fold", min_width=10, max_width=24)
    for name in right:
        table.add_column(name, justify="right", vertical="bottom", no_wrap=True)
    return table


def _titled(title: str, table: Table) -> str:
    """Return a table as plain text under its title, without blanks at the end of lines."""
    # A domain may be called "[b]" or ":key:": names are text, not markup.
    console = Console(
        file=StringIO(), width=WIDTH, color_system=None, force_terminal=False, markup=False, emoji=False
    )
    with console.capture() as capture:
        console.print(table)
    return "\n".join([title, *(line.rstrip() for line in capture.get().splitlines())]) + "\n"
