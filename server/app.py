"""The ServerApp: read the configuration, prepare, run, report.

The algorithm is in ``strategy/ems_fl.py``, what it stands on in ``server/job.py``.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from moe.disk.layout import open_storage
from moe.export.adapter_targets import has_adapter
from moe.export.checkpoint import export_adapter, export_merged
from scenario.settings.config import RunConfig
from scenario.settings.reading import read_config
from server.ems_fl_run import Outcome, Saved, run_ems_fl
from server.evaluate import Evaluator
from server.exhibits.completions import completions
from server.exhibits.findings import findings_of
from server.exhibits.scene import scene_of
from server.fedavg_run import run_fedavg
from server.job import Job, prepare
from server.observer import Observer, nodes_by_cluster
from server.record.run_folder import RESUME_FILE, name_run_folder
from server.record.run_log import EVENTS_FILE, RunLog
from server.record.scene import Findings, write_findings, write_scene
from server.record.state import STATE_FILE
from server.record.trackers import tracker_names
from server.report.html_page import PAGE_FILE
from server.report.ledger import Ledger
from server.report.live import LivePage, attempt, final_page
from server.report.screen import render_summary
from server.report.summary import RunSummary, write_summary
from server.screen.ascii_screen import say
from server.screen.last_word import REFUSED, STOPPED, say_last
from server.summarise import model_card, summarise
from sim.grid.workers import WorkerOutOfMemoryError, WorkersLostError

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the app; what ends it is said in its own words, last of all."""
    try:
        run(grid, read_config(context.run_config))
    except ValueError as refusal:
        say_last(refusal, REFUSED)
        raise
    except (OSError, NothingLearnedError, WorkerOutOfMemoryError, WorkersLostError) as failure:
        say_last(failure, STOPPED)
        raise


class NothingLearnedError(RuntimeError):
    """A run ended without a single merge."""


def run(grid: Grid, config: RunConfig, workers: int = 0) -> Path:
    """Run one configuration and return its folder; ``workers`` other processes of this machine compute.

    Raises
    ------
    ValueError
        If something the user gave cannot be used; nothing has been written then.
    NothingLearnedError
        If the run ended without a single merge: nothing was learned.
    OSError
        If the disk failed, most often because it is full; says how to go on.
    """
    began_wall_s = time.monotonic()
    # One thread, as on the devices: the same numbers on any number of cores, and no two pools of
    # threads that wait for each other on a machine that also runs the workers.
    torch.set_num_threads(1)
    tracker_names(config.report.trackers)  # refused now, not after the models are made
    saved = Saved.read(Path(config.run.resume)) if config.run.resume else None
    job = prepare(config, say, workers)
    if saved is not None:
        saved.check(job)
    evaluator = Evaluator(config, job.path, job.tuning, job.text, job.text.clusters)
    with _open_log(config, saved) as log, _saying_how_to_go_on(log.folder):
        log.say(f"run folder: {log.folder}")
        scene = scene_of(
            config,
            job.population,
            job.plan,
            job.layout,
            domains=job.text.domains if job.clusters else (),
            horizon_s=job.horizon_s,
        )
        write_scene(log.folder, scene)
        page = LivePage(log.folder, scene) if config.report.page else None
        observer = Observer(job, log, evaluator, page)
        if config.strategy == "fedavg":
            outcome = run_fedavg(job, grid, log, observer)
        else:
            outcome = run_ems_fl(job, grid, log, observer, saved)
        with log.doing("exporting the adapter and measuring"):
            ledger = Ledger.read(log.folder / EVENTS_FILE, job.clusters, nodes_by_cluster(job))
            summary = summarise(
                job, outcome, ledger, evaluator, folder=str(log.folder), began_wall_s=began_wall_s
            )
            _export(job, outcome, log.folder, summary)
            write_findings(log.folder, _findings(job, outcome, evaluator))
        write_summary(log.folder, summary)
        if config.report.page:
            with log.doing("drawing the page"):
                fault = attempt(lambda: final_page(log.folder))
            log.say(fault or f"page: {log.folder / PAGE_FILE}")
        log.say(render_summary(summary))
        if not ledger.train_messages_up:
            raise NothingLearnedError(
                f"no device's update ever reached the server; {log.folder / EVENTS_FILE} says why. A longer "
                "sky.hours, a lower sky.elevation-mask-deg or a faster link gives devices more contact"
            )
        return log.folder


def _open_log(config: RunConfig, saved: Saved | None) -> RunLog:
    folder = name_run_folder(config)
    if saved is None:
        return RunLog.create(folder, config)
    return RunLog.resume(folder, config, offset=saved.extra["log_offset"], merges=saved.strategy.merges)


@contextmanager
def _saying_how_to_go_on(folder: Path) -> Iterator[None]:
    """Add to an error of the disk, or of a worker that died, what is left and how to go on."""
    try:
        yield
    except (WorkerOutOfMemoryError, WorkersLostError) as error:
        raise type(error)(
            f"{error}. If memory ran out, lower --workers, train.batch-size or model.kept-mb, or raise "
            "train.micro-batches. The run is saved up to its last state; go on with: flwr run . --stream "
            f"--run-config {folder / RESUME_FILE}"
        ) from error
    except OSError as error:
        way_on = "has saved no state yet; put that right, or set run.dir to another disk, and start again"
        if (folder / STATE_FILE).is_file():
            way_on = (
                "is saved up to its last state; put that right and go on with: flwr run . --stream "
                f"--run-config {quote(str(folder / RESUME_FILE))} (or move the folder to another disk, "
                "and set run.resume to its new place)"
            )
        raise OSError(f"{error}. The run in {folder} {way_on}") from error


def _findings(job: Job, outcome: Outcome, evaluator: Evaluator) -> Findings:
    """Return what the models say at the end, own sub-models where there are any."""
    own = outcome.assignment.experts if outcome.assignment and job.clusters else {}
    experts_of = own or dict.fromkeys(job.text.clusters, ())
    count = job.config.report.completions
    said = completions(evaluator, experts_of, job.initial, outcome.values, count=count)
    return findings_of(
        job.layout, job.tuning, job.initial, outcome.values, relevance=outcome.relevance, completions=said
    )


def _export(job: Job, outcome: Outcome, folder: Path, summary: RunSummary) -> None:
    is_adapter = job.tuning.method != "full" and has_adapter(open_storage(job.path))
    if is_adapter:
        about = model_card(job.config, summary)
        export_adapter(job.path, outcome.merged, job.tuning, folder / "adapter", about=about, replace=True)
        if outcome.merged is not outcome.values:
            own = {
                "What it is for": "the clusters' own sub-models; the merged model's is beside it, in adapter"
            }
            out = folder / "adapter-own"
            export_adapter(job.path, outcome.values, job.tuning, out, about=own | about, replace=True)
    # Full tuning, and a family that PEFT cannot adapt, have no adapter to take home: their merged
    # checkpoint is not a matter of choice.
    if job.tuning.method != "full" and not is_adapter:
        say("PEFT cannot adapt the experts of this family: taken home as a merged checkpoint")
    if job.config.run.export_merged or not is_adapter:
        export_merged(job.path, outcome.merged, job.tuning, folder / "merged", replace=True)
