"""From a finished run to its last screen."""

import time
from collections.abc import Mapping
from statistics import fmean

from moe.experts import ExpertArrays, ExpertId, held_with
from scenario.derive import SERVER
from scenario.settings.config import RunConfig
from server.delivery.plan import whole_bytes
from server.ems_fl_run import Outcome
from server.evaluate import Evaluator
from server.job import FLOAT32_BYTES, Job
from server.observer import OF_ITS_NODES, experts_per_layer
from server.report.ledger import Ledger
from server.report.rival import comparison
from server.report.screen import near_uniform_gains, near_uniform_warning
from server.report.summary import ClusterSummary, Cost, RunSummary, cost_of_messages
from strategy.assignment import assign_experts, captures

Losses = Mapping[str, float]

DRIFTED = (
    "clusters hold one another's text since data.drift-hours; losses before and after are on what they hold "
    "at the end"
)
BY_NODES = (
    "own losses are what each cluster's nodes measured on what they hold out, of the sub-models they were "
    "sent: at their first and at their last training, before it"
)
NO_SERVER_TEXT = 'the merged model was not measured: data.source is "none", and the server has no text'


def summarise(
    job: Job, outcome: Outcome, ledger: Ledger, evaluator: Evaluator, *, folder: str, began_wall_s: float
) -> RunSummary:
    """Return the summary of a run: losses measured now, from the first values and the last."""
    evaluator.turn_to(outcome.clock_s)
    has_drifted = job.text_at(outcome.clock_s) is not job.text
    merged_before, merged_after = _merged_losses(job, outcome, evaluator)
    own_before, own_after = _own_losses(job, outcome, ledger, evaluator)
    domains = job.domains(outcome.clock_s)
    by_nodes = bool(own_before) and not job.clusters
    about = _about_losses(job, has_drifted=has_drifted, by_nodes=by_nodes)
    assigned, is_stock = ledger.assignment, job.config.strategy == "fedavg"
    clusters = tuple(
        ClusterSummary(
            name=name,
            domain=domains.get(name, OF_ITS_NODES),
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
            merged_loss_before=merged_before.get(name),
            merged_loss_after=merged_after.get(name),
            **_accuracies(name, job, outcome, evaluator),
        )
        for name in job.clusters or ledger.accounts
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
        server_loss_before=merged_before.get(SERVER),
        server_loss_after=merged_after.get(SERVER),
        warnings=(*filter(None, [warning, *about]), *turned_away, *far),
        comparison=comparison(
            job.config,
            before=fmean(merged_before.values()),
            own=fmean(own_after.values()) if own_after else None,
            merged=fmean(merged_after.values()),
        )
        if merged_before
        else "",
    )


def _about_losses(job: Job, *, has_drifted: bool, by_nodes: bool) -> list[str]:
    """Return what a person should know of the losses: on which text, and what was not measured."""
    said = [DRIFTED] if has_drifted else []
    said += [BY_NODES] if by_nodes else []
    return said if job.text.clusters else [*said, NO_SERVER_TEXT]


def model_card(config: RunConfig, summary: RunSummary) -> dict[str, str]:
    """Return what the adapter's model card says of the run that made it."""
    is_known = config.population.known == "beforehand"
    sky = config.sky.plan_file or f"{config.sky.elements}, mask {config.sky.elevation_mask_deg:g} deg"
    return {
        "Strategy": summary.strategy,
        "Data": f"{config.data.source}, partitioned by {config.data.partitioner}"
        if is_known
        else f"of the nodes; the server measured on {config.data.source}",
        "Sky": f"{sky}, {config.sky.hours:g} h" if summary.is_simulated else "a real network",
        "Population": f"{config.population.devices} devices in {config.population.clusters} clusters"
        if is_known
        else f"nodes of {len(summary.clusters)} clusters, as they connected",
        "Seed": str(config.seed),
        "Held-out loss, own sub-models": _change(
            [(c.own_loss_before, c.own_loss_after) for c in summary.clusters]
        ),
        "Held-out loss, merged model": _change(
            [(c.merged_loss_before, c.merged_loss_after) for c in summary.clusters]
            if is_known
            else [(summary.server_loss_before, summary.server_loss_after)]
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


def _merged_losses(job: Job, outcome: Outcome, evaluator: Evaluator) -> tuple[Losses, Losses]:
    """Return the losses of the merged model before and after, by who holds the text; nothing where nobody."""
    if not job.text.clusters:
        return {}, {}
    return evaluator.merged(job.initial), evaluator.merged(outcome.merged)


def _own_losses(job: Job, outcome: Outcome, ledger: Ledger, evaluator: Evaluator) -> tuple[Losses, Losses]:
    """Return the losses of own sub-models before and after, by cluster: measured here, or by their nodes."""
    if not job.clusters:
        told = {name: pair for name in ledger.accounts if (pair := ledger.heldout_of(name)) is not None}
        return {name: first for name, (first, _) in told.items()}, {
            name: last for name, (_, last) in told.items()
        }
    experts = outcome.assignment.experts if outcome.assignment else {}

    def losses(values: ExpertArrays) -> Losses:
        return {name: evaluator.submodel(name, of_cluster, values) for name, of_cluster in experts.items()}

    return losses(job.initial), losses(outcome.values)


def _accuracies(cluster: str, job: Job, outcome: Outcome, evaluator: Evaluator) -> dict[str, float]:
    """Return the accuracies of a cluster that are asked for, by their names in the summary."""
    if not job.config.evaluate.choices or cluster not in job.text.clusters:
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
