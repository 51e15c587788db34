"""From a finished run to its last screen."""

import time
from collections.abc import Mapping
from statistics import fmean

from moe.experts import ExpertArrays, ExpertId, held_with
from scenario.settings.config import RunConfig
from server.delivery.plan import whole_bytes
from server.ems_fl_run import Outcome
from server.evaluate import Evaluator
from server.job import FLOAT32_BYTES, Job
from server.observer import experts_per_layer, text_at
from server.report.ledger import Ledger
from server.report.rival import comparison
from server.report.screen import near_uniform_gains, near_uniform_warning
from server.report.summary import ClusterSummary, Cost, RunSummary, cost_of_messages
from strategy.assignment import assign_experts, captures

DRIFTED = (
    "clusters hold one another's text since data.drift-hours; losses before and after are on what they hold "
    "at the end"
)


def summarise(
    job: Job, outcome: Outcome, ledger: Ledger, evaluator: Evaluator, *, folder: str, began_wall_s: float
) -> RunSummary:
    """Return the summary of a run: losses measured now, from the first values and the last."""
    evaluator.turn_to(outcome.clock_s)
    text = text_at(job, outcome.clock_s)
    has_drifted = text is not job.text
    merged_before, merged_after = evaluator.merged(job.initial), evaluator.merged(outcome.merged)
    own_before = _own_losses(job.initial, outcome, evaluator)
    own_after = _own_losses(outcome.values, outcome, evaluator)
    assigned, is_stock = ledger.assignment, job.config.strategy == "fedavg"
    clusters = tuple(
        ClusterSummary(
            name=name,
            domain=domain,
            experts_per_layer=_experts(job, ledger, name),
            capture=assigned["capture"].get(name) if assigned else None,
            random_capture=assigned["random_capture"].get(name) if assigned else None,
            contacts=len(ledger.accounts[name].rises_s),
            bytes_down=ledger.accounts[name].bytes_down,
            bytes_up=ledger.accounts[name].bytes_up,
            model_bytes_down=ledger.accounts[name].model_bytes_down,
            local_steps=_arrived_steps(job, ledger, name) if is_stock else ledger.accounts[name].local_steps,
            merges=None if is_stock else ledger.accounts[name].merges,
            failures=None if is_stock else ledger.accounts[name].failures,
            own_loss_before=own_before.get(name),
            own_loss_after=own_after.get(name),
            merged_loss_before=merged_before[name],
            merged_loss_after=merged_after[name],
            **_accuracies(name, job, outcome, evaluator),
        )
        for name, domain in zip(job.clusters, text.domains, strict=True)
    )
    warning = near_uniform_warning(near_uniform_gains(assigned)) if assigned else ""
    turned_away = [f"node {node} was refused: {why}" for node, why in ledger.turned_away.items()]
    far = [
        f"node {node}: {count} of its updates far longer than the others of their pass; merge.robust bounds "
        "what that does"
        for node, count in sorted(ledger.outliers.items())
    ]
    return RunSummary(
        strategy=job.config.strategy,
        clusters=clusters,
        spent=_spent(job, outcome, ledger),
        full_adapter=_as_if(ledger, job.adapter_parameters, FLOAT32_BYTES),
        full_model=_as_if(ledger, *_model_size(job)),
        clock_s=outcome.clock_s,
        wall_s=time.monotonic() - began_wall_s,
        stop_reason=outcome.stop_reason,
        run_folder=folder,
        is_simulated=job.plan is not None,
        whole_model_bytes=len(ledger.brought) * whole_bytes(job.path) if ledger.brought else 0,
        capture_kept=_capture_kept(job, outcome, evaluator),
        warnings=(*filter(None, [warning, DRIFTED if has_drifted else ""]), *turned_away, *far),
        comparison=comparison(
            job.config,
            before=fmean(merged_before.values()),
            own=fmean(own_after.values()) if own_after else None,
            merged=fmean(merged_after.values()),
        ),
    )


def model_card(config: RunConfig, summary: RunSummary) -> dict[str, str]:
    """Return what the adapter's model card says of the run that made it."""
    sky = config.sky.plan_file or f"{config.sky.elements}, mask {config.sky.elevation_mask_deg:g} deg"
    return {
        "Strategy": summary.strategy,
        "Data": f"{config.data.source}, partitioned by {config.data.partitioner}",
        "Sky": f"{sky}, {config.sky.hours:g} h" if summary.is_simulated else "a real network",
        "Population": f"{config.population.devices} devices in {config.population.clusters} clusters",
        "Seed": str(config.seed),
        "Held-out loss, own sub-models": _change(
            [(c.own_loss_before, c.own_loss_after) for c in summary.clusters]
        ),
        "Held-out loss, merged model": _change(
            [(c.merged_loss_before, c.merged_loss_after) for c in summary.clusters]
        ),
        **_accuracy_lines(summary),
    }


