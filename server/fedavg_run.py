"""Run Flower's own FedAvg over the same sky: every expert, everybody, a barrier in every round."""

import random
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid

from server.ems_fl_run import Outcome, satellite_grid
from server.job import Job
from server.observer import Observer
from server.record.run_log import RunLog
from strategy.baselines import fedavg
from strategy.messages import decode_arrays, encode_arrays


def run_fedavg(job: Job, grid: Grid, log: RunLog, observer: Observer) -> Outcome:
    """Run the rounds that fit into the horizon."""
    settings = job.config.fedavg
    # Flower samples nodes by Python's global generator.
    random.seed(job.config.seed)
    sky = satellite_grid(job, grid, log, observer, visibility="all")
    strategy = fedavg(num_nodes=len(job.population.nodes), fraction=settings.fraction)
    rounds_done = 0

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        nonlocal rounds_done
        if sky.is_over and rounds_done < server_round - 1:
            return None  # the horizon ended an earlier round: nothing was averaged since
        rounds_done = server_round
        metrics = observer.measure(decode_arrays(arrays), None, merges=server_round, time_s=sky.now_s)
        observer.event({"event": "evaluated", "time_s": sky.now_s, "merges": server_round} | _plain(metrics))
        return metrics

    result = strategy.start(
        sky,
        encode_arrays(job.initial),
        num_rounds=settings.rounds,
        timeout=job.horizon_s,
        train_config=ConfigRecord({"reply-with": "values"}),
        evaluate_fn=evaluate,
    )
    reason = "the horizon was reached" if sky.is_over else f"{settings.rounds} rounds are done"
    values = decode_arrays(result.arrays) if len(result.arrays) else dict(job.initial)
    return Outcome(values=values, assignment=None, clock_s=sky.now_s, stop_reason=reason)


def _plain(metrics: MetricRecord) -> dict[str, Any]:
    return dict(metrics)
