"""The sections of one run's page, in order."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from scenario.settings.config import RunConfig, flat_config
from server.record.run_folder import CONFIG_FILE
from server.record.scene import Completion
from server.report import first_screen
from server.report.charts import curves, experts, timeline, windows, world
from server.report.charts.chart import Chart, scaled, size_text
from server.report.run_files import RunFiles
from server.report.screen import experts_text, percent

MOST_ROWS = 40
FILES = (
    "config.toml", "resume.toml", "events.jsonl", "summary.json", "timings.jsonl", "scene.json",
    "findings.json", "adapter/README.md", "adapter-own/README.md", "merged",
)  # fmt: skip
NONE = first_screen.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table; the first cell of a row is its heading, ``kind`` names its looks."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    note: str = ""
    kind: str = "figures"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A command, and what it does."""

    what: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part of the page."""

    key: str
    title: str
    lead: str = ""
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    completions: Sequence[Completion] = ()
    commands: Sequence[Block] = ()
    links: Sequence[str] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.charts or self.tables or self.completions or self.commands)


def sections_of(run: RunFiles) -> list[Section]:
    """Return the sections that have something to show."""
    history, scene, findings = run.history, run.scene, run.findings
    clock = "simulated" if run.settings.get("sky.simulated", True) else "real"
    gains = gains_of(run)
    flops = step_flops(run)
    own = first_screen.losses(run, "own") if run.summary else None
    loss = curves.loss_curves(
        history.evaluations, run.clusters, flops, clock=clock, own_before=own.before if own else None
    )
    found = [
        Section(key="clusters", title="Clusters", tables=cluster_tables(run)),
        Section(
            key="world",
            title="Where and when",
            lead="Move the slider through the run: who is in view, who trains, what crosses.",
            charts=world.world_charts(scene, history, gains, run.end_s)
            if scene and scene.is_simulated
            else [],
        ),
        Section(
            key="timeline",
            title="Timeline",
            charts=timeline.timeline(scene, history, run.clusters, run.end_s),
        ),
        Section(
            key="learning",
            title="Learning",
            lead="Two measures, always both: they need not agree.",
            charts=[*loss, *curves.train_losses(history.merges, run.clusters)],
        ),
        Section(
            key="merging",
            title="Merging and windows",
            charts=[*windows.staleness(history), *windows.windows(scene, history)],
        ),
        Section(key="experts", title="Experts", charts=_expert_charts(run)),
        Section(
            key="words",
            title="Words",
            lead="The most likely next words, one at a time, after beginnings that no device has seen: by "
            "each cluster's own sub-model, or the whole model where there are none.",
            completions=[_printable(c) for c in findings.completions] if findings else (),
        ),
        repeat_section(run),
    ]
    return [section for section in found if not section.is_empty]


def _printable(completion: Completion) -> Completion:
    """Return a completion without the blank lines that a model may go on and on with."""
    texts = {name: getattr(completion, name) for name in ("beginning", "original", "before", "after")}
    short = {name: re.sub(r"\n\s*\n\s*\n+", "\n\n", text.rstrip()) for name, text in texts.items()}
    return replace(completion, **{name: text or "(blank)" for name, text in short.items()})


def gains_of(run: RunFiles) -> Mapping[str, float]:
    """Return how far each cluster's loss fell, by its own sub-model where it has one."""
    pair = first_screen.losses(run, "own") or first_screen.losses(run, "merged")
    return pair.gains if pair else {}


def step_flops(run: RunFiles) -> dict[str, float]:
    """Return the FLOPs of one device step, by cluster; empty where sizes are not known."""
    if run.scene is None:
        return {}
    scene = run.scene
    held = {name: run.experts_per_layer(name) for name in run.clusters}
    return {
        name: scene.model.step_flops(layers, scene.tokens_per_step, all_weights=scene.all_weights)
        for name, layers in held.items()
        if layers
    }


def _expert_charts(run: RunFiles) -> list[Chart]:
    charts = experts.capture(run.history.assignment, run.clusters)
    if run.findings and run.scene:
        charts += experts.moved(run.findings, run.scene.model)
        charts += experts.relevance(run.findings, run.scene.model, run.history.assignment, run.clusters)
    return charts


