"""Run EMS-FL, or an asynchronous rival, over the simulated sky or Flower's own grid; saves and resumes."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid

from moe.experts import ExpertArrays, ExpertLayout
from moe.factors import label
from moe.tuning.memory_budget import tuned_expert_bytes, tuned_shared_bytes
from server.delivery.plan import catalogue_of, delivery_notes, delivery_of
from server.job import Job, adapter_bytes_per_expert, shared_adapter_bytes
from server.observer import Observer
from server.patient_grid import PatientGrid
from server.record.run_log import RunLog
from server.record.saving_pace import MOST_OF_THE_TIME, SavingPace
from server.record.state import load_state, save_state
from sim.grid.grid import SatelliteGrid
from sim.names import name_fault
from strategy.assignment import Assignment
from strategy.baselines.asynchronous import FedAsync, FedBuff
from strategy.delivery.messages import freight_bytes
from strategy.ems_fl import EmsFl
from strategy.serving import serving_values
from strategy.settings import EmsFlSettings, experts_that_fit
from strategy.staleness import discount_from_name
from strategy.state import EmsFlState
from strategy.wire.arrays import decode_arrays, encode_arrays

MAX_FAILURES = 5
"""Faults in a row after which a node is left alone for the rest of the run."""
POLL_INTERVAL_S = 1.0
"""Real seconds between two looks at a deployed grid; a SuperNode itself polls every 3 s."""


STRATEGIES: dict[str, type[EmsFl]] = {"ems-fl": EmsFl, "fedbuff": FedBuff, "fedasync": FedAsync}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run ended with.

    Parameters
    ----------
    values : ExpertArrays
        Server values of every tuned array: what devices go on from.
    merged : ExpertArrays
        What the merged model has of them; see `strategy.serving`.
    assignment : Assignment or None
        Who trained what; None if it never came to that, or for FedAvg.
    clock_s : float
        On the run's clock at the end.
    stop_reason : str
        Why it ended.
    relevance : dict[str, list[list[float]]]
        Cluster -> layer -> routing mass of each expert, over the devices that were heard.
    """

    values: ExpertArrays
    merged: ExpertArrays
    assignment: Assignment | None
    clock_s: float
    stop_reason: str
    relevance: dict[str, list[list[float]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What an earlier run of the same folder left behind: strategy state, sky, extras."""

    strategy: EmsFlState
    sky: dict[str, Any]
    extra: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Saved":
        """Return the saved state of a run folder; as :func:`server.record.state.load_state`."""
        strategy, sky, extra = load_state(folder)
        return cls(strategy=strategy, sky=sky, extra=extra)

    def check(self, job: Job) -> None:
        """Refuse a state that tunes other arrays than the job, such as one of an older version.

        Raises
        ------
        ValueError
            Naming some of them.
        """
        was = {key: value.shape for key, value in self.strategy.values.items()}
        now = {key: value.shape for key, value in job.initial.items()}
        if differing := sorted(key for key, _ in was.items() ^ now.items()):
            raise ValueError(
                f"the saved state does not hold the arrays that train.method {job.tuning.method!r} tunes in "
                f"this version; they differ in {', '.join(label(key) for key in differing[:3])}; start a new "
                "run, or go on with the version that began it"
            )


def run_ems_fl(job: Job, grid: Grid, log: RunLog, observer: Observer, saved: Saved | None) -> Outcome:
    """Run, or go on with, the job; saves its state after merges."""
    world, clock, expects, snapshot = _world(job, grid, log, observer, saved)
    earlier_runs = tuple(saved.extra.get("runs", ())) if saved else ()
    settings = replace(settings_from(job), earlier_runs=earlier_runs)
    catalogue = catalogue_of(job.config, job.path, job.fingerprint, travels=job.plan is None)
    for note in delivery_notes(job.config, catalogue, job.layout.layers, job.plan) if catalogue else ():
        log.say(note)
    pace = SavingPace(
        job.config.run.save_every_merges,
        merges=saved.strategy.merges if saved else 0,
        # A node may forget an update when it is asked for the next: what it sent is on the disk by then.
        share=MOST_OF_THE_TIME if job.plan is not None else math.inf,
    )

    def save(state: EmsFlState) -> None:
        if pace.is_due(state.merges):
            save_now(state)

    def save_now(state: EmsFlState) -> None:
        with pace.saving(state.merges):
            log.sync()
            extra: dict[str, Any] = {"log_offset": log.offset, "clock_s": clock()}
            if job.plan is None:
                extra["runs"] = [*earlier_runs, str(grid.run.run_id)]
            save_state(log.folder, state, sky=snapshot(), extra=extra)

    strategy = STRATEGIES[job.config.strategy](
        settings,
        clock=clock,
        expects=expects,
        on_event=observer.event,
        on_settled=save,
        delivery=delivery_of(job.config, catalogue),
        state=saved.strategy if saved else None,
    )

    if saved and job.plan is None:
        save_now(strategy.state)  # a run that is killed before it merges was here too

    def evaluate(merges: int, arrays: ArrayRecord) -> MetricRecord:
        values = decode_arrays(arrays)
        return observer.measure(
            values, merged_of(job, strategy.state, values), strategy.state.assignment, merges=merges,
            time_s=clock(),
        )  # fmt: skip

    max_merges = job.config.merge.max_merges
    evaluate_fn = evaluate if job.text.clusters else None
    strategy.start(world, encode_arrays(job.initial), max_merges, job.horizon_s, evaluate_fn=evaluate_fn)
    state = strategy.state
    save_now(state)
    if clock() >= job.horizon_s:
        reason = "the horizon was reached"
    else:
        reason = "max-merges was reached" if 0 < max_merges <= state.merges else "target-loss was reached"
    return Outcome(
        values=state.values,
        merged=merged_of(job, state, state.values),
        assignment=state.assignment,
        clock_s=clock(),
        stop_reason=reason,
        relevance=_relevance(state),
    )


def merged_of(job: Job, state: EmsFlState, values: ExpertArrays) -> ExpertArrays:
    """Return what the merged model has of the server's values."""
    hosts, take = state.hosts.values(), job.config.merge.take
    return serving_values(values, job.initial, state.assignment, hosts, job.layout.layers, take)


def _relevance(state: EmsFlState) -> dict[str, list[list[float]]]:
    """Return the routing mass of every cluster, layer and expert."""
    by_cluster: dict[str, list[Any]] = {}
    for profile in state.profiles.values():
        by_cluster.setdefault(profile.cluster, []).append(profile.mass)
    return {
        cluster: [np.sum(layer, axis=0).tolist() for layer in zip(*masses, strict=True)]
        for cluster, masses in by_cluster.items()
    }


def settings_from(job: Job) -> EmsFlSettings:
    """Return the strategy's settings for a job."""
    config = job.config
    deployed = job.plan is None
    return EmsFlSettings(
        layout=_layout_on_devices(job),
        fingerprint=job.fingerprint,
        clusters=job.clusters or None,
        min_clusters=config.population.clusters,
        name_fault=name_fault,
        max_experts=_expert_limit(job),
        one_of_each_bytes=_one_of_each_bytes(job),
        # The rivals do not split.
        assign_method=config.assign.method if config.strategy == "ems-fl" else "all",
        is_provisional=config.assign.provisional,
        watch=config.assign.watch if config.strategy == "ems-fl" else 0.0,
        stay=config.assign.stay,
        late=config.assign.late,
        discount=discount_from_name(
            config.merge.discount, a=config.merge.discount_a, b=config.merge.discount_b
        ),
        server_learning_rate=config.merge.server_learning_rate,
        buffer_size=config.merge.buffer_size,
        count_whole_cluster=config.merge.count == "cluster",
        robust=config.merge.robust,
        profile_wait_s=config.profile.wait_hours * 3600.0,
        merge_wait_s=config.merge.wait_s,
        min_updates=config.merge.min_updates,
        evaluate_every_merges=config.evaluate.every_merges,
        target_loss=config.merge.target_loss,
        max_failures=MAX_FAILURES,
        poll_interval_s=POLL_INTERVAL_S if deployed else 0.0,
        seed=config.seed,
    )


def _expert_limit(job: Job) -> Callable[[str, int], int]:
    """Return how many experts of a layer a cluster can tune, send and may have."""
    adapter_bytes = adapter_bytes_per_expert(job) if job.config.assign.link_budget and job.plan else 0
    most = job.config.assign.experts_per_layer
    one_of_each_bytes = _one_of_each_bytes(job)

    def limit(cluster: str, memory_bytes: int) -> int:
        fit = experts_that_fit(
            _layout_on_devices(job),
            memory_bytes,
            one_of_each_bytes=one_of_each_bytes,
            adapter_bytes=adapter_bytes,
            window_bytes=_window_bytes(job, cluster),
        )
        return min(fit, most) if most else fit

    return limit


def _layout_on_devices(job: Job) -> ExpertLayout:
    """Return the layout with the adapters of tuned shared parts counted among what every device holds."""
    adapters = tuned_shared_bytes(job.layout, job.tuning, job.config.train.optimizer)
    return replace(job.layout, shared_bytes=job.layout.shared_bytes + adapters)


def _one_of_each_bytes(job: Job) -> int:
    """Return what one expert of every layer holds on a device while it is tuned."""
    return sum(tuned_expert_bytes(job.layout, job.tuning, job.config.train.optimizer).values())


def _window_bytes(job: Job, cluster: str) -> float:
    """Return what the median contact carries of experts for one node of the cluster when all send."""
    if job.plan is None:
        return 0.0
    carried = [contact.capacity_bytes("up") for contact in job.plan.contacts[cluster]]
    of_node = float(np.median(carried)) / len(job.population.cluster_nodes(cluster))
    return max(0.0, of_node - shared_adapter_bytes(job))


def _world(
    job: Job, grid: Grid, log: RunLog, observer: Observer, saved: Saved | None
) -> tuple[Grid, Callable[[], float], Callable[[str], bool] | None, Callable[[], dict[str, Any]]]:
    """Return the grid to run on, its clock, what it expects, and how to snapshot it."""
    if job.plan is None:
        if saved:
            # Messages in flight ended with Flower's run: their nodes are asked anew, and send what they kept.
            saved.strategy.begin_anew()
        deployed, clock = deployed_grid(job, grid, observer, saved)
        return deployed, clock, None, dict
    sky = satellite_grid(job, grid, log, observer, visibility="in-view")
    if saved:
        sky.restore(saved.sky)
    return sky, lambda: sky.now_s, sky.expects, sky.snapshot


def deployed_grid(
    job: Job, grid: Grid, observer: Observer, saved: Saved | None = None
) -> tuple[PatientGrid, Callable[[], float]]:
    """Return Flower's grid over a real link, made patient, and the clock of the run."""
    clock = _since(time.monotonic() - (saved.extra["clock_s"] if saved else 0.0))
    silence_s = job.config.run.silence_s + job.config.train.steps_wall_budget_s
    deployed = PatientGrid(
        grid, on_event=observer.event, clock=clock, horizon_s=job.horizon_s, silence_s=silence_s
    )
    for node_id, profile in saved.strategy.profiles.items() if saved else ():
        deployed.remember(node_id, profile.devices)
    return deployed, clock


def satellite_grid(
    job: Job, grid: Grid, log: RunLog, observer: Observer, *, visibility: str
) -> SatelliteGrid:
    """Return the simulated sky of a job over Flower's grid."""
    assert job.plan is not None
    return SatelliteGrid(
        grid,
        job.plan,
        job.population,
        min_steps=job.config.train.min_steps,
        max_steps=job.config.train.max_steps,
        visibility="all" if visibility == "all" else "in-view",
        on_event=observer.event,
        on_wait=log.waiting,
        is_grouped=job.config.run.grouped,
        freight=freight_bytes,
    )


def _since(began_s: float) -> Callable[[], float]:
    return lambda: time.monotonic() - began_s
