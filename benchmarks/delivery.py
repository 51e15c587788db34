"""``python -m benchmarks.delivery [--smoke | --links]``: what it costs that the model comes over the link.

The demo's base under a sparse and a dense sky, over a link so narrow that a contact carries about the experts
of one cluster (4 kB/s), and two devices a cluster. Each delivery runs as long as the others, from the same
seed. Hours are simulated. The target is the merged loss that the run ends with whose devices had the whole
checkpoint beforehand. Then what assignments keep that are asked for without experts (`benchmarks.standin`),
and what moving experts is worth where data drifts: ``conf/drift.toml`` with ``assign.watch`` and without,
mean of the seeds. Ends with one line of JSON. `--links`: the deliveries alone.
"""

import argparse
import json
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import standin
from engine.run import run
from server.report.run_files import read_run

DELIVERIES = ("beforehand", "experts", "everything")
SKIES: Mapping[str, Mapping[str, Any]] = {"sparse": {}, "dense": {"sky.elements": "walker-star:12/3/0"}}
WORLD: Mapping[str, Any] = {
    "population.devices": 16,
    "population.clusters": 8,
    "sky.hours": 48.0,
    "train.max-steps": 8,
    # What comes over a narrow link comes late, and who is not heard in time is left out.
    "profile.wait-hours": 24.0,
    "link.preset": "fixed",
    "link.down-bytes-per-s": 4000.0,
    "link.up-bytes-per-s": 4000.0,
    "model.piece-mb": 0.1,
    "evaluate.every-merges": 4,
    "data.heldout-examples": 16,
    "report.page": False,
    "report.completions": 0,
}
SMOKE: Mapping[str, Any] = {"population.devices": 8, "sky.hours": 24.0, "train.max-steps": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a run came to.

    Parameters
    ----------
    first_merge_h : float
        Simulated hours to the first merge; infinite if there was none.
    points : list of (float, float)
        Simulated hours and the merged model's loss, nats a token.
    model_bytes, whole_bytes : int
        Of the model over all links; what the whole model for each of these nodes would have been.
    bytes_down : int
        Of all messages.
    own : float
        Loss of the clusters' own sub-models at the end, mean, nats a token.
    """

    first_merge_h: float
    points: list[tuple[float, float]]
    model_bytes: int
    whole_bytes: int
    bytes_down: int
    own: float

    def hours_to(self, loss: float) -> float:
        """Return the simulated hours to a merged loss; infinite if it was not reached."""
        return next((hours for hours, found in self.points if found <= loss), float("inf"))


def measure(settings: Mapping[str, Any]) -> Found:
    """Run once."""
    with tempfile.TemporaryDirectory() as runs:
        folder = run({**settings, "run.dir": runs})
        events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        summary = read_run(Path(folder)).summary
    assert summary is not None
    own = [c.own_loss_after for c in summary.clusters if c.own_loss_after is not None]
    return Found(
        first_merge_h=next((e["time_s"] / 3600 for e in events if e["event"] == "merged"), float("inf")),
        points=[(e["time_s"] / 3600, e["loss"]) for e in events if e["event"] == "evaluated"],
        model_bytes=sum(cluster.model_bytes_down for cluster in summary.clusters),
        whole_bytes=summary.whole_model_bytes,
        bytes_down=summary.spent.bytes_down,
        own=fmean(own),
    )


def main(arguments: Sequence[str]) -> None:
    """Measure all deliveries under both skies."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.delivery")
    parser.add_argument("--smoke", action="store_true", help="a few minutes, to see that it works")
    parser.add_argument("--links", action="store_true", help="the deliveries alone")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--drift-seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args(arguments)
    world = {**WORLD, **(SMOKE if options.smoke else {}), "seed": options.seed}
    found = {
        (sky, delivery): measure({**world, **of_sky, "model.delivery": delivery})
        for sky, of_sky in SKIES.items()
        for delivery in DELIVERIES
    }
    print(f"{'sky':8}{'delivery':12}{'first merge':>12}{'to target':>11}{'merged':>8}{'own':>8}"
          f"{'model down':>12}{'of whole':>10}{'all down':>10}")  # fmt: skip
    for (sky, delivery), of in found.items():
        target = found[sky, "beforehand"].points[-1][1]
        share = of.model_bytes / of.whole_bytes if of.whole_bytes else 0.0
        print(f"{sky:8}{delivery:12}{of.first_merge_h:10.1f} h{of.hours_to(target):9.1f} h"
              f"{of.points[-1][1]:8.3f}{of.own:8.3f}{of.model_bytes / 1e6:9.2f} MB{share:10.3f}"
              f"{of.bytes_down / 1e6:7.1f} MB")  # fmt: skip
    line = result(found, options.seed)
    if not (options.links or options.smoke):
        kept = standin.results(list(standin.BASES), rank=16)
        line |= {name: round(kept[name], 4) for name in ("capture_kept", "prepare_peak_ratio")}
        line["drift_gain"] = drift_gain(options.drift_seeds)
    print(json.dumps(line))


def drift_gain(seeds: Sequence[int]) -> dict[str, float]:
    """Return how much lower losses end where experts move after the data, nats a token; print both."""
    text = (Path(__file__).parents[1] / "conf" / "drift.toml").read_text()
    world = {
        f"{table}.{key}": value for table, keys in tomllib.loads(text).items() for key, value in keys.items()
    }
    world |= {"report.page": False, "report.completions": 0}
    gains = []
    print(f"\n{'drift':8}{'experts':12}{'own':>8}{'merged':>8}")
    for seed in seeds:
        stay, move = (measure({**world, "seed": seed, "assign.watch": watch})
                      for watch in (0.0, world["assign.watch"]))  # fmt: skip
        for what, of in (("stay", stay), ("move", move)):
            print(f"seed {seed:<3}{what:12}{of.own:8.3f}{of.points[-1][1]:8.3f}")
        gains.append((stay.own - move.own, stay.points[-1][1] - move.points[-1][1]))
    own, merged = zip(*gains, strict=True)
    return {"own": round(fmean(own), 3), "merged": round(fmean(merged), 3)}


def result(found: Mapping[tuple[str, str], Found], seed: int) -> dict[str, Any]:
    """Return the line of JSON."""
    return {
        "benchmark": "delivery",
        "seed": seed,
        "hours_to_first_merge": {
            f"{sky}/{how}": round(of.first_merge_h, 2) for (sky, how), of in found.items()
        },
        "delivery_bytes_ratio": {
            f"{sky}/{how}": round(of.model_bytes / of.whole_bytes, 4)
            for (sky, how), of in found.items()
            if of.whole_bytes
        },
    }


if __name__ == "__main__":
    main(sys.argv[1:])
