"""Real SuperNodes behind links that go dark: `make test-deploy` alone runs it, it takes some minutes.

Two nodes reach the SuperLink by way of the relay and are out of contact for longer than Flower's heartbeat.
Each cluster must be merged in its contacts, with nothing lost and nothing twice. Then, with the same steps at
every visit, the simulated run must give the same model.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe.experts import ExpertArrays
from server.machine.processes import end_all, free_port, tagged
from server.record.state import load_state
from sim.plan_files.files import write_plan
from sim.plans.plan import Contact, ContactPlan
from tests.deployment.test_loopback import Loopback, base_model, launch
from tests.rooms import ROOT

__all__ = ["base_model"]

RATE_BYTES_PER_S = 2e6
DARK_S = 80.0  # Flower takes a node for gone after 60 s without a heartbeat
CONTACTS_S = {"Iqaluit": (0.0, 70.0), "Khatgal": (20.0, 90.0)}
ROUNDS = 4
# The same visits under either sky: so many steps, whoever waits for whom.
SAME_VISITS = (
    "train.min-steps=6",
    "train.max-steps=6",
    "train.steps-wall-budget-s=100.0",
    "merge.wait-s=1.0",
)


def plan() -> ContactPlan:
    contacts = {}
    for name, (rise_s, set_s) in CONTACTS_S.items():
        of_name = []
        for number in range(ROUNDS):
            knots = np.array([rise_s, set_s]) + number * (set_s - rise_s + DARK_S)
            rates = np.full(2, RATE_BYTES_PER_S)
            of_name.append(
                Contact(
                    rise_s=knots[0], set_s=knots[1], satellites=("S",), time_s=knots,
                    down_bytes_per_s=rates, up_bytes_per_s=rates, delay_s=0.02,
                )
            )  # fmt: skip
        contacts[name] = tuple(of_name)
    return ContactPlan(horizon_s=90.0 + ROUNDS * 150.0, contacts=contacts)


@pytest.fixture
def site(base_model: Path, tmp_path: Path) -> Iterator[Loopback]:
    assert base_model.is_dir()
    servers = Loopback(tmp_path)
    try:
        servers.start_superlink(["Iqaluit", "Khatgal"])
        yield servers
    finally:
        end_all(lambda: tagged(servers.tag))


def events_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] == kind]


def values_of(folder: Path) -> ExpertArrays:
    return load_state(folder)[0].values


@pytest.mark.deployment
def test_a_run_over_links_that_go_dark_loses_nothing_and_is_the_simulated_run(
    site: Loopback, tmp_path: Path
) -> None:
    write_plan(plan(), tmp_path / "plan.csv")
    ports = {name: free_port() for name in CONTACTS_S}
    log = tmp_path / "relay.jsonl"
    site.spawn(
        "relay", sys.executable, "-m", "sim.relay", str(tmp_path / "plan.csv"), "--to", site.address,
        *(f"--node={name}={port}" for name, port in ports.items()), "--log", str(log),
        cwd=ROOT,
    )  # fmt: skip
    for number, (name, port) in enumerate(ports.items()):
        site.start_node(name, f"{2 * number}-{2 * number + 1}", superlink=f"127.0.0.1:{port}")
    real = tmp_path / "real"
    done = launch(site, f"run.dir='{real}'", *SAME_VISITS)
    said = f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}\n{site.logs()}"
    assert done.returncode == 0, said
    (folder,) = real.iterdir()
    merged = events_of(folder, "merged")
    counts = {name: sum(event["cluster"] == name for event in merged) for name in CONTACTS_S}
    assert sum(counts.values()) == 4 and all(counts.values()), said
    # What came in of training was merged, once.
    arrived = [event["message"] for event in events_of(folder, "arrived") if event["type"] == "train"]
    updates = [update for event in merged for update in event["updates"]]
    assert len(updates) == len(set(arrived)) == len(arrived)
    assert not events_of(folder, "refused"), said
    carried = [json.loads(line) for line in log.read_text().splitlines()]
    for row in carried:
        # At the rate of the plan, and the nodes did come through it.
        assert 0 < row["up_bytes"] <= (row["set_s"] - row["rise_s"]) * RATE_BYTES_PER_S
    assert {row["cluster"] for row in carried} == set(CONTACTS_S)
    assert max(event["time_s"] for event in merged) > DARK_S, "no contact went by: nothing was shown"
    same_as_simulated(folder, counts, tmp_path)


def same_as_simulated(folder: Path, counts: dict[str, int], tmp_path: Path) -> None:
    """Compare with the simulated run of as many merges of each cluster: clusters have no expert in common."""
    settings = ["-c", "conf/deployment.toml", *SAME_VISITS, "sky.simulated=true", "sky.hours=24.0"]
    settings += ["profile.wait-hours=12.0", "merge.max-merges=0", "evaluate.every-merges=1"]
    for name, count in counts.items():
        runs = tmp_path / f"simulated-{name}"
        # One after another until this cluster has as many merges as it had on the real link.
        for merges in range(count, 4 * count + 1):
            command = [sys.executable, "-m", "server.launch", "--engine", "in-process", *settings]
            command += [f"merge.max-merges={merges}", f"run.dir='{runs}-{merges}'"]
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
            (simulated,) = Path(f"{runs}-{merges}").iterdir()
            if sum(event["cluster"] == name for event in events_of(simulated, "merged")) == count:
                break
        else:
            raise AssertionError(f"{name} was never merged {count} times in the simulation")
        (assigned,) = events_of(simulated, "assigned")
        assert assigned["experts"] == events_of(folder, "assigned")[0]["experts"]
        own = set(assigned["experts"][name])
        theirs, ours = values_of(folder), values_of(simulated)
        compared = [key for key in ours if key.expert.name in own and ours[key].any()]
        assert compared
        for key in compared:
            np.testing.assert_allclose(theirs[key], ours[key], rtol=0, atol=1e-6, err_msg=str(key))
