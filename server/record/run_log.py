"""What a run leaves behind while it runs: the event log, the curves, the timings, the lines on the screen.

``events.jsonl`` holds nothing of the wall clock, so the same seed writes the same bytes. Wall times go to
``timings.jsonl``, curves to ``curves/`` for TensorBoard.
"""

import json
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from moe.disk.writing import not_written
from scenario.settings.config import RunConfig, flat_config
from server.record.event_log import EventLog
from server.record.run_folder import check_resumable, create_run_folder, write_settings
from server.record.trackers import Trackers, tracker_names
from server.screen.ascii_screen import say

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

EVENTS_FILE = "events.jsonl"
TIMINGS_FILE = "timings.jsonl"
CURVES_FOLDER = "curves"

# The grid repeats itself every 3 s while it waits; after a longer pause the same words are a new wait.
SAME_WAIT_S = 10.0

WORKING = "working"
LOOK_EVERY_S = 0.25
"""Wall seconds between two looks at how long it has been silent, at most."""


class RunLog:
    """The log of one run; make it with `RunLog.create` or `RunLog.resume`, use it in a ``with`` block.

    A background thread prints a line whenever the run has been silent for ``run.heartbeat-s``, so that a
    person can tell a long step from a hung run.
    """

    def __init__(self, folder: Path, *, heartbeat_s: float, purge_step: int | None = None) -> None:
        self.folder = folder
        self._heartbeat_s = heartbeat_s
        self._purge_step = purge_step
        self._events = EventLog(folder / EVENTS_FILE)
        self._timings = (folder / TIMINGS_FILE).open("a", encoding="utf-8")
        self._writer: SummaryWriter | None = None
        self._trackers = Trackers([])
        self._lock = threading.Lock()
        self.awaits: Callable[[], str] = str
        """What the heartbeat adds while nothing in particular is done; by default nothing."""
        self._activity = WORKING
        self._activity_since_s = self._printed_s = time.monotonic()
        self._waited_s = 0.0
        self._closing = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="ems-fl-heartbeat", daemon=True)
        self._heart.start()

    @classmethod
    def create(cls, folder: Path, config: RunConfig) -> Self:
        """Make a new run's folder with its settings, and start its log.

        Raises
        ------
        ValueError
            If the folder is not empty or cannot be written, or a tracker will not start; nothing is left.
        """
        create_run_folder(folder, config)
        log = cls(folder, heartbeat_s=config.run.heartbeat_s)
        try:
            log._start_trackers(config)
        except BaseException:
            log.close()
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return log

    def _start_trackers(self, config: RunConfig) -> None:
        names = tracker_names(config.report.trackers)
        self._trackers = Trackers.start(names, self.folder, flat_config(config))

    @classmethod
    def resume(cls, folder: Path, config: RunConfig, *, offset: int, merges: int) -> Self:
        """Go on with the log of a run that was stopped.

        Parameters
        ----------
        folder : Path
            The run's folder.
        config : RunConfig
            Must agree with the settings the run was started with.
        offset : int
            `offset` when the state that is resumed was saved; later events are cut off.
        merges : int
            Merges in that state; later points of the curves are hidden.

        Raises
        ------
        ValueError
            If settings differ, the log does not reach ``offset``, or another process is writing it.
        """
        check_resumable(folder, config)
        log = cls(folder, heartbeat_s=config.run.heartbeat_s, purge_step=merges + 1)
        try:
            log._start_trackers(config)
            log._events.truncate(offset)
            write_settings(folder, config)
        except BaseException:
            log.close()
            raise
        return log

    # -- events ---------------------------------------------------------------------------------------

    @property
    def offset(self) -> int:
        """Bytes of the event log so far; what a saved state must remember."""
        return self._events.offset

    def event(self, record: Mapping[str, Any]) -> None:
        """Append one event; as `EventLog.append`."""
        self._events.append(record)

    def sync(self) -> None:
        """Force events and curves to the disk; call it before a state that remembers `offset` is saved."""
        self._events.sync()
        if self._writer is not None:
            with _written("the curves", self.folder / CURVES_FOLDER):
                self._writer.flush()

    # -- curves ---------------------------------------------------------------------------------------

    def scalar(self, tag: str, value: float, *, merges: int, time_s: float) -> None:
        """Add one point to a curve.

        Parameters
        ----------
        tag : str
            Name of the curve, such as ``"merged-loss/nairobi"``.
        value : float
            Finite.
        merges : int
            Merges so far: TensorBoard's step.
        time_s : float
            The run's clock. It is written as the point's wall time, so TensorBoard's "relative" axis shows
            hours of the run's clock.

        Raises
        ------
        ValueError
            If ``value`` is NaN or infinite.
        """
        if not math.isfinite(value):
            raise ValueError(f"curve {tag!r} must be finite, got {value} at merge {merges}")
        if self._writer is None:
            # Imports torch, which takes seconds: only a run that draws curves pays for it.
            from torch.utils.tensorboard import SummaryWriter

            with _written("the curves", self.folder / CURVES_FOLDER):
                self._writer = SummaryWriter(str(self.folder / CURVES_FOLDER), purge_step=self._purge_step)
        with _written("the curves", self.folder / CURVES_FOLDER):
            self._writer.add_scalar(tag, value, merges, walltime=time_s)
        self._trackers.log(tag, value, merges=merges, time_s=time_s)

    # -- the screen and the wall clock ----------------------------------------------------------------

    def say(self, text: str, time_s: float | None = None) -> None:
        """Print ``text``, after the run's clock as ``d hh:mm`` where ``time_s`` is given."""
        with self._lock:
            say(text if time_s is None else f"{day_clock(time_s)}  {text}")
            self._printed_s = time.monotonic()

    def waiting(self, text: str) -> None:
        """Note what is waited for; it is printed when the silence lasts. Fits ``SatelliteGrid.on_wait``."""
        now_s = time.monotonic()
        if text != self._activity or now_s - self._waited_s > SAME_WAIT_S:
            self._activity, self._activity_since_s = text, now_s
        self._waited_s = now_s

    @contextmanager
    def doing(self, text: str) -> Iterator[None]:
        """Say in the heartbeat what a block does, and write how many wall seconds it took if it succeeds."""
        before = self._activity, self._activity_since_s
        start_s = time.monotonic()
        self._activity, self._activity_since_s = text, start_s
        try:
            yield
        finally:
            self._activity, self._activity_since_s = before
        self.timing(text, time.monotonic() - start_s)

    def timing(self, what: str, wall_s: float) -> None:
        """Append one wall-clock time to ``timings.jsonl``."""
        with _written("the timings", self.folder / TIMINGS_FILE):
            self._timings.write(json.dumps({"wall_s": round(wall_s, 3), "what": what}) + "\n")
            self._timings.flush()

    def _beat(self) -> None:
        while not self._closing.wait(min(self._heartbeat_s / 10, LOOK_EVERY_S)):
            now_s = time.monotonic()
            if now_s - self._printed_s >= self._heartbeat_s:
                awaited = self.awaits() if self._activity == WORKING else ""
                text = f"... {self._activity} ({now_s - self._activity_since_s:.0f} s)"
                self.say(f"{text}: {awaited}" if awaited else text)

    # -- the end --------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the heartbeat and close every file; closing twice does nothing."""
        self._closing.set()
        self._heart.join()
        self._events.close()
        self._trackers.close()
        # As in `EventLog.close`: what a full disk refused was said when it was written.
        with suppress(OSError):
            self._timings.close()
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _written(what: str, path: Path) -> Iterator[None]:
    """Say of a line that the disk refuses what it belongs to."""
    try:
        yield
    except OSError as error:
        raise not_written(what, path, 0, error) from error


def day_clock(time_s: float) -> str:
    """Return a time since the start as days, hours and whole minutes: ``"1 02:03"``.

    Examples
    --------
    >>> day_clock(93_784.0)
    '1 02:03'
    """
    minutes = int(time_s // 60)
    return f"{minutes // 1440} {minutes // 60 % 24:02d}:{minutes % 60:02d}"
