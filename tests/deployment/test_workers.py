"""Real Flower, real Ray: the number of workers does not show, and a refused run fails loudly."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from demo.base_model import ensure_base_model
from tests.rooms import ROOT


def launch(
    runs: Path, *settings: str, workers: int, engine: str = "flower"
) -> "subprocess.CompletedProcess[str]":
    """Run the smoke experiment with so many Ray workers."""
    command = [
        sys.executable, "-m", "server.launch", "--workers", str(workers), "--timeout", "600",
        "--engine", engine,
        "-c", "conf/smoke.toml", f"run.dir='{runs}'", *settings,
    ]  # fmt: skip
    # Neither a proxy that is dead nor a screen that knows only ASCII may show.
    proxies = dict.fromkeys(("http_proxy", "grpc_proxy", "all_proxy"), "http://127.0.0.1:9")
    told = {"OMP_NUM_THREADS": "1", "no_proxy": "", "PYTHONIOENCODING": "ascii"}
    environment = os.environ | proxies | told
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def only_folder(runs: Path) -> Path:
    folders = list(runs.iterdir())
    assert len(folders) == 1
    return folders[0]


@pytest.mark.deployment
def test_the_same_seed_gives_the_same_event_log_with_one_and_with_two_ray_workers(tmp_path: Path) -> None:
    """Law 8, byte for byte, through `flwr run`."""
    ensure_base_model(lambda _: None)
    logs = []
    for workers in (1, 2):
        result = launch(tmp_path / str(workers), workers=workers)
        assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
        folder = only_folder(tmp_path / str(workers))
        assert str(folder) in result.stdout
        logs.append((folder / "events.jsonl").read_bytes())
    merged = [json.loads(line) for line in logs[0].splitlines() if b'"merged"' in line]
    assert len(merged) == 4  # merge.max-merges of conf/smoke.toml
    assert logs[0] == logs[1]


@pytest.mark.deployment
def test_a_refused_run_exits_non_zero_says_why_and_writes_nothing(tmp_path: Path) -> None:
    """`flwr run` itself exits 0 when the app failed."""
    runs = tmp_path / "runs"
    result = launch(runs, "model.name=/nowhere/at/all", workers=1)
    assert result.returncode == 2
    assert result.stderr.startswith("The run was refused: ") and "/nowhere/at/all" in result.stderr
    assert "Traceback" not in result.stdout and "SuperLink" not in result.stdout
    assert not runs.exists() or not list(runs.iterdir())


@pytest.mark.deployment
def test_the_same_seed_gives_the_same_event_log_without_flowers_processes(tmp_path: Path) -> None:
    """Law 11, on the smoke experiment: through Flower and Ray, in this process, and in a pool."""
    ensure_base_model(lambda _: None)
    logs = []
    for engine in ("flower", "in-process", "processes"):
        result = launch(tmp_path / engine, workers=2, engine=engine)
        assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
        logs.append((only_folder(tmp_path / engine) / "events.jsonl").read_bytes())
    assert logs[0] == logs[1] == logs[2]
