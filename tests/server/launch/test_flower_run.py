"""A run that is followed: its refusal comes last, its silence is told, its death is noticed."""

import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from server.launch import flower_run
from server.launch.command import refuse
from server.launch.flower_run import FlowerRun
from server.machine.processes import TAG_VARIABLE, end_all, is_running, tagged

STARTED = "import time; print('Successfully started run 7', flush=True); "


@pytest.fixture
def tag() -> Iterator[str]:
    own = uuid.uuid4().hex
    yield own
    end_all(lambda: tagged(own), grace_s=0.0)


def follow(tag: str, run: str, status: str, is_alive: Callable[[], bool] | None = None) -> FlowerRun:
    answer = json.dumps({"runs": [{"run-id": "7", "status": status, "status-details": "the reason"}]})
    return FlowerRun(
        command=[sys.executable, "-c", run],
        list_command=[sys.executable, "-c", f"print({answer!r})"],
        environment=os.environ | {TAG_VARIABLE: tag},
        silence_s=60.0,
        app_is_alive=is_alive,
    )


def test_a_refusal_of_the_app_is_kept_for_the_end_and_ends_with_the_code_of_wrong_use(
    tag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["run", "\x1b[91mERROR \x1b[0m:     The run was refused: two things:", "  one", "  two"]
    end = follow(tag, STARTED + "".join(f"print({line!r});" for line in lines), "finished:failed").follow()
    assert end.refusal == "two things:\n  one\n  two"
    assert capsys.readouterr().out.splitlines()[1:] == ["run"]
    assert refuse(end.refusal) == 2
    assert capsys.readouterr().err == "The run was refused: two things:\n  one\n  two\n"


def alive_then_gone(looks: int) -> Callable[[], bool]:
    answers = iter([True] * looks)
    return lambda: next(answers, False)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make patience short: what is tested is what follows on what, not how long it takes."""
    for name, seconds in (("GONE_PATIENCE_S", 0.6), ("LOOK_EVERY_S", 0.1), ("UNHEARD_S", 0.4)):
        monkeypatch.setattr(flower_run, name, seconds)


@pytest.mark.usefixtures("quick")
def test_an_app_whose_process_was_killed_ends_the_run_with_a_word_of_it(tag: str) -> None:
    run = follow(tag, STARTED + "time.sleep(60)", "running", alive_then_gone(2))
    end = run.follow()
    assert not end.completed and not end.explained
    assert "the process that ran the app has ended without a word" in end.reason


@pytest.mark.usefixtures("quick")
def test_an_app_that_has_completed_while_its_log_is_slow_is_completed(tag: str) -> None:
    run = follow(tag, STARTED + "time.sleep(60)", "finished:completed", alive_then_gone(2))
    assert run.follow().completed


@pytest.mark.usefixtures("quick")
def test_an_app_that_was_never_seen_is_waited_for(tag: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = follow(tag, STARTED + "time.sleep(2); print('the end')", "finished:completed", lambda: False)
    assert run.follow().completed
    assert "the end" in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_a_run_that_is_not_heard_of_is_told_before_its_silence_is_filled(
    tag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    follow(tag, STARTED + "time.sleep(1.5)", "finished:completed").follow()
    told = [line for line in capsys.readouterr().out.splitlines() if "not heard of the run for" in line]
    assert len(told) == 1


def test_a_process_of_the_run_is_found_by_the_command_it_runs(tag: str) -> None:
    import subprocess

    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(command, env=os.environ | {TAG_VARIABLE: tag}) as process:
        assert is_running(tag, os.path.basename(sys.executable))
        assert not is_running(tag, "flwr-simulation")
        process.kill()
        process.wait()
        assert not is_running(tag, os.path.basename(sys.executable))


def running_then(status: str, file: Path, asked: int) -> list[str]:
    """Return a command that says so often that a run is running, and then how it ended."""
    code = (
        f"import json; file = open({str(file)!r}, 'a+'); file.write('.'); file.seek(0); "
        f"status = {status!r} if len(file.read()) > {asked} else 'running'; "
        "print(json.dumps({'runs': [{'run-id': '7', 'status': status, 'status-details': 'N/A'}]}))"
    )
    return [sys.executable, "-c", code]


def test_a_run_whose_log_was_cut_off_is_waited_for(
    tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(flower_run, "STATUS_PATIENCE_S", 0.0)
    run = replace(follow(tag, STARTED, ""), silence_s=0.3)
    for status, completed in (("finished:completed", True), ("finished:failed", False)):
        asks = running_then(status, tmp_path / status, asked=4)
        end = replace(run, list_command=asks).follow()
        assert end.completed is completed and end.reason.startswith(status)
        assert "launch: Flower's log of the run has ended and the run has not" in capsys.readouterr().out
    never = running_then("finished:completed", tmp_path / "never", asked=10_000)
    assert replace(run, list_command=never, timeout_s=1.0).follow().timed_out
    gone = replace(run, list_command=never, app_is_alive=lambda: False).follow()
    assert not gone.completed and gone.reason == "running: N/A"
