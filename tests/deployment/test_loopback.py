"""The same apps on Flower's deployment engine: one SuperLink, its SuperNodes, loopback, no simulated sky.

With certificates and keys as `ems-fl keys` makes and registers them; one more node has a key that nobody
registered.
"""

import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from demo.base_model import ensure_base_model
from moe.delivery.part import held_experts
from moe.disk.layout import open_storage
from server.keys.command import main as keys
from server.machine.environment import quiet_settings
from server.machine.processes import TAG_VARIABLE, end_all, free_port, tagged
from server.record.state import load_state
from server.report.run_files import read_run
from tests.report.documented import undocumented
from tests.rooms import ROOT

# conf/deployment.toml has four devices in two clusters, dealt in order: each node hosts one cluster. The
# third names a device of the second: whoever of the two is heard first holds it.
HOSTED = ("0-1", "2-3", "3")
STRANGER = "stranger"
START_PATIENCE_S = 60.0
RUN_LIMIT_S = 900.0
LAUNCH = (sys.executable, "-m", "server.launch", "--timeout", str(RUN_LIMIT_S))


class Loopback:
    """A SuperLink and SuperNodes of one test, each with a free port, a log file and the test's tag."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tag = uuid.uuid4().hex
        self.address = f"127.0.0.1:{free_port()}"
        self.keys = folder / "keys"
        self.ca = self.keys / "ca.crt"
        self.environment = os.environ | {
            **quiet_settings(),
            "FLWR_HOME": str(folder / "flower"),
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",  # Flower's own second per task adds up in a test.
            "OMP_NUM_THREADS": "1",
            "PATH": str(Path(sys.executable).parent) + os.pathsep + os.environ.get("PATH", os.defpath),
            TAG_VARIABLE: self.tag,
        }

    def start(self) -> None:
        """Start one SuperLink and one SuperNode for each set of devices, and wait until they answer."""
        self.start_superlink([f"node-{number}" for number in range(len(HOSTED))])
        assert keys([str(self.keys), "--node", STRANGER]) == 0
        self.stranger = self.start_node(STRANGER, HOSTED[0])
        own = self.folder / "own.csv"
        own.write_text(
            "\n".join(["body", *(f"what this site alone has written down on page {n}" for n in range(400))])
        )
        for number, devices in enumerate(HOSTED):
            brings = f' data="{own}" text-column="body"' if number == 0 else ""
            model = self.folder / "parts" / f"node-{number}"
            self.start_node(f"node-{number}", devices, f'{brings} model="{model}"')

    def start_superlink(self, nodes: Sequence[str]) -> None:
        """Start a SuperLink that nodes of these names may come to, and wait until it answers."""
        port = self.address.rpartition(":")[2]
        named = [f"--node={name}" for name in nodes]
        assert keys([str(self.keys), "--host", "127.0.0.1", *named]) == 0
        self.spawn(
            "superlink", "flower-superlink", "--host", "127.0.0.1", "--port", port,
            "--ssl-ca-certfile", str(self.ca), "--ssl-certfile", str(self.keys / "server.crt"),
            "--ssl-keyfile", str(self.keys / "server.key"), "--enable-supernode-auth",
            "--database", str(self.folder / "superlink.db"),
        )  # fmt: skip
        self._wait_for_health(port)
        assert keys([str(self.keys), "--register", self.address]) == 0

    def start_node(
        self, name: str, devices: str, brings: str = "", superlink: str = ""
    ) -> "subprocess.Popen[bytes]":
        """Start the SuperNode of a key, on the SuperLink's own address or another that leads there."""
        return self.spawn(
            name, "flower-supernode", "--superlink", superlink or self.address,
            "--root-certificates", str(self.ca),
            "--auth-supernode-private-key", str(self.keys / "nodes" / name),
            "--host", "127.0.0.1", "--port", str(free_port()),
            "--node-config", f'devices="{devices}"{brings}',
        )  # fmt: skip

    def spawn(self, name: str, *command: str, cwd: Path | None = None) -> "subprocess.Popen[bytes]":
        """Start a process with the test's tag and a log of its name."""
        with (self.folder / f"{name}.log").open("w") as log:
            return subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=cwd or self.folder,
            )

    def reached(self) -> list[str]:
        """Return how a launcher reaches the SuperLink."""
        return ["--superlink", self.address, "--root-certificates", str(self.ca)]

    def _wait_for_health(self, port: str) -> None:
        deadline_s = time.monotonic() + START_PATIENCE_S
        while time.monotonic() < deadline_s:
            try:
                trust = ssl.create_default_context(cafile=str(self.ca))
                with urllib.request.urlopen(f"https://127.0.0.1:{port}/health", timeout=2, context=trust):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise AssertionError(f"the SuperLink did not answer within {START_PATIENCE_S:g} s\n{self.logs()}")

    def logs(self) -> str:
        """Return the end of every log, for the message of a failed test."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in self.folder.glob("*.log")
        )


@pytest.fixture(scope="session")
def base_model() -> Path:
    """Make the demo model, once a machine; it is not part of the run."""
    return ensure_base_model(lambda _: None)


@pytest.fixture(scope="module")
def loopback(base_model: Path) -> Iterator[Loopback]:
    """Run a SuperLink and its SuperNodes; end them and all they started."""
    assert base_model.is_dir()
    folder = Path(tempfile.mkdtemp(prefix="ems-fl-loopback-"))
    servers = Loopback(folder)
    try:
        servers.start()
        yield servers
    finally:
        end_all(lambda: tagged(servers.tag))
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.deployment
def test_the_same_apps_complete_a_short_run_on_a_superlink_and_two_supernodes(loopback: Loopback) -> None:
    runs = loopback.folder / "runs"
    # Nodes that never had the model: their folders do not exist yet, and all of it comes over the link.
    result = launch(loopback, f"run.dir='{runs}'", "model.delivery='everything'")
    said = f"{result.stdout[-6000:]}\n{result.stderr[-2000:]}\n"
    assert result.returncode == 0, said + loopback.logs()
    folders = list(runs.iterdir())
    assert len(folders) == 1, said
    check_run_folder(folders[0])
    check_parts(folders[0], loopback.folder / "parts")
    assert str(folders[0]) in result.stdout


@pytest.mark.deployment
def test_a_run_whose_serverapp_is_killed_goes_on_where_it_was(loopback: Loopback) -> None:
    runs = loopback.folder / "killed"
    run = loopback.spawn(
        "killed-run", *LAUNCH, *loopback.reached(), "--run-config", "conf/deployment.toml",
        f"run.dir='{runs}'", "merge.max-merges=3", "evaluate.every-merges=1", cwd=ROOT,
    )  # fmt: skip
    until(lambda: events_of(runs, "merged"), run)
    (server,) = [
        process for process in tagged(loopback.tag) if "flwr-serverapp" in " ".join(process.cmdline())
    ]
    server.kill()
    assert run.wait(timeout=RUN_LIMIT_S) != 0, loopback.logs()
    (folder,) = runs.iterdir()
    merged, saved = events_of(runs, "merged"), load_state(folder)[0].merges
    done = launch(loopback, config=str(folder / "resume.toml"))
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}\n{loopback.logs()}"
    again = events_of(runs, "merged")
    assert [event["merges"] for event in again] == list(range(1, len(again) + 1)) and len(again) >= 3
    # What was saved stays; a merge that was not is made again, of updates that the nodes still have.
    assert again[:saved] == merged[:saved]
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.deployment
def test_a_node_whose_key_nobody_registered_gets_nowhere(loopback: Loopback) -> None:
    assert loopback.stranger.wait(timeout=START_PATIENCE_S) != 0, loopback.logs()
    log = (loopback.folder / f"{STRANGER}.log").read_text(errors="replace")
    assert "[code: 2004] Failed to activate SuperNode" in log, log


@pytest.mark.deployment
def test_without_the_authoritys_certificate_the_superlink_is_not_talked_to(loopback: Loopback) -> None:
    command = [sys.executable, "-m", "server.launch", "--superlink", loopback.address]
    for trust, code, said in (
        ((), 2, "--superlink needs one of --root-certificates FILE (ca.crt of `ems-fl keys`) and --insecure"),
        (("--insecure",), 1, ""),
    ):
        done = subprocess.run(
            [*command, *trust, "-c", "conf/deployment.toml"],
            cwd=ROOT, env=loopback.environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == code and said in done.stderr, done.stdout + done.stderr


@pytest.mark.deployment
def test_what_the_serverapp_refuses_is_the_last_thing_on_the_screen_alone(loopback: Loopback) -> None:
    """On a SuperLink elsewhere nothing can be read beforehand: the ServerApp itself refuses."""
    result = launch(loopback, "model.name=/nowhere/at/all", f"run.dir={loopback.folder}/refused")
    assert result.returncode == 2, f"{result.stdout}\n{result.stderr}\n{loopback.logs()}"
    assert result.stderr.startswith("The run was refused: ") and "/nowhere/at/all" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert "refused" not in result.stdout


def launch(
    loopback: Loopback, *settings: str, config: str = "conf/deployment.toml"
) -> "subprocess.CompletedProcess[str]":
    """Run a configuration with more settings on the test's SuperLink."""
    command = [*LAUNCH, *loopback.reached(), "--run-config", config, *settings]
    return subprocess.run(
        command, cwd=ROOT, env=loopback.environment, capture_output=True, text=True, check=False
    )