def _accuracy_lines(summary: RunSummary) -> dict[str, str]:
    """Return the mean accuracies, where they were measured."""
    lines = {}
    for model, name in (("own", "own sub-models"), ("merged", "merged model")):
        pairs = [
            (getattr(c, f"{model}_accuracy_before"), getattr(c, f"{model}_accuracy_after"))
            for c in summary.clusters
        ]
        if all(None not in pair for pair in pairs):
            before, after = (fmean(column) for column in zip(*pairs, strict=True))
            lines[f"Held-out accuracy, {name}"] = f"{before:.1%} before, {after:.1%} after"
    return lines


def _change(losses: list[tuple[float | None, float | None]]) -> str:
    known = [(before, after) for before, after in losses if before is not None and after is not None]
    if len(known) < len(losses):
        return "not measured for every cluster"
    before, after = (sum(column) / len(known) for column in zip(*known, strict=True))
    return f"{before:.3f} before, {after:.3f} after (nats a token, mean over clusters)"


def _own_losses(values: ExpertArrays, outcome: Outcome, evaluator: Evaluator) -> Mapping[str, float]:
    if outcome.assignment is None:
        return {}
    experts = outcome.assignment.experts
    return {name: evaluator.submodel(name, of_cluster, values) for name, of_cluster in experts.items()}


def _accuracies(cluster: str, job: Job, outcome: Outcome, evaluator: Evaluator) -> dict[str, float]:
    """Return the accuracies of a cluster that are asked for, by their names in the summary."""
    if not job.config.evaluate.choices:
        return {}
    none: tuple[ExpertId, ...] = ()
    models = {"merged": (none, outcome.merged)}
    if outcome.assignment is not None:
        models["own"] = (outcome.assignment.experts[cluster], outcome.values)
    return {
        f"{model}_accuracy_{when}": evaluator.accuracy(cluster, experts, values)
        for model, (experts, after) in models.items()
        for when, values in (("before", job.initial), ("after", after))
    }


def _capture_kept(job: Job, outcome: Outcome, evaluator: Evaluator) -> float | None:
    """Return what profiling without experts has kept of the capture; see `RunSummary`."""
    given, method = outcome.assignment, job.config.assign.method
    # Elsewhere what devices say of their data decides nothing.
    is_asked = job.config.strategy == "ems-fl" and method in ("optimal", "overlap")
    # And on real nodes the data are theirs, which the server does not know.
    if given is None or job.plan is None or not is_asked or not job.config.uses_stand_ins:
        return None
    layers = job.layout.layers
    mass = {name: rows for name, rows in evaluator.routing(job.initial).items() if name in given.experts}
    most = {
        name: max(sum(expert.layer == layer for expert in experts) for layer in layers)
        for name, experts in given.experts.items()
    }
    wished = assign_experts(mass, layers, most, method=method, seed=job.config.seed)
    return sum(captures(mass, layers, given).values()) / sum(wished.capture.values())


def _experts(job: Job, ledger: Ledger, cluster: str) -> tuple[int, ...]:
    if ledger.assignment is not None:
        return experts_per_layer(job, ledger.assignment, cluster)
    return tuple(job.layout.num_experts.values()) if job.config.strategy == "fedavg" else ()


def _arrived_steps(job: Job, ledger: Ledger, cluster: str) -> int:
    hosted = {node.node_id: len(node.device_ids) for node in job.population.nodes if job.plan}
    hosted |= ledger.num_hosted
    return sum(ledger.steps_by_node[node] * hosted.get(node, 0) for node in ledger.nodes_of(cluster))


def _spent(job: Job, outcome: Outcome, ledger: Ledger) -> Cost:
    accounts = ledger.accounts.values()
    if outcome.assignment is None:
        trainable = job.adapter_parameters if job.config.strategy == "fedavg" else 0
    else:
        trainable = max(
            sum(value.size for value in held_with(set(experts), job.initial).values())
            for experts in outcome.assignment.experts.values()
        )
    return Cost(
        bytes_down=sum(account.bytes_down for account in accounts),
        bytes_up=sum(account.bytes_up for account in accounts),
        trainable_parameters=trainable,
    )


def _as_if(ledger: Ledger, parameters: int, bytes_per_parameter: int) -> Cost:
    return cost_of_messages(
        messages_down=ledger.train_messages_down,
        messages_up=ledger.train_messages_up,
        parameters=parameters,
        bytes_per_parameter=bytes_per_parameter,
    )


def _model_size(job: Job) -> tuple[int, int]:
    width = job.layout.weight_bytes
    return job.layout.total_bytes // width, width
