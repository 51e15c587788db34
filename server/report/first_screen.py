"""The first screen of the page: what was tuned on what, whether it paid, in words and four large numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from server.record.run_log import day_clock
from server.report.charts.chart import scaled, size_text
from server.report.charts.curves import mean_of
from server.report.run_files import RunFiles
from server.report.screen import near_uniform_gains, near_uniform_warning

NONE = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """One large number: what it is, itself, and what to compare it with."""

    what: str
    value: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Held-out losses of the clusters before and after, by one measure."""

    before: Mapping[str, float]
    after: Mapping[str, float]

    @property
    def gains(self) -> dict[str, float]:
        """How far the loss of each cluster fell."""
        return {name: self.before[name] - loss for name, loss in self.after.items() if name in self.before}


def losses(run: RunFiles, measure: str) -> Losses | None:
    """Return the losses by a measure, ``"own"`` or ``"merged"``: of the end, or of what there is so far.

    None where it was not measured twice.
    """
    if run.summary:
        pairs = {
            c.name: (getattr(c, f"{measure}_loss_before"), getattr(c, f"{measure}_loss_after"))
            for c in run.summary.clusters
        }
        if measure == "merged" and run.summary.server_loss_before is not None:
            pairs["the server"] = run.summary.server_loss_before, run.summary.server_loss_after
        known = {name: pair for name, pair in pairs.items() if None not in pair}
    else:
        points = [getattr(point, measure) for point in run.history.evaluations if getattr(point, measure)]
        if len(points) < 2:
            return None
        known = {name: (points[0][name], loss) for name, loss in points[-1].items() if name in points[0]}
    if not known:
        return None
    return Losses(
        before={name: before for name, (before, _) in known.items()},
        after={name: after for name, (_, after) in known.items()},
    )


def heading(run: RunFiles) -> str:
    """Return what was tuned on what, in one line."""
    model = run.scene.model.name if run.scene else str(run.settings.get("model.name", "a model"))
    model = "the demo model" if model == "demo" else model.rstrip("/").rpartition("/")[2]
    devices = sum(run.num_devices.values()) if run.scene else run.settings.get("population.devices")
    who = f"{devices:,} devices" if isinstance(devices, int) else "devices"
    sky = bool(run.settings.get("sky.simulated", True))
    where = "that satellites pass over" if sky else "on a real network"
    return f"{model[:1].upper()}{model[1:]}, tuned on {who} in {plural(len(run.clusters), 'cluster')} {where}"


def lead(run: RunFiles) -> str:
    """Return what happened, in a few sentences."""
    parts = []
    verb = {"ended": "took", "going": "has run for", "stopped": "ran for"}[run.state]
    clock = "simulated" if run.settings.get("sky.simulated", True) else "real"
    strategy = {"ems-fl": "EMS-FL", "fedavg": "FedAvg"}.get(run.strategy, run.strategy)
    parts.append(f"{strategy} {verb} {span_text(run.end_s)} of {clock} time" + _why(run) + ".")
    if experts := _experts_sentence(run):
        parts.append(experts)
    merges = run.history.kinds["merged"]
    if merges:
        updates = sum(merge.num_updates for merge in run.history.merges)
        parts.append(f"{plural(merges, 'merge')} took in {plural(updates, 'update')}.")
    found = [
        (name, losses(run, measure))
        for measure, name in (("own", "the clusters' own sub-models"), ("merged", "the merged model"))
    ]
    fell = [(name, pair) for name, pair in found if pair is not None]
    if fell:
        said = [f"{name} {direction(mean_of(pair.after) - mean_of(pair.before))}" for name, pair in fell]
        parts.append(f"On text that no device has seen, the loss of {' and that of '.join(said)}.")
    if run.summary and run.summary.comparison:
        parts.append(f"{run.summary.comparison}.")
    return " ".join(parts)


def _why(run: RunFiles) -> str:
    if run.state == "going":
        return " and goes on"
    return f", until {run.summary.stop_reason}" if run.summary else " and then stopped, or still goes on"


def _experts_sentence(run: RunFiles) -> str:
    if run.scene is None:
        return ""
    held = [run.experts_per_layer(name) for name in run.clusters]
    counts = [count for layers in held for count in layers]
    if not counts:
        return ""
    total = max(run.scene.model.num_experts)
    some = str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    return f"Each cluster tuned {some} of the {total} experts of every layer on text of its own."


