"""Run Flower's own FedAvg over the same world: every expert, everybody, a barrier in every round."""

from collections.abc import Callable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid

from server.ems_fl_run import Outcome, deployed_grid, satellite_grid
from server.job import Job
from server.observer import Observer
from server.record.run_log import RunLog
from server.screen.quiet_flower import quiet_flower
from strategy.baselines.synchronous import BoundedFedAvg, HorizonReachedError, Round
from strategy.wire.arrays import decode_arrays, encode_arrays


def run_fedavg(job: Job, grid: Grid, log: RunLog, observer: Observer) -> Outcome:
    """Run the rounds that fit into the horizon."""
    settings = job.config.fedavg
    world, clock, num_nodes = _world(job, grid, log, observer)
    values = dict(job.initial)
    last = Round(number=0, asked=0, answered=0, failures={}, is_cut=False, train_loss=None)

    def note(done: Round) -> None:
        nonlocal last
        last = done
        for node_id, reason in done.failures.items():
            observer.event(
                {"event": "refused", "time_s": clock(), "node": node_id, "reason": reason, "failures": 1}
            )
        observer.event(_round_event(done, clock()))

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        nonlocal values
        if server_round and (last.is_cut or not last.answered):
            return None  # nothing was averaged: the same model has been measured
        values = decode_arrays(arrays)
        if not job.text.clusters:
            return None
        metrics = observer.measure(values, values, None, merges=server_round, time_s=clock())
        observer.event({"event": "evaluated", "time_s": clock(), "merges": server_round} | _plain(metrics))
        return metrics

    strategy = BoundedFedAvg(
        num_nodes=num_nodes,
        fraction=settings.fraction,
        seed=job.config.seed,
        server_learning_rate=job.config.merge.server_learning_rate,
        proximal_mu=settings.proximal_mu,
        is_over=lambda: clock() >= job.horizon_s,
        on_round=note,
        on_wait=log.waiting,
    )
    try:
        with quiet_flower():
            strategy.start(
                world,
                encode_arrays(job.initial),
                num_rounds=settings.rounds,
                timeout=job.horizon_s,
                train_config=ConfigRecord({"reply-with": "values"}),
                evaluate_fn=evaluate,
            )
    except HorizonReachedError:
        pass  # said in the reason
    reason = stop_reason(last, settings.rounds)
    return Outcome(values=values, merged=values, assignment=None, clock_s=clock(), stop_reason=reason)


def stop_reason(last: Round, num_rounds: int) -> str:
    """Return why the rounds ended and how many are done."""
    if last.is_cut:
        return (
            f"the horizon was reached: {last.number - 1} of {num_rounds} rounds are done, and round "
            f"{last.number} was cut when {last.answered} of {last.asked} nodes had answered (nothing of it "
            "is kept)"
        )
    if last.number < num_rounds:
        return f"the horizon was reached: {last.number} of {num_rounds} rounds are done"
    return f"{num_rounds} of {num_rounds} rounds are done"


def _world(job: Job, grid: Grid, log: RunLog, observer: Observer) -> tuple[Grid, Callable[[], float], int]:
    """Return the grid to run on, its clock, and how many nodes a round needs."""
    if job.plan is None:
        deployed, clock = deployed_grid(job, grid, observer)
        # Who hosts what is not known beforehand; a node has devices of one cluster.
        return deployed, clock, job.config.population.clusters
    sky = satellite_grid(job, grid, log, observer, visibility="all")
    return sky, lambda: sky.now_s, len(job.population.nodes)


def _round_event(done: Round, time_s: float) -> dict[str, Any]:
    return {
        "event": "round",
        "time_s": time_s,
        "round": done.number,
        "asked": done.asked,
        "answered": done.answered,
        "is_cut": done.is_cut,
        "train_loss": done.train_loss,
    }


def _plain(metrics: MetricRecord) -> dict[str, Any]:
    return dict(metrics)
