"""What the run tells people while it goes: lines on the screen and curves, from the events."""

from collections.abc import Mapping
from typing import Any

from flwr.app import MetricRecord

from moe.experts import ExpertArrays
from server.evaluate import Evaluator
from server.job import Job
from server.record.run_log import RunLog
from server.report.live import LivePage, attempt
from server.report.screen import near_uniform_gains, render_assignment
from server.report.summary import ClusterSummary
from server.screen.awaited import Awaited
from server.screen.progress import Progress
from strategy.assignment import Assignment

OF_ITS_NODES = "its nodes' own"
"""What a text is about that the server does not know."""


class Observer:
    """Log every event, and say the ones a person waits for.

    Parameters
    ----------
    job : Job
        What is run.
    log : RunLog
        Where it is written.
    evaluator : Evaluator
        Held-out losses.
    page : LivePage or None
        The page that follows the run.
    """

    def __init__(self, job: Job, log: RunLog, evaluator: Evaluator, page: LivePage | None = None) -> None:
        self._job, self._log, self._evaluator, self._page = job, log, evaluator, page
        self._progress = Progress(
            log.say,
            num_devices=len(job.population.devices),
            devices_of={node.node_id: len(node.device_ids) for node in job.population.nodes},
            horizon_s=job.horizon_s,
            max_merges=job.config.merge.max_merges,
        )
        # A simulated sky says itself what it waits for.
        self._awaited = Awaited() if job.plan is None else None
        if self._awaited:
            log.awaits = self._awaited.text

    def event(self, event: Mapping[str, Any]) -> None:
        """Log one event of the sky or the strategy."""
        self._log.event(event)
        self._progress.event(event)
        if self._awaited:
            self._awaited.event(event)
        line = self._line(event)
        if line:
            self._log.say(line, event["time_s"])
        if event["event"] == "assigned":
            self._log.say(assignment_table(self._job, event))
        if event["event"] == "merged":
            self._log.scalar(
                f"train-loss/{event['cluster']}", mean_train_loss(event), merges=event["merges"],
                time_s=event["time_s"],
            )  # fmt: skip
            for update in event["updates"]:
                if "heldout_loss" in update:
                    tag = f"heldout-loss/node-{update['node']}"
                    self._log.scalar(
                        tag, update["heldout_loss"], merges=event["merges"], time_s=event["time_s"]
                    )
        if self._page is not None:
            self._page.note(event)
            if event["event"] == "evaluated":
                with self._log.doing("drawing the page"):
                    fault = attempt(self._page.refresh)
                if fault:
                    self._log.say(fault)

    def measure(
        self,
        values: ExpertArrays,
        merged_values: ExpertArrays,
        assignment: Assignment | None,
        *,
        merges: int,
        time_s: float,
    ) -> MetricRecord:
        """Evaluate the merged model and every cluster's own sub-model; returns the losses."""
        self._evaluator.turn_to(time_s)
        with self._log.doing("measuring held-out loss"):
            merged = self._evaluator.merged(merged_values)
            own = {
                name: self._evaluator.submodel(name, experts, values)
                for name, experts in (assignment.experts.items() if assignment else ())
                if name in merged
            }
        mean = sum(merged.values()) / len(merged)
        for tag, losses in (("merged-loss", merged), ("own-loss", own)):
            for name, loss in losses.items():
                self._log.scalar(f"{tag}/{name}", loss, merges=merges, time_s=time_s)
        self._log.scalar("merged-loss/mean", mean, merges=merges, time_s=time_s)
        own_text = f", own sub-models {sum(own.values()) / len(own):.3f}" if own else ""
        self._log.say(f"after {merges} merges: held-out loss merged {mean:.3f}{own_text}", time_s)
        metrics = MetricRecord({"loss": mean})
        metrics.update({f"merged-loss.{name}": loss for name, loss in merged.items()})
        metrics.update({f"own-loss.{name}": loss for name, loss in own.items()})
        return metrics

    def _line(self, event: Mapping[str, Any]) -> str:
        """Return what a person reads of an event; empty for the many small ones."""
        kind = event["event"]
        if kind == "merged":
            if not self._progress.wants_detail():
                return ""
            stale = [s for update in event["updates"] for s in update["staleness"].values()]
            return (
                f"{event['cluster']:<12} merge {event['merges']:>3}: {len(event['updates'])} updates, "
                f"staleness {_span(stale)}, train loss {mean_train_loss(event):.3f}{_heldout(event)}"
            )
        if kind == "round":
            loss = event["train_loss"]
            return f"round {event['round']}{_cut(event)}" + (
                f", train loss {loss:.3f}" if loss is not None else ""
            )
        if kind == "refused":
            return f"node {event['node']} refused ({event['failures']} in a row): {event['reason'][:400]}"
        if kind == "left-out":
            return (
                f"{event['cluster']} came after the assignment, and no layer has an expert that nobody has; "
                'assign.late = "anew" would assign all of them anew'
            )
        if kind == "lost":
            return (
                f"node {event['node']}: what it was asked is lost, and it is asked anew ({event['reason']})"
            )
        if kind == "outlier":
            return (
                f"{event['cluster']}: the update of node {event['node']} has norm {event['norm']:.3g}, the "
                f"median of its pass {event['median_norm']:.3g}"
            )
        if kind == "drifted":
            return (
                f"{event['cluster']}: its experts catch {event['capture']:.1%} of its data, "
                f"{event['capture_at_first']:.1%} at first; all are asked anew"
            )
        if kind == "assigned":
            missing, moved = event["not_heard"], event.get("moved")
            words = "experts assigned" if moved is None else f"experts assigned anew, {len(moved)} moved"
            return words + (f"; not heard and left out: {', '.join(missing)}" if missing else "")
        return ""