def cluster_tables(run: RunFiles) -> list[Table]:
    """Return the table of the clusters."""
    own, merged = first_screen.losses(run, "own"), first_screen.losses(run, "merged")
    if not run.clusters:
        return []
    named = run.scene if run.scene and run.scene.clusters else run.summary
    domains = {cluster.name: cluster.domain for cluster in named.clusters} if named else {}
    devices = run.num_devices
    done = {c.name: c for c in run.summary.clusters} if run.summary else {}
    assigned = run.history.assignment or {"capture": {}, "random_capture": {}}
    rows = []
    for name in run.clusters[:MOST_ROWS]:
        of_merges = sum(merge.cluster == name for merge in run.history.merges)
        layers = run.experts_per_layer(name) or (done[name].experts_per_layer if name in done else ())
        rows.append(
            [
                name,
                domains.get(name, NONE),
                f"{devices[name]:,}" if name in devices else NONE,
                experts_text(layers) if layers else NONE,
                *_change(own, name),
                *_change(merged, name),
                _share(assigned["capture"].get(name)),
                _share(assigned["random_capture"].get(name)),
                str(sum(traffic.is_used for traffic in run.history.passes.get(name, {}).values())),
                size_text(run.history.crossed[name, "down"]),
                size_text(run.history.crossed[name, "up"]),
                scaled(run.history.steps[name]),
                str(of_merges),
            ]
        )
    head = (
        "cluster", "text", "devices", "experts a layer", "own loss", "change", "merged loss", "change",
        "capture", "at random", "contacts used", "down", "up", "device steps", "merges",
    )  # fmt: skip
    left = len(run.clusters) - len(rows)
    note = (
        "Loss: held-out, after the run, nats a token. Capture: share of the cluster's routing on its experts."
    )
    return [
        Table(
            head=head,
            rows=rows,
            note=note + (f" {left} more clusters are left out." if left else ""),
            kind="clusters",
        ),
        *_accuracy_tables(run),
    ]


def _accuracy_tables(run: RunFiles) -> list[Table]:
    """Return the table of accuracies, where a run measured them."""
    clusters = run.summary.clusters[:MOST_ROWS] if run.summary else ()
    if all(cluster.merged_accuracy_after is None for cluster in clusters):
        return []
    rows = [
        [c.name, *map(_share, (c.own_accuracy_before, c.own_accuracy_after)),
         *map(_share, (c.merged_accuracy_before, c.merged_accuracy_after))]
        for c in clusters
    ]  # fmt: skip
    return [
        Table(
            head=("cluster", "own before", "after", "merged before", "after"),
            rows=rows,
            title="Held-out questions answered as the data does",
            note="The likeliest of all responses in the data is the answer (evaluate.choices).",
        )
    ]


def _share(share: float | None) -> str:
    return NONE if share is None else percent(share).replace("%", " %")


def _change(pair: first_screen.Losses | None, name: str) -> tuple[str, str]:
    if pair is None or name not in pair.after:
        return NONE, NONE
    change = f"{pair.after[name] - pair.before[name]:+.3f}".replace("-", "−")
    return f"{pair.after[name]:.3f}", change


def repeat_section(run: RunFiles) -> Section:
    """Return how to repeat the run: commands, settings that are not the defaults, versions, files."""
    config = run.folder.resolve() / CONFIG_FILE
    defaults = flat_config(RunConfig())
    changed = [
        (key, toml(value), toml(defaults[key]) if key in defaults else "not a setting of this version")
        for key, value in run.settings.items()
        if key not in defaults or defaults[key] != value
    ]
    tables = []
    if run.settings:
        seed = f"Seed {run.settings.get('seed', '?')}."
        tables.append(
            Table(
                head=("setting", "here", "default"),
                rows=changed,
                title="Settings that are not the defaults",
                note=f"{seed} {run.made_with}.",
                kind="text",
            )
        )
    commands = []
    if run.settings:
        commands.append(
            Block(
                what="The same run again, which writes the same events:",
                text=f"ems-fl run -c {shlex.quote(str(config))}",
            )
        )
    if run.state == "stopped":
        commands.append(Block(what="Go on with it:", text=f"ems-fl resume {shlex.quote(str(config.parent))}"))
    commands.append(Block(what="This page again:", text=f"ems-fl report {shlex.quote(str(config.parent))}"))
    links = [name for name in FILES if (run.folder / name).exists()]
    return Section(key="repeat", title="How to repeat it", tables=tables, commands=commands, links=links)


def toml(value: object) -> str:
    """Return a setting as people write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return (
        f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
    )