def events_of(runs: Path, kind: str) -> list[dict[str, Any]]:
    """Return the whole lines of an event log of the one run in a folder, of one kind."""
    files = list(runs.glob("*/events.jsonl"))
    whole = files[0].read_text().rpartition("\n")[0] if files else ""
    return [event for event in map(json.loads, whole.splitlines()) if event["event"] == kind]


def until(holds: Callable[[], Any], run: "subprocess.Popen[bytes]") -> None:
    """Wait for something while a run goes on."""
    while not holds():
        assert run.poll() is None, "the run has ended"
        time.sleep(0.2)


def check_parts(folder: Path, parts: Path) -> None:
    """Each node holds the experts of its cluster and no others; who was turned away holds none."""
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    (assigned,) = [event for event in events if event["event"] == "assigned"]
    held = {frozenset(e.name for e in held_experts(open_storage(part))) for part in parts.iterdir()}
    assert held - {frozenset()} == {frozenset(experts) for experts in assigned["experts"].values()}


def check_run_folder(folder: Path) -> None:
    """Both nodes served their own cluster, the merges happened, and the adapter is there to take home."""
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    merged = [event for event in events if event["event"] == "merged"]
    assert len({event["cluster"] for event in merged}) == 2
    assert len(merged) == 4  # merge.max-merges of conf/deployment.toml
    assert all(event["time_s"] >= 0 for event in events)
    assert undocumented(events) == set()
    # The first node has data of its own, and says how the model does on what it holds out of them.
    measured = {tuple(u["devices"]) for e in merged for u in e["updates"] if "heldout_loss" in u}
    assert measured == {(0, 1)}
    # The report names the nodes by what they host.
    lanes = read_run(folder).history.lanes(())
    assert "Iqaluit 0-1" in {name for name, _ in lanes.values()}
    assert (folder / "report.html").is_file()
    # A device counts once: of the two nodes that name device 3 one is turned away, and the report says so.
    (turned_away,) = [event for event in events if event["event"] == "turned-away"]
    assert turned_away["devices"] in ([2, 3], [3])
    assert all(u["node"] != turned_away["node"] for event in merged for u in event["updates"])
    warnings = json.loads((folder / "summary.json").read_text())["warnings"]
    assert any(f"node {turned_away['node']} was refused" in warning for warning in warnings)
    settings = (folder / "config.toml").read_text()
    assert "simulated = false" in settings
    assert (folder / "adapter" / "adapter_model.safetensors").stat().st_size > 0
    assert (folder / "adapter" / "adapter_config.json").is_file()
