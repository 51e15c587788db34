"""``python -m benchmarks.robust [--seeds N]``: what robust merging costs, and what it saves.

A day of 4 clusters of 5 devices on the demo's base: every rule without an attack, and with one device of each
cluster that sends back ten times its change, turned round. Mean held-out losses at the end, and how much
longer than the median of its pass the longest update was. Ends with one line of JSON.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median
from typing import Any, get_args
from unittest import mock

from client import app as client_app
from engine.run import run
from scenario.settings.config import Scalar
from strategy import merging
from strategy.defence.robust import Robust

DEVICES_A_CLUSTER, CLUSTERS = 5, 4
SETTINGS: dict[str, Scalar] = {
    "population.devices": DEVICES_A_CLUSTER * CLUSTERS,
    "population.clusters": CLUSTERS,
    "train.max-steps": 12,
    "evaluate.every-merges": 1000,
}
STRENGTH = -10.0


@contextmanager
def hostile_devices(strength: float) -> Iterator[None]:
    """Have the first device of every cluster send its change times ``strength``."""
    honest = client_app._tune_on

    def tune_on(device: int, *more: Any) -> Any:
        result, arrays = honest(device, *more)
        factor = strength if device % DEVICES_A_CLUSTER == 0 else 1.0
        return result, {key: value * factor for key, value in arrays.items()}

    with mock.patch.object(client_app, "_tune_on", tune_on):
        yield


@contextmanager
def longest(found: list[float]) -> Iterator[None]:
    """Note by how much the longest update of each pass exceeds the median one."""
    outliers: Callable[..., list[int]] = merging.outliers

    def noting(norms: list[float]) -> list[int]:
        if len(norms) > 2 and median(norms):
            found.append(max(norms) / median(norms))
        return outliers(norms)

    with mock.patch.object(merging, "outliers", noting):
        yield


def measure(robust: Robust, strength: float, seed: int) -> dict[str, float]:
    """Return the losses of one run, and the longest update of its passes."""
    ratios: list[float] = []
    with tempfile.TemporaryDirectory(prefix="robust-") as runs, hostile_devices(strength), longest(ratios):
        settings: dict[str, Scalar] = {"merge.robust": robust, "seed": seed, "run.dir": runs}
        folder = run(SETTINGS | settings)
        clusters = json.loads((Path(folder) / "summary.json").read_text())["clusters"]
    means = {name: fmean(c[f"{name}_loss_after"] for c in clusters) for name in ("own", "merged")}
    return means | {"longest": max(ratios)}


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.robust", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(1, parser.parse_args(arguments).seeds + 1)
    found: dict[str, Any] = {}
    for attack, strength in (("honest", 1.0), ("hostile", STRENGTH)):
        for robust in get_args(Robust):
            runs = [measure(robust, strength, seed) for seed in seeds]
            found[f"{attack} {robust}"] = {name: round(fmean(r[name] for r in runs), 4) for name in runs[0]}
            print(f"RESULT {attack:<8} {robust:<13} {found[f'{attack} {robust}']}", flush=True)
    print(json.dumps({"benchmark": "robust", "seeds": len(seeds), **found}))


if __name__ == "__main__":
    main()