def numbers(run: RunFiles) -> list[Number]:
    """Return the four large numbers."""
    return [
        _loss_number("Own sub-models' loss", losses(run, "own")),
        _loss_number("Merged model's loss", losses(run, "merged")),
        _held(run),
        _sent(run),
    ]


def _loss_number(what: str, pair: Losses | None) -> Number:
    if pair is None:
        return Number(what=what, value=NONE, detail="not measured, or not twice yet")
    before, after = mean_of(pair.before), mean_of(pair.after)
    perplexity = math.exp(after - before) - 1.0
    return Number(
        what=what,
        value=f"{before:.2f} → {after:.2f}",
        detail=f"nats a token, mean over clusters; perplexity {perplexity:+.1%}".replace("%", " %").replace(
            "-", "−"
        ),
    )


def _held(run: RunFiles) -> Number:
    what = "Held on a device"
    held = [layers for name in run.clusters if (layers := run.experts_per_layer(name))]
    if run.scene is None or not held:
        return Number(what=what, value=NONE, detail="not known here")
    model = run.scene.model
    whole = model.bytes_held(model.num_experts)
    most = max(model.bytes_held(layers) for layers in held)
    return Number(
        what=what,
        value=times_less(whole, most),
        detail=f"{size_text(most)} of weights at most; the whole model has {size_text(whole)}",
    )


def _sent(run: RunFiles) -> Number:
    what = "Sent over the link"
    if run.summary:
        spent = run.summary.spent.bytes_down + run.summary.spent.bytes_up
        whole = run.summary.full_model.bytes_down + run.summary.full_model.bytes_up
    elif run.scene:
        spent = round(run.history.num_bytes)
        model = run.scene.model
        whole = run.history.train_messages * model.bytes_held(model.num_experts)
    else:
        return Number(what=what, value=size_text(run.history.num_bytes), detail="both ways")
    if not spent or not whole:
        return Number(what=what, value=size_text(spent), detail="both ways, so far")
    return Number(
        what=what,
        value=times_less(whole, spent),
        detail=f"{size_text(spent)} both ways; {size_text(whole)} if each message carried the whole model",
    )


def alarm(run: RunFiles) -> str:
    """Return what is said in red: that the run allowed a checkpoint's own code; empty if it did not."""
    if not run.settings.get("model.trust-remote-code"):
        return ""
    return (
        f"{run.name} was allowed to run code that came with the checkpoint {run.settings.get('model.name')} "
        "(model.trust-remote-code), on the server and on every device."
    )


def warnings(run: RunFiles) -> list[str]:
    """Return what a person should know before believing the numbers."""
    if run.summary:
        return [text[:1].upper() + text[1:] + "." for text in run.summary.warnings]
    assigned = run.history.assignment
    text = near_uniform_warning(near_uniform_gains(assigned)) if assigned else ""
    return [text[:1].upper() + text[1:] + "."] if text else []


def times_less(whole: float, part: float) -> str:
    """Return how much less a part is: ``"2.4 × less"``, or ``"the same"``."""
    ratio = whole / part
    if ratio < 1.005:
        return "the same" if ratio > 0.995 else f"{scaled(1 / ratio)} × more"
    return f"{ratio:,.0f} × less" if ratio >= 99.5 else f"{scaled(ratio)} × less"


def direction(change: float) -> str:
    """Return ``"fell by 0.12"``, ``"rose by 0.03"`` or ``"did not move"``."""
    if abs(change) < 0.0005:
        return "did not move"
    return f"{'fell' if change < 0 else 'rose'} by {abs(change):.3f}"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: ``"1 merge"``, ``"1,200 merges"``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def span_text(length_s: float) -> str:
    """Return a length of time in the unit that suits it."""
    if length_s < 120:
        return f"{length_s:.0f} s"
    if length_s < 7200:
        return f"{length_s / 60:.0f} min"
    if length_s <= 172_800:
        return f"{length_s / 3600:.3g} h"
    days, minutes = day_clock(length_s).split(" ")
    return f"{days} days {minutes} h"
