"""One ``flwr run --stream``: its output passed on line by line, and how Flower says it ended."""

from __future__ import annotations

import json
import math
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import IO

from server.screen.last_word import REFUSED

RUN_ID = re.compile(r"Successfully started run (\d+)")
STATUS_PATIENCE_S = 15.0
RUNNING = "running:"
# A run says something every 5 s unless run.heartbeat-s says otherwise.
UNHEARD_S = 10.0
GONE_PATIENCE_S = 10.0
"""How long the log may flow on after the app's process has ended; Flower itself waits for a minute."""
LOOK_EVERY_S = 2.0
GONE = (
    "the process that ran the app has ended without a word; it was killed, most often because the machine "
    "ran out of memory (see `dmesg`)"
)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
EMPTY_RECORD = re.compile(r"INFO\s*:\s*")
# What Flower 1.41 tells everybody about its own defaults and its own clean-up; not about this run.
NOISE = (
    "Since flwr 1.32, default simulated SuperNodes changed",
    "To change federation size, use the following command",
    "flwr federation simulation-config",
    "Manually terminating ClientAppActor",
    "Starting logstream for run_id",
    "fraction_evaluate is set to 0.0",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """How a run ended: whether Flower calls it completed, if not why, and whether its own output said so.

    ``refusal`` is why the app refused to run, in its own words; empty if it did not.
    """

    completed: bool
    reason: str
    timed_out: bool = False
    explained: bool = False
    refusal: str = ""


@dataclass(slots=True)
class _Heard:
    """What the output of a run has told so far."""

    run_id: str | None = None
    is_late: bool = False
    is_gone: bool = False
    refusal: list[str] = field(default_factory=list)

    def take(self, line: str) -> bool:
        """Take in a line; return whether it is one to show now. A refusal is kept for the end."""
        if found := RUN_ID.search(line):
            self.run_id = found.group(1)
        if self.refusal:
            self.refusal.append(line)
        elif REFUSED in line:
            self.refusal.append(line.partition(REFUSED)[2])
        return not (self.refusal or is_noise(line))


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowerRun:
    """A run to be started and followed.

    Attributes
    ----------
    command : sequence of str
        ``flwr run ... --stream``.
    list_command : sequence of str
        ``flwr ls --format json``; the run's id is added.
    environment : dict
        Environment of both.
    silence_s : float
        After this long without a line of output a line says that the run goes on, seconds.
    watch : callable, optional
        Gets every line of the output.
    timeout_s : float
        The longest the run may take, seconds; 0 means for ever.
    app_is_alive : callable, optional
        Whether a process of this machine runs the app now; without it nobody here can know.
    """

    command: Sequence[str]
    list_command: Sequence[str]
    environment: dict[str, str]
    silence_s: float
    watch: Callable[[str], None] | None = None
    timeout_s: float = 0.0
    app_is_alive: Callable[[], bool] | None = None

    def follow(self) -> RunEnd:
        """Start the run, pass its output on, and return how it ended.

        Ending the processes of a run that is out of time is the caller's part: most are not children of this
        one.
        """
        began_s = time.monotonic()
        process = subprocess.Popen(
            self.command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches the launcher only, which ends the run in order.
        )
        assert process.stdout is not None
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
        heard = self._pass_on(lines)
        if heard.is_late:
            return self._out_of_time()
        if heard.is_gone and heard.run_id is not None:
            end = self._end(heard.run_id, patience_s=0.0)
            return end if end.explained or end.completed else RunEnd(completed=False, reason=GONE)
        if code := process.wait():
            return RunEnd(completed=False, reason=f"`flwr run` exited with code {code}")
        if heard.run_id is None:
            return RunEnd(completed=False, reason="`flwr run` started no run")
        end = self._end(heard.run_id, patience_s=STATUS_PATIENCE_S)
        # A busy SuperLink cuts the log off; the run does not end with it.
        while end.reason.startswith(RUNNING) and (self.app_is_alive is None or self.app_is_alive()):
            if self.timeout_s and time.monotonic() - began_s > self.timeout_s:
                return self._out_of_time()
            _show("launch: Flower's log of the run has ended and the run has not; waiting for its end\n")
            end = self._end(heard.run_id, patience_s=self.silence_s)
        refusal = COLOUR.sub("", "".join(heard.refusal)).strip()
        return replace(end, refusal="" if end.completed else refusal)

    def _out_of_time(self) -> RunEnd:
        return RunEnd(completed=False, reason=f"not finished after {self.timeout_s:g} s", timed_out=True)

    def _pass_on(self, lines: queue.Queue[str | None]) -> _Heard:
        """Print the lines to the end, or until the run is out of time or its process is gone."""
        started_s = last_s = heard_s = time.monotonic()
        heard, life = _Heard(), _Life(self.app_is_alive)
        while True:
            now_s = time.monotonic()
            heard.is_late = bool(self.timeout_s) and now_s - started_s > self.timeout_s
            heard.is_gone = heard.run_id is not None and life.is_over(now_s)
            if heard.is_late or heard.is_gone:
                return heard
            is_unheard = heard.run_id is not None and now_s - heard_s >= UNHEARD_S
            if now_s - last_s >= self.silence_s or (is_unheard and last_s - heard_s < UNHEARD_S):
                _show(f"launch: {now_s - started_s:4.0f} s, {_silence(heard, now_s - heard_s)}\n")
                last_s = now_s
            try:
                line = lines.get(timeout=0.2)
            except queue.Empty:
                continue
            if line is None:
                return heard
            heard_s = time.monotonic()
            if self.watch is not None:
                self.watch(line)
            if heard.take(line):
                _show(line)
                last_s = heard_s

    def _end(self, run_id: str, patience_s: float) -> RunEnd:
        """Ask Flower for the final status of a run; the stream may end a moment earlier."""
        deadline_s = time.monotonic() + patience_s
        while True:
            answer = subprocess.run(
                [*self.list_command, "--run-id", run_id],
                env=self.environment,
                capture_output=True,
                text=True,
                check=False,
            )
            status, details = read_status(answer.stdout)
            if status.startswith("finished:") or time.monotonic() > deadline_s:
                break
            time.sleep(0.5)
        if status == "finished:completed":
            return RunEnd(completed=True, reason=status)
        if not status:
            return RunEnd(
                completed=False, reason=f"Flower does not say how run {run_id} ended: {answer.stderr.strip()}"
            )
        is_over = status.startswith("finished:")
        return RunEnd(completed=False, reason=f"{status}: {details}", explained=is_over)


class _Life:
    """Notices that the app's process, once seen, has been gone for a while.

    Parameters
    ----------
    is_alive : callable or None
        Whether it runs now; None: never over.
    """

    def __init__(self, is_alive: Callable[[], bool] | None) -> None:
        self._is_alive = is_alive
        self._was_seen = False
        self._looked_s = -math.inf
        self._gone_s = math.inf

    def is_over(self, now_s: float) -> bool:
        """Tell whether it was there and has not been for longer than the log takes to end by itself."""
        if self._is_alive is not None and now_s - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = now_s
            if self._is_alive():
                self._was_seen, self._gone_s = True, math.inf
            elif self._was_seen:
                self._gone_s = min(self._gone_s, now_s)
        return now_s - self._gone_s >= GONE_PATIENCE_S


def _silence(heard: _Heard, unheard_s: float) -> str:
    """Return what there is to say of a run that shows nothing."""
    if heard.run_id is None:
        return "Flower is starting"
    return f"not heard of the run for {unheard_s:.0f} s" if unheard_s >= UNHEARD_S else "the run goes on"


def is_noise(line: str) -> bool:
    """Tell whether a line says nothing about this run: a known remark, or a level without words."""
    return any(noise in line for noise in NOISE) or EMPTY_RECORD.fullmatch(COLOUR.sub("", line)) is not None


def read_status(answer: str) -> tuple[str, str]:
    """Return status and details of the run that ``flwr ls --format json`` printed; empty if unreadable."""
    try:
        run = json.loads(answer)["runs"][0]
        return str(run["status"]), str(run["status-details"])
    except (ValueError, LookupError, TypeError):
        return "", ""


def _read(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    """Put every line of a stream into the queue, and None at its end."""
    for line in stream:
        lines.put(line)
    lines.put(None)


def _show(text: str) -> None:
    """Print at once, also into a pipe; colours are for terminals only."""
    sys.stdout.write(text if sys.stdout.isatty() else COLOUR.sub("", text))
    sys.stdout.flush()
