"""SuperNodes that are killed and started again; only `pytest tests/deployment/node_faults.py` runs it.

Under its key a SuperNode is the same node again, and online, and Flower never answers what it was asked
before. One is killed while it trains, then while its update goes up. Each time it must be asked anew, what
it had finished must be merged, and nothing twice.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from server.machine.processes import end_all, free_port, tagged
from sim.plan_files.files import write_plan
from sim.plans.plan import Contact, ContactPlan
from tests.deployment.test_loopback import RUN_LIMIT_S, Loopback, base_model
from tests.rooms import ROOT

__all__ = ["base_model"]

CLUSTERS = ("Iqaluit", "Khatgal")
RESTART_EVERY_S = 10.0
"""As a service manager: Flower lets a killed node come back after its heartbeat, up to a minute later."""
UP_BYTES_PER_S = 6_000.0
"""An update of a hundred kB takes a while."""
Event = dict[str, Any]


class Site(Loopback):
    """Two nodes, one of which is started again whenever it is gone."""

    victim = 1

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.superlinks = [self.address] * len(CLUSTERS)
        self.nodes: dict[int, subprocess.Popen[bytes]] = {}
        self._tried_s = 0.0

    def bring_up(self, number: int) -> None:
        keep = self.folder / f"keep-{number}"
        self._tried_s = time.monotonic()
        self.nodes[number] = self.start_node(
            CLUSTERS[number], f"{2 * number}-{2 * number + 1}", f' keep="{keep}"', self.superlinks[number]
        )

    def kill(self, number: int) -> None:
        """End a SuperNode and all that it started, as a power cut does."""
        root = psutil.Process(self.nodes[number].pid)
        for process in [root, *root.children(recursive=True)]:
            process.kill()
        self.nodes[number].wait()

    def restart_if_gone(self) -> None:
        if self.nodes[self.victim].poll() is not None and time.monotonic() - self._tried_s > RESTART_EVERY_S:
            self.bring_up(self.victim)

    def begin(self, *settings: str) -> "subprocess.Popen[bytes]":
        """Start a run of six merges."""
        command = [
            sys.executable, "-m", "server.launch", "--superlink", self.address, "--root-certificates",
            str(self.ca), "--timeout", str(RUN_LIMIT_S), "--run-config", "conf/deployment.toml",
            f"run.dir='{self.folder / 'runs'}'", "run.silence-s=60.0", "merge.max-merges=6", "sky.hours=0.3",
            *settings,
        ]  # fmt: skip
        return self.spawn("run", *command, cwd=ROOT)

    def events(self) -> list[Event]:
        files = list((self.folder / "runs").glob("*/events.jsonl"))
        whole = files[0].read_text().rpartition("\n")[0] if files else ""
        return [json.loads(line) for line in whole.splitlines()]

    def victims(self, kind: str) -> list[Event]:
        """Return events of the node that is killed."""
        events = self.events()
        ids = {e["node"] for e in events if e["event"] == "joined" and e["cluster"] == CLUSTERS[self.victim]}
        return [event for event in events if event["event"] == kind and event.get("node") in ids]


@pytest.fixture
def site(base_model: Path, tmp_path: Path) -> Iterator[Site]:
    assert base_model.is_dir()
    servers = Site(tmp_path)
    try:
        servers.start_superlink(CLUSTERS)
        yield servers
    finally:
        end_all(lambda: tagged(servers.tag))


def until(site: Site, run: "subprocess.Popen[bytes]", holds: Callable[[], Any]) -> None:
    """Wait, with the victim started again whenever it is gone."""
    while not holds():
        assert run.poll() is None, (site.folder / "run.log").read_text()[-6000:]
        site.restart_if_gone()
        time.sleep(0.2)


def check_the_end(site: Site, run: "subprocess.Popen[bytes]") -> list[Event]:
    """Let the run come to its end, and return the victim's updates that were merged."""
    while run.poll() is None:
        site.restart_if_gone()
        time.sleep(0.5)
    said = f"{(site.folder / 'run.log').read_text()[-6000:]}\n{site.logs()}"
    assert run.returncode == 0, said
    lost = site.victims("lost")
    assert len(lost) == 1 and lost[0]["time_s"] > 0.0, said
    assert not [event for event in site.events() if event["event"] == "refused"], said
    merged = [update for event in site.events() if event["event"] == "merged" for update in event["updates"]]
    arrived = [e["message"] for e in site.events() if e["event"] == "arrived" and e["type"] == "train"]
    assert len(set(arrived)) == len(arrived) and len(merged) <= len(arrived)
    own = [update for update in merged if update["node"] == lost[0]["node"]]
    assert own, said
    return own


@pytest.mark.deployment
def test_a_node_that_is_killed_while_it_trains_is_asked_anew(site: Site) -> None:
    for number in range(len(CLUSTERS)):
        site.bring_up(number)
    run = site.begin("train.max-steps=100000", "train.steps-wall-budget-s=20.0")
    until(site, run, lambda: [event for event in site.victims("delivered") if event["type"] == "train"])
    time.sleep(12.0)  # its process starts, and is in the midst of twenty seconds of steps
    assert not [event for event in site.victims("arrived") if event["type"] == "train"]
    site.kill(site.victim)
    check_the_end(site, run)


@pytest.mark.deployment
def test_a_node_that_is_killed_while_its_update_goes_up_sends_it_again(site: Site) -> None:
    # Alone, so that the run does not come to its end without it.
    site.victim = 0
    knots = np.array([0.0, 1500.0])
    contact = Contact(
        rise_s=0.0, set_s=1500.0, satellites=("S",), time_s=knots, delay_s=0.0,
        down_bytes_per_s=np.full(2, 2e6), up_bytes_per_s=np.full(2, UP_BYTES_PER_S),
    )  # fmt: skip
    plan = ContactPlan(horizon_s=1500.0, contacts={CLUSTERS[0]: (contact,)})
    write_plan(plan, site.folder / "plan.csv")
    port = free_port()
    site.spawn(
        "relay", sys.executable, "-m", "sim.relay", str(site.folder / "plan.csv"), "--to", site.address,
        f"--node={CLUSTERS[0]}={port}", cwd=ROOT,
    )  # fmt: skip
    site.superlinks[0] = f"127.0.0.1:{port}"
    site.bring_up(0)
    alone = ("population.clusters=1", "population.devices=2", "merge.max-merges=2")
    run = site.begin("train.max-steps=6", "train.steps-wall-budget-s=100.0", *alone)
    kept = site.folder / "keep-0" / "last-update.safetensors"
    until(site, run, kept.is_file)
    time.sleep(3.0)
    assert not [event for event in site.victims("arrived") if event["type"] == "train"], "it was up already"
    finished = os.stat(kept).st_mtime_ns
    site.kill(0)
    until(site, run, lambda: [e for e in site.victims("arrived") if e["type"] == "train" and e.get("steps")])
    assert os.stat(kept).st_mtime_ns == finished, "it trained again"
    check_the_end(site, run)