def assignment_table(job: Job, event: Mapping[str, Any]) -> str:
    """Return the table of an assignment, with its warnings."""
    domains = job.domains(event["time_s"])
    rows = [
        ClusterSummary(
            name=name,
            domain=domains.get(name, OF_ITS_NODES),
            experts_per_layer=experts_per_layer(job, event, name),
            capture=event["capture"][name],
            random_capture=event["random_capture"][name],
        )
        for name in job.clusters or event["experts"]
        if name in event["experts"]
    ]
    shared = [group for group in event["groups"] if len(group) > 1]
    note = "".join(f"more clusters than experts: {', '.join(group)} share theirs\n" for group in shared)
    return render_assignment(rows, near_uniform_gains(event)) + note


def experts_per_layer(job: Job, event: Mapping[str, Any], cluster: str) -> tuple[int, ...]:
    """Return how many experts of every MoE layer an assignment gives a cluster."""
    layers = [int(name.partition(".")[0]) for name in event["experts"].get(cluster, ())]
    return tuple(layers.count(layer) for layer in job.layout.layers) if layers else ()


def mean_train_loss(event: Mapping[str, Any]) -> float:
    """Return the mean training loss behind a merge, weighted by examples."""
    total = sum(update["num_examples"] for update in event["updates"])
    return float(sum(u["num_examples"] * u["train_loss"] for u in event["updates"]) / total)


def nodes_by_cluster(job: Job) -> dict[int, str]:
    """Return the cluster of every node that is known beforehand: those of a simulated sky."""
    return {node.node_id: node.cluster for node in job.population.nodes} if job.plan else {}


def _heldout(event: Mapping[str, Any]) -> str:
    """Return the losses that nodes measured on data of their own, of the sub-models they were sent."""
    losses = [update["heldout_loss"] for update in event["updates"] if "heldout_loss" in update]
    return f", held out by its nodes {sum(losses) / len(losses):.3f}" if losses else ""


def _cut(event: Mapping[str, Any]) -> str:
    """Return how many nodes answered in a round, and whether the horizon came before the others."""
    answered = f"{event['answered']} of {event['asked']} nodes answered"
    return f" was cut by the horizon: {answered}" if event["is_cut"] else f": {answered}"


def _span(numbers: list[int]) -> str:
    return str(min(numbers)) if min(numbers) == max(numbers) else f"{min(numbers)}-{max(numbers)}"
