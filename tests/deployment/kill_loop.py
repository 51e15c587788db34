"""A ServerApp that is killed twenty times in one run; only `pytest tests/deployment/kill_loop.py` runs it.

Wherever it dies, what its nodes made must be merged, once: every update is seen on its node's disk, and
counted.
"""

import json
import random
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest
from safetensors import SafetensorError, safe_open

from server.machine.processes import tagged
from tests.deployment.node_faults import CLUSTERS, Site, site
from tests.deployment.test_loopback import LAUNCH, RUN_LIMIT_S, base_model
from tests.rooms import ROOT

__all__ = ["base_model", "site"]

KILLS = 20
MERGES = 60
"""More than twenty short lives come to."""


class Made(threading.Thread):
    """Watches the nodes' disks: the updates that each has made, by its folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.files = [
            folder / f"keep-{number}" / "last-update.safetensors" for number in range(len(CLUSTERS))
        ]
        self.seen: list[list[tuple[str, int]]] = [[] for _ in self.files]
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.05):
            for file, seen in zip(self.files, self.seen, strict=True):
                try:
                    with safe_open(file, "numpy") as opened:
                        about = json.loads(opened.metadata()["about"])
                except (FileNotFoundError, SafetensorError):
                    continue
                if (about["run"], about["dispatch"]) not in seen[-1:]:
                    seen.append((about["run"], about["dispatch"]))

    @property
    def number(self) -> int:
        return sum(map(len, self.seen))

    def end(self) -> None:
        self._ended.set()
        self.join()


def launch(site: Site, life: int) -> "subprocess.Popen[bytes]":
    """Begin the run, or go on with it."""
    config = ["conf/deployment.toml", f"run.dir='{site.folder / 'runs'}'", f"merge.max-merges={MERGES}",
              "evaluate.every-merges=30", "sky.hours=2.0", "train.max-steps=6"]  # fmt: skip
    if folders := list((site.folder / "runs").glob("*")):
        config = [str(folders[0] / "resume.toml")]
    return site.spawn(f"life-{life}", *LAUNCH, *site.reached(), "--run-config", *config, cwd=ROOT)


def kill_server(site: Site, run: "subprocess.Popen[bytes]") -> None:
    """Kill the ServerApp and the launcher with it.

    The launcher would wait the minute until Flower misses its heartbeat; who goes on does not have to.
    """
    (server,) = [
        process
        for process in tagged(site.tag)
        if process.status() != psutil.STATUS_ZOMBIE and "flwr-serverapp" in " ".join(process.cmdline())
    ]
    server.kill()
    run.kill()
    run.wait()


@pytest.mark.deployment
def test_twenty_kills_lose_no_update_and_merge_none_twice(site: Site) -> None:
    for number in range(len(CLUSTERS)):
        site.bring_up(number)
    made, rng = Made(site.folder), random.Random(0)
    made.start()
    for life in range(KILLS):
        run = launch(site, life)
        said, before = site.folder / f"life-{life}.log", made.number
        # One life in four ends before anything is made.
        while "run folder:" not in said.read_text(errors="replace") or (life % 4 and made.number == before):
            assert run.poll() is None, site.logs()
            time.sleep(0.05)
        time.sleep(rng.uniform(0.0, 3.0))
        kill_server(site, run)
        print(
            f"life {life}: {len(site.events())} events, made {[len(seen) for seen in made.seen]}", flush=True
        )
    assert launch(site, KILLS).wait(timeout=RUN_LIMIT_S) == 0, site.logs()
    made.end()
    events = site.events()
    merged = [event for event in events if event["event"] == "merged"]
    assert [event["merges"] for event in merged] == list(range(1, MERGES + 1))
    assert not [event for event in events if event["event"] == "refused"]
    cluster = {event["node"]: event["cluster"] for event in events if event["event"] == "joined"}
    of = [cluster[update["node"]] for event in merged for update in event["updates"]]
    counts = {name: (len(seen), of.count(name)) for name, seen in zip(CLUSTERS, made.seen, strict=True)}
    print("made and merged:", counts)
    # The last update of a node may have been under way when the run had its merges.
    assert all(len(set(seen)) == len(seen) for seen in made.seen)
    assert all(0 <= was_made - was_merged <= 1 for was_made, was_merged in counts.values()), counts
