"""A run whose worker died goes on by itself: Flower's pool of actors cannot replace one, a new run can."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from server.launch.flower_run import FlowerRun, RunEnd

MAX_RESTARTS = 3
RUN_FOLDER = re.compile(r"run folder: (.+?)\s*$")
LOST_WORKER = "a worker process died"


@dataclass(slots=True)
class LostWorker:
    """Watches the lines of a run for its folder and for a worker that died."""

    folder: str = ""
    is_lost: bool = False

    def __call__(self, line: str) -> None:
        """Take note of one line."""
        if found := RUN_FOLDER.search(line):
            self.folder = found.group(1)
        self.is_lost = self.is_lost or LOST_WORKER in line

    def resumed(self) -> dict[str, object] | None:
        """Return the settings that go on with the run; None where no worker died or nothing was saved."""
        if not (self.is_lost and self.folder and (Path(self.folder) / "state.safetensors").is_file()):
            return None
        return {"run.resume": self.folder}


def follow_on(
    prepare: Callable[[dict[str, object], LostWorker], FlowerRun], overrides: dict[str, object]
) -> RunEnd:
    """Run to the end; a run that lost a worker goes on from its saved state with new ones.

    Parameters
    ----------
    prepare : callable
        Settings and who watches the output -> a run to be started.
    overrides : dict
        Settings of the run.
    """
    for restarts_left in reversed(range(MAX_RESTARTS + 1)):
        lost = LostWorker()
        end = prepare(overrides, lost).follow()
        resumed = lost.resumed()
        if end.completed or end.timed_out or resumed is None or not restarts_left:
            break
        print(f"launch: going on with new workers from what is saved in {lost.folder}", flush=True)
        overrides = overrides | resumed
    return end
