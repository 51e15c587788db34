"""One cell: a method in a world with a seed, measured once and kept."""

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.paper.alone import alone
from benchmarks.paper.measures import of_run
from benchmarks.paper.methods import Method, Settings
from engine.processes import end_with_parent
from engine.run import run

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("client", "engine", "moe", "scenario", "server", "sim", "strategy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What is measured.

    Parameters
    ----------
    method : Method
        Of the table.
    base, sky : str
        Of the world.
    seed : int
        Of everything random in the run.
    settings : dict
        Of the world and the method together.
    """

    method: Method
    base: str
    sky: str
    seed: int
    settings: Settings

    @property
    def key(self) -> str:
        """Name of its file: the same exactly for the same settings, method and seed."""
        name = "".join(letter if letter.isalnum() else "-" for letter in self.method.name.lower())
        return f"{self.base}-{self.sky}-{name}-{self.seed}-{self.digest}"

    @property
    def digest(self) -> str:
        """Name what is measured, whatever it is called."""
        what = json.dumps([self.method.how, self.settings, self.seed], sort_keys=True)
        return hashlib.sha256(what.encode()).hexdigest()[:10]


def measured(cell: Cell, results: Path) -> Mapping[str, Any] | None:
    """Return what was measured before, or None."""
    file = results / f"{cell.key}.json"
    found: dict[str, Any] | None = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    return found


def measure(cell: Cell, results: Path) -> None:
    """Measure a cell and keep it; the file appears whole or not at all."""
    began_s, cpu_began_s = time.monotonic(), time.process_time()
    settings = {**cell.settings, "seed": cell.seed, "run.dir": str(results / "runs"), "run.name": cell.digest}
    found = of_run(run(settings)) if cell.method.how == "sky" else alone(settings, cell.method.how)
    whole = {
        **asdict(found),
        "cell": {"method": cell.method.name, "base": cell.base, "sky": cell.sky, "seed": cell.seed},
        # Where it ran is no part of what was measured.
        "settings": {key: value for key, value in settings.items() if key != "run.dir"},
        "code": code_digest(),
        "wall_s": round(time.monotonic() - began_s, 1),
        "cpu_s": round(time.process_time() - cpu_began_s, 1),
    }
    _keep(whole, cell, results)


def read_again(cell: Cell, results: Path) -> None:
    """Take a cell's measures anew from the folder of its run, where it is still there."""
    known = measured(cell, results)
    folders = sorted((results / "runs").glob(f"{cell.digest}-*"))
    if known is not None and cell.method.how == "sky" and folders:
        _keep({**known, **asdict(of_run(folders[-1]))}, cell, results)


def _keep(whole: Mapping[str, Any], cell: Cell, results: Path) -> None:
    unfinished = results / f".{cell.key}.json"
    unfinished.write_text(json.dumps(whole, indent=1), encoding="utf-8")
    unfinished.replace(results / f"{cell.key}.json")


def be_quiet() -> None:
    """Make a process one that measures: what its runs say is for nobody, there are dozens of them."""
    end_with_parent()  # killed, the experiment would leave hours of training behind
    os.environ["OMP_NUM_THREADS"] = "1"
    logging.getLogger("flwr").setLevel(logging.ERROR)
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the life of the process


def code_digest() -> str:
    """Name the code that measures, so that a table can say when its cells are of different versions."""
    digest = hashlib.sha256()
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
