"""``python -m benchmarks.kills [--kills N]``: a run killed again and again, and what was lost.

One run lives through; another of the same settings is killed by SIGKILL at random moments, N times, and each
time gone on with by `ems-fl resume`. Every event, byte for byte, and every number of the server's state must
be the same. Ends with one line of JSON; the exit code is 1 where anything differs.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from server.record.state import load_state

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = (
    *("population.devices=16", "sky.hours=96", "train.max-steps=8", "evaluate.every-merges=8"),
    "profile.wait-hours=24",
)
EVENTS, STATE = "events.jsonl", "state.safetensors"


def start(runs: Path, name: str) -> "subprocess.Popen[bytes]":
    """Start a run of its own, in one process."""
    return _spawn("run", "--engine", "in-process", *SETTINGS, f"run.dir={runs}", f"run.name={name}")


def _spawn(*arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "cli", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def folder_of(runs: Path, name: str) -> Path | None:
    """Return the folder of a run once there is one."""
    return next(iter(sorted(runs.glob(f"{name}-*"))), None)


def killed_run(runs: Path, kills: int, chance: random.Random) -> tuple[Path, int, int]:
    """Return a run that was killed, how often, and how many merges were computed twice for it."""
    process, done, again = start(runs, "killed"), 0, 0
    while done < kills:
        folder = folder_of(runs, "killed")
        while folder is None or not (folder / STATE).exists():
            if process.poll() is not None:
                raise RuntimeError(
                    f"the run ended by itself before its first saved state ({process.returncode})"
                )
            time.sleep(0.1)
            folder = folder_of(runs, "killed")
        before = saved_merges(folder)
        # From the start of the process: some kills fall before it has done anything new.
        time.sleep(chance.uniform(2.0, 14.0))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        done += 1
        merged = logged_merges(folder)
        again += merged - saved_merges(folder)
        print(
            f"kill {done:>2}: merges saved {saved_merges(folder)} (before {before}), logged {merged}",
            flush=True,
        )
        process = _spawn("resume", str(folder), "--engine", "in-process")
    if process.wait():
        raise RuntimeError(f"the last start ended with {process.returncode}")
    folder = folder_of(runs, "killed")
    assert folder is not None
    return folder, done, again


def saved_merges(folder: Path) -> int:
    """Return how many merges the saved state holds."""
    return load_state(folder)[0].merges


def logged_merges(folder: Path) -> int:
    """Return how many merges the log tells of."""
    return sum(
        b'"event":"merged"' in line or b'"event": "merged"' in line for line in (folder / EVENTS).open("rb")
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        runs = Path(name)
        whole = start(runs, "whole")
        folder, kills, again = killed_run(runs, options.kills, random.Random(options.seed))
        if whole.wait():
            raise RuntimeError(f"the run without kills ended with {whole.returncode}")
        other = folder_of(runs, "whole")
        assert other is not None
        same_log = (folder / EVENTS).read_bytes() == (other / EVENTS).read_bytes()
        values, others = load_state(folder)[0].values, load_state(other)[0].values
        same_values = values.keys() == others.keys() and all(
            (others[k] == v).all() for k, v in values.items()
        )
        result = {
            "benchmark": "kills",
            "kills": kills,
            "merges": saved_merges(folder),
            "merges_computed_again": again,
            "same_log": same_log,
            "same_values": same_values,
        }
    print(json.dumps(result))
    return 0 if same_log and same_values and kills == options.kills else 1


if __name__ == "__main__":
    sys.exit(main())
