"""``python -m benchmarks.privacy [--seeds N]``: what noise on updates costs.

A day of 32 devices in 8 clusters on the demo's base, one cluster of devices a set of experts, by the privacy
budget of an update; mean held-out losses at the end, and how many updates a device sent, which add up. Ends
with one line of JSON.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import fmean

from engine.run import run
from scenario.settings.config import Scalar

SETTINGS: dict[str, Scalar] = {
    "population.devices": 32,
    "train.max-steps": 12,
    "evaluate.every-merges": 1000,
    "report.page": False,
    # Updates of these visits have a norm of 2.7 to 4.7, over 8,448 numbers.
    "privacy.clip-norm": 4.0,
}
BUDGETS = (0.0, 1e9, 1e4, 3e3, 1e3, 100.0, 1.0)
"""0 is neither clipped nor noised, 1e9 clipped alone."""


def measure(epsilon: float, seed: int) -> dict[str, float]:
    """Return the losses of one run and the updates of a device."""
    with tempfile.TemporaryDirectory(prefix="privacy-") as runs:
        folder = Path(run(SETTINGS | {"privacy.epsilon": epsilon, "seed": seed, "run.dir": runs}))
        clusters = json.loads((folder / "summary.json").read_text())["clusters"]
        events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    updates = sum(len(event["updates"]) for event in events if event["event"] == "merged")
    names = ("own_loss_before", "own_loss_after", "merged_loss_before", "merged_loss_after")
    means = {name: fmean(c[name] for c in clusters) for name in names}
    return means | {"updates": updates / int(SETTINGS["population.devices"])}


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.privacy", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(1, parser.parse_args(arguments).seeds + 1)
    found = {}
    for epsilon in BUDGETS:
        runs = [measure(epsilon, seed) for seed in seeds]
        found[f"{epsilon:g}"] = {name: round(fmean(r[name] for r in runs), 4) for name in runs[0]}
        print(f"RESULT epsilon {epsilon:<8g} {found[f'{epsilon:g}']}", flush=True)
    print(json.dumps({"benchmark": "privacy", "seeds": len(seeds), "by_epsilon": found}))


if __name__ == "__main__":
    main()
