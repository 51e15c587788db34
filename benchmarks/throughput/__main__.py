"""``python -m benchmarks.throughput [--quick | --once] [--pfl PYTHON]``: what a device costs beside training.

Beside Flower's own way and a bare loop; each measurement is a process of its own, each contender in its turn,
three rounds, medians. Processor time counts all processes. Ends with one line of JSON. `--quick`: one round
of fewer devices, to see that it works; `--once`: one round of all. pfl-research is measured beside them where
``--pfl`` names a Python that has it (``pip install pfl``; ours need not).
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.throughput.contender import PEAK_VARIABLE

ROOT = Path(__file__).resolve().parents[2]
Measured = dict[str, Any]


def measure(module: str, *arguments: object, peak: bool = False, python: str = sys.executable) -> Measured:
    """Run one measurement and return its last line."""
    settings = {PEAK_VARIABLE: "1"} if peak else {}
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        environment = os.environ | settings | {
            "FLWR_HOME": home,
            "FLWR_TELEMETRY_ENABLED": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        command = [python, "-m", f"benchmarks.throughput.{module}", *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    found: Measured = json.loads(lines[-1])
    print("  ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                    for name, value in found.items()), flush=True)  # fmt: skip
    return found


def startup_s(engine: str) -> float:
    """Return the wall seconds from the command to the first message that is dispatched."""
    with tempfile.TemporaryDirectory(prefix="bench-") as runs:
        began_s = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "server.launch", "--engine", engine, "-c", "conf/smoke.toml",
             f"run.dir={runs}"],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            while process.poll() is None:
                if any(b'"delivered"' in log.read_bytes() for log in Path(runs).glob("*/events.jsonl")):
                    return time.monotonic() - began_s
                time.sleep(0.02)
        finally:
            process.terminate()
            process.wait()
    raise RuntimeError(f"the run through {engine} ended before its first message")


def exponent(sizes: list[int], times_s: list[float]) -> float:
    """Return the slope of log time over log size, by least squares."""
    x, y = [math.log(size) for size in sizes], [math.log(time_s) for time_s in times_s]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread


def main(arguments: list[str]) -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput")
    parser.add_argument("--quick", action="store_true", help="one round of fewer devices")
    parser.add_argument("--once", action="store_true", help="one round")
    parser.add_argument("--pfl", metavar="PYTHON", help="a Python that can import pfl")
    options = parser.parse_args(arguments)
    quick = options.quick
    rounds = 1 if quick or options.once else 3
    devices, trained, steps = (500, 100, 2) if quick else (5_000, 1_000, 10)
    sizes = [200, 600, 2_000] if quick else [1_000, 3_000, 10_000]
    runs: dict[str, list[Measured]] = {}
    for _ in range(rounds):
        for name in ("flower", "ours", "processes", "sums", "processes-sums"):
            runs.setdefault(name, []).append(measure("contender", name, devices))
        if options.pfl:
            runs.setdefault("pfl", []).append(measure("pfl_peer", devices, python=options.pfl))
        for how in ("bare", "ours"):
            runs.setdefault(f"train-{how}", []).append(measure("training", how, trained, steps))
        for size in sizes:
            runs.setdefault(f"grow-{size}", []).append(measure("contender", "ours", size))
    peak = measure("contender", "ours", sizes[-1], peak=True)
    trained_s = {how: _median(runs[f"train-{how}"], "cpu_s") for how in ("ours", "bare")}
    result = {
        "benchmark": "throughput",
        "speedup_over_flower": round(_median(runs["flower"], "wall_s") / _median(runs["ours"], "wall_s"), 1),
        "speedup_of_sums": round(_median(runs["flower"], "wall_s") / _median(runs["sums"], "wall_s"), 1),
        "cpu_ms_per_device": _ms(runs["ours"], devices),
        "sums_cpu_ms_per_device": _ms(runs["sums"], devices),
        "flower_cpu_ms_per_device": _ms(runs["flower"], devices),
        "processes_cpu_ms_per_device": _ms(runs["processes"], devices),
        "pfl_cpu_ms_per_device": _ms(runs["pfl"], devices) if options.pfl else None,
        "overhead_ratio": round(trained_s["ours"] / trained_s["bare"], 3),
        "time_exponent": round(exponent(sizes, [_median(runs[f"grow-{s}"], "cpu_s") for s in sizes]), 3),
        "peak_rss_mb_10k": peak["peak_mb"],
        "startup_s": round(median(startup_s("flower") for _ in range(rounds)), 1),
        "in_process_startup_s": round(median(startup_s("in-process") for _ in range(rounds)), 1),
    }
    print(json.dumps(result))


def _ms(runs: list[Measured], devices: int) -> float:
    """Return the processor milliseconds a device."""
    return round(1e3 * _median(runs, "cpu_s") / devices, 3)


def _median(runs: list[Measured], name: str) -> float:
    return float(median(run[name] for run in runs))


if __name__ == "__main__":
    main(sys.argv[1:])
