"""One ``flwr run --stream``: its output passed on line by line, and how Flower says it ended."""

from __future__ import annotations

import json
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

RUN_ID = re.compile(r"Successfully started run (\d+)")
STATUS_PATIENCE_S = 15.0
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
EMPTY_RECORD = re.compile(r"INFO\s*:\s*")
# What Flower 1.41 tells everybody about its own defaults and its own clean-up; not about this run.
NOISE = (
    "Since flwr 1.32, default simulated SuperNodes changed",
    "To change federation size, use the following command",
    "flwr federation simulation-config",
    "Manually terminating ClientAppActor",
    "Starting logstream for run_id",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """How a run ended: whether Flower calls it completed, if not why, and whether its own output said so."""

    completed: bool
    reason: str
    timed_out: bool = False
    explained: bool = False


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
    """

    command: Sequence[str]
    list_command: Sequence[str]
    environment: dict[str, str]
    silence_s: float
    watch: Callable[[str], None] | None = None
    timeout_s: float = 0.0

    def follow(self) -> RunEnd:
        """Start the run, pass its output on, and return how it ended.

        Ending the processes of a run that is out of time is the caller's part: most are not children of this
        one.
        """
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
        run_id = self._pass_on(lines)
        if run_id == "timeout":
            return RunEnd(completed=False, reason=f"not finished after {self.timeout_s:g} s", timed_out=True)
        if code := process.wait():
            return RunEnd(completed=False, reason=f"`flwr run` exited with code {code}")
        if run_id is None:
            return RunEnd(completed=False, reason="`flwr run` started no run")
        return self._end(run_id)

    def _pass_on(self, lines: queue.Queue[str | None]) -> str | None:
        """Print the lines to the end; return the run's id, None without one, "timeout" when out of time."""
        started_s = last_s = time.monotonic()
        run_id: str | None = None
        while True:
            now_s = time.monotonic()
            if self.timeout_s and now_s - started_s > self.timeout_s:
                return "timeout"
            if now_s - last_s >= self.silence_s:
                what = "Flower is starting" if run_id is None else "the run goes on"
                _show(f"launch: {now_s - started_s:4.0f} s, {what}\n")
                last_s = now_s
            try:
                line = lines.get(timeout=0.2)
            except queue.Empty:
                continue
            if line is None:
                return run_id
            if self.watch is not None:
                self.watch(line)
            if found := RUN_ID.search(line):
                run_id = found.group(1)
            if not is_noise(line):
                _show(line)
                last_s = time.monotonic()

    def _end(self, run_id: str) -> RunEnd:
        """Ask Flower for the final status of a run; the stream may end a moment earlier."""
        deadline_s = time.monotonic() + STATUS_PATIENCE_S
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
        return RunEnd(completed=False, reason=f"{status}: {details}", explained=True)


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
