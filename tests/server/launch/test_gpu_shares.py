"""Which GPUs the workers of a simulation see; Ray deals out numbers, so none has to be there."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping

import pytest

from server.launch.command import EXIT_USAGE, main
from server.launch.options import check, gpu_faults, parse
from server.machine.environment import quiet_settings, simulation_settings
from server.machine.gpus import workers_on_gpus

# Two workers of a machine that Ray is told has one GPU: one asks for a share of it, one for none.
WORKERS = """
import json, os, ray
ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
@ray.remote
class Worker:
    def sees(self):
        return os.environ.get("CUDA_VISIBLE_DEVICES")
workers = [Worker.options(num_cpus=1, num_gpus=share).remote() for share in (0.0, 0.25)]
print(json.dumps(ray.get([worker.sees.remote() for worker in workers])))
"""


def test_a_worker_sees_a_gpu_only_where_it_asked_for_a_share_of_one() -> None:
    bare = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        [sys.executable, "-c", WORKERS],
        env=bare | quiet_settings(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == ["", "0"]
    assert "FutureWarning" not in done.stderr


def test_the_share_is_told_to_flower() -> None:
    assert "client-resources-num-gpus=0.25 " in simulation_settings(2, 4, 0.25)
    assert "client-resources-num-gpus=0.0 " in simulation_settings(2, 4)


@pytest.mark.parametrize("share", [-0.5, 1.5, float("nan"), float("inf")])
def test_what_ray_would_not_deal_out_is_refused(share: float) -> None:
    (fault,) = gpu_faults(share)
    assert fault.startswith("--client-gpus must be a share in [0, 1] or a whole number, got ")


def test_more_gpus_than_there_are_are_refused() -> None:
    (fault,) = gpu_faults(4096.0)
    assert "asks for a GPU and torch" in fault and "leave --client-gpus out" in fault
    assert gpu_faults(0.0) == []


@pytest.mark.parametrize(
    ("share", "num_gpus", "room"),
    # The fifth worker with 0.4 of two GPUs is one that Flower waits for and Ray cannot start.
    [(0.5, 1, 2), (0.4, 2, 4), (0.6, 2, 2), (0.1, 1, 10), (1 / 3, 1, 3), (1.0, 3, 3), (2.0, 5, 2)],
)
def test_workers_find_room_where_their_whole_share_is_on_one_gpu(
    share: float, num_gpus: int, room: int
) -> None:
    assert workers_on_gpus(share, num_gpus) == room


def test_no_more_workers_are_asked_for_than_the_gpus_have_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    found = []
    for typed in ("--client-gpus 0.4", "--client-gpus 0.05", "--client-gpus 0.4 --nodes 9", ""):
        options = parse(f"--workers 16 {typed}".split())
        check(options)
        found.append((options.workers, options.nodes))
    assert found == [(4, 16), (16, 64), (4, 9), (16, 64)]


def test_clients_that_must_have_a_gpu_and_get_none_are_refused_before_flower_starts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["-c", "model.device=cuda"]) == EXIT_USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('launch: model.device is "cuda", and the clients of the simulation see no GPU')
    assert "--client-gpus 0.5" in line


@pytest.mark.parametrize("engine", ["in-process", "processes"])
def test_without_flower_a_run_sees_the_gpus_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    asked: list[object] = []

    def run_here(overrides: Mapping[str, object], **_others: object) -> str:
        asked.append(overrides["model.device"])
        return ""

    monkeypatch.setattr("server.launch.command.run_here", run_here)
    main(["-c", "model.device=cuda", "--engine", engine])
    assert asked == ["cuda"]
