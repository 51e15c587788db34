"""The run folder and its log: same bytes for the same events, cut back on resume, never silent."""

import json
import subprocess
import sys
import threading
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from flwr.common.config import parse_config_args

from scenario.settings.config import RunConfig
from scenario.settings.reading import read_config
from server.record.event_log import EventLog, read_events
from server.record.run_folder import (
    check_resumable,
    create_run_folder,
    name_run_folder,
    read_settings,
    write_atomically,
)
from server.record.run_log import LOOK_EVERY_S, RunLog, day_clock
from tests.rooms import ROOT

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def quiet_config(heartbeat_s: float = 3600.0) -> RunConfig:
    return read_config({"run.heartbeat-s": heartbeat_s})


# -- the folder ----------------------------------------------------------------------------------------


def test_a_run_folder_is_named_after_the_run_and_the_instant(tmp_path: Path) -> None:
    config = read_config({"run.dir": str(tmp_path), "run.name": "trial"})
    first = name_run_folder(config, NOW)
    assert first == tmp_path / "trial-20260102T030405Z"
    first.mkdir()
    assert name_run_folder(config, NOW) == tmp_path / "trial-20260102T030405Z-2"


def test_runs_go_to_the_users_data_folder_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMS_FL_RUNS", str(tmp_path / "mine"))
    assert name_run_folder(read_config({})).parent == tmp_path / "mine"
    monkeypatch.delenv("EMS_FL_RUNS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert name_run_folder(read_config({}), NOW).parent == tmp_path / "ems-fl" / "runs"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert name_run_folder(read_config({}), NOW).parent == tmp_path / ".local/share/ems-fl/runs"


def test_a_resumed_run_keeps_its_folder(tmp_path: Path) -> None:
    assert name_run_folder(read_config({"run.resume": str(tmp_path)}), NOW) == tmp_path


def test_a_new_run_does_not_write_into_another_ones_folder(tmp_path: Path) -> None:
    (tmp_path / "state.bin").write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"is not empty; choose another run\.dir or run\.name"):
        RunLog.create(tmp_path, quiet_config())
    assert [path.name for path in tmp_path.iterdir()] == ["state.bin"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be written \(Not a directory\); set run.dir"):
        RunLog.create(tmp_path / "file" / "run", quiet_config())
    # The kernel refuses this to everybody, root included.
    with pytest.raises(ValueError, match=r"cannot be written .*; set run.dir"):
        RunLog.create(Path("/proc/ems-fl-run"), quiet_config())


def test_the_resolved_settings_repeat_the_run(tmp_path: Path) -> None:
    config = read_config({"seed": 5, "train.max-steps": 7, "run.name": "x"})
    create_run_folder(tmp_path / "run", config)
    assert read_config(parse_config_args([str(tmp_path / "run" / "config.toml")])) == config
    assert read_settings(tmp_path / "run") == config


def test_the_resume_file_continues_the_run(tmp_path: Path) -> None:
    create_run_folder(tmp_path / "run", read_config({"seed": 5}))
    resumed = read_config(parse_config_args([str(tmp_path / "run" / "resume.toml")]))
    assert resumed.run.resume == str(tmp_path / "run")
    check_resumable(name_run_folder(resumed), resumed)


def test_the_settings_say_which_versions_made_them(tmp_path: Path) -> None:
    create_run_folder(tmp_path / "run", quiet_config())
    text = (tmp_path / "run" / "config.toml").read_text()
    assert "flwr 1." in text and "torch " in text
    tomllib.loads(text)


def test_resuming_with_other_settings_names_each_that_differs(tmp_path: Path) -> None:
    create_run_folder(tmp_path / "run", read_config({"train.max-steps": 7, "merge.max-merges": 3}))
    asked = read_config({"seed": 2, "train.max-steps": 16, "merge.max-merges": 9, "run.heartbeat-s": 1.0})
    with pytest.raises(ValueError) as caught:
        check_resumable(tmp_path / "run", asked)
    message = str(caught.value)
    assert "  seed is 2, was 1\n" in message
    assert "  train.max-steps is 16, was 7\n" in message
    assert "max-merges" not in message and "heartbeat" not in message
    assert str(tmp_path / "run" / "resume.toml") in message


def test_a_run_that_ran_out_of_memory_goes_on_with_fewer_models_kept(tmp_path: Path) -> None:
    create_run_folder(tmp_path / "run", read_config({"model.kept-mb": 500.0}))
    check_resumable(tmp_path / "run", read_config({"model.kept-mb": 0.0}))


def test_resuming_what_is_not_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a run folder"):
        RunLog.resume(tmp_path, quiet_config(), offset=0, merges=0)
    (tmp_path / "config.toml").write_text("seed = [broken")
    with pytest.raises(ValueError, match="are damaged"):
        RunLog.resume(tmp_path, quiet_config(), offset=0, merges=0)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(tmp_path / "a.txt", "new \ud800")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


# -- events --------------------------------------------------------------------------------------------


def test_events_are_the_same_bytes_whatever_the_order_of_keys(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.append({"time_s": 60.5, "event": "merged", "experts": [[3, 4], (3, 9)]})
    log.append({"experts": [[3, 4], (3, 9)], "event": "merged", "time_s": np.float64(60.5)})
    log.close()
    first, second = (tmp_path / "events.jsonl").read_bytes().splitlines()
    assert first == second == b'{"event":"merged","experts":[[3,4],[3,9]],"time_s":60.5}'


def test_numpy_scalars_are_written_as_numbers(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.append({"n": np.int64(7), "x": np.float32(0.5), "yes": np.bool_(True), "none": None, "é": "ü\u2028"})
    log.close()
    assert read_events(tmp_path / "events.jsonl") == [
        {"n": 7, "x": 0.5, "yes": True, "none": None, "é": "ü\u2028"}
    ]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"loss": float("nan")}, "loss must be finite, got nan"),
        ({"loss": {"own": [1.0, float("inf")]}}, r"loss.own\[1\] must be finite, got inf"),
        ({"loss": np.float32("nan")}, "loss must be finite, got nan"),
        ({"blob": b"123"}, "blob is of type bytes, which is not JSON"),
        ({"values": np.zeros(2)}, "values is of type ndarray"),
        ({"by": {3: 1}}, "by has the key 3, which is not text"),
        ({"wall_s": 1.5}, "wall_s is wall time"),
    ],
)
def test_an_event_that_is_no_honest_json_is_refused(
    tmp_path: Path, record: dict[str, object], words: str
) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    with pytest.raises(ValueError, match=words):
        log.append(record)
    assert log.offset == 0
    log.close()


def test_a_resumed_log_equals_one_never_stopped(tmp_path: Path) -> None:
    events = [{"event": "merged", "n": n} for n in range(6)]
    straight = RunLog.create(tmp_path / "straight", quiet_config())
    for event in events:
        straight.event(event)
    straight.close()
    with RunLog.create(tmp_path / "stopped", quiet_config()) as log:
        log.event(events[0])
        log.event(events[1])
        saved = log.offset
        log.event({"event": "lost with the crash"})
    with RunLog.resume(tmp_path / "stopped", quiet_config(), offset=saved, merges=2) as log:
        assert log.offset == saved
        for event in events[2:]:
            log.event(event)
    logs = [(tmp_path / name / "events.jsonl").read_bytes() for name in ("straight", "stopped")]
    assert logs[0] == logs[1]


def test_an_offset_that_is_not_this_logs_is_refused_and_nothing_is_cut(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.append({"event": "a"})
    size = log.offset
    with pytest.raises(ValueError, match="resume from the state that belongs to it"):
        log.truncate(size + 1)
    with pytest.raises(ValueError, match="is inside a line"):
        log.truncate(size - 2)
    log.append({"event": "b"})
    log.truncate(size)
    log.close()
    assert read_events(tmp_path / "events.jsonl") == [{"event": "a"}]


def test_two_runs_cannot_write_one_log(tmp_path: Path) -> None:
    first = EventLog(tmp_path / "events.jsonl")
    with pytest.raises(ValueError, match="another run is writing"):
        EventLog(tmp_path / "events.jsonl")
    first.close()
    EventLog(tmp_path / "events.jsonl").close()


def test_half_a_line_is_an_error_with_its_number(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"event":"a"}\n{"event"')
    with pytest.raises(ValueError, match=r"line 2 of .* is not JSON"):
        read_events(tmp_path / "events.jsonl")


def test_an_event_is_in_the_file_even_if_the_process_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from server.record.event_log import EventLog;"
        "EventLog(Path(sys.argv[1])).append({'event': 'a'}); os._exit(9)"
    )
    path = tmp_path / "events.jsonl"
    assert subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT, check=False).returncode == 9
    EventLog(path).close()
    assert read_events(path) == [{"event": "a"}]


# -- curves --------------------------------------------------------------------------------------------


def points(folder: Path, tag: str) -> list[tuple[int, float, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = EventAccumulator(str(folder / "curves"))
    curves.Reload()
    return [(point.step, point.value, point.wall_time) for point in curves.Scalars(tag)]


def test_tensorboard_reads_the_curves_by_merge_and_by_the_runs_clock(tmp_path: Path) -> None:
    with RunLog.create(tmp_path / "run", quiet_config()) as log:
        log.scalar("loss/nairobi", 4.5, merges=0, time_s=0.0)
        log.scalar("loss/nairobi", 4.25, merges=8, time_s=5400.0)
    assert points(tmp_path / "run", "loss/nairobi") == [(0, 4.5, 0.0), (8, 4.25, 5400.0)]


def test_points_after_the_saved_state_are_hidden_when_it_is_resumed(tmp_path: Path) -> None:
    with RunLog.create(tmp_path / "run", quiet_config()) as log:
        for merges, value in ((1, 4.0), (2, 3.0), (3, 99.0)):
            log.scalar("loss", value, merges=merges, time_s=60.0 * merges)
    with RunLog.resume(tmp_path / "run", quiet_config(), offset=0, merges=2) as log:
        log.scalar("loss", 2.0, merges=3, time_s=180.0)
    assert [value for _, value, _ in points(tmp_path / "run", "loss")] == [4.0, 3.0, 2.0]


def test_a_curve_takes_no_nan(tmp_path: Path) -> None:
    with (
        RunLog.create(tmp_path / "run", quiet_config()) as log,
        pytest.raises(ValueError, match="curve 'loss' must be finite, got nan at merge 3"),
    ):
        log.scalar("loss", float("nan"), merges=3, time_s=1.0)


# -- the screen ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time_s", "shown"),
    [(0.0, "0 00:00"), (59.9, "0 00:00"), (60.0, "0 00:01"), (86_399.0, "0 23:59"), (86_400.0, "1 00:00"),
     (93_784.0, "1 02:03")],
)  # fmt: skip
def test_the_runs_clock_reads_days_hours_minutes(time_s: float, shown: str) -> None:
    assert day_clock(time_s) == shown


def test_a_progress_line_starts_with_the_runs_clock(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunLog.create(tmp_path / "run", quiet_config()) as log:
        log.say("nairobi merged 3 updates", 93_784.0)
        log.say("profiles are in")
    assert capsys.readouterr().out == "1 02:03  nairobi merged 3 updates\nprofiles are in\n"


def test_a_long_silence_is_broken_by_what_the_run_is_doing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = {"evaluating the merged model": threading.Event(), "waiting for node 3": threading.Event()}

    def listen(line: str) -> None:
        for activity, event in heard.items():
            if line.startswith(f"... {activity} ("):
                event.set()

    with RunLog.create(tmp_path / "run", quiet_config(0.05)) as log:
        monkeypatch.setattr(log, "say", listen)
        with log.doing("evaluating the merged model"):
            assert heard["evaluating the merged model"].wait(20)
        log.waiting("waiting for node 3")
        assert heard["waiting for node 3"].wait(20)


def test_a_short_silence_is_not_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog.create(tmp_path / "run", quiet_config(3600.0)) as log:
        log.waiting("waiting")
        time.sleep(3 * LOOK_EVERY_S)
    assert capsys.readouterr().out == ""


def test_wall_times_go_to_a_file_of_their_own(tmp_path: Path) -> None:
    with RunLog.create(tmp_path / "run", quiet_config()) as log:
        with log.doing("assigning experts"):
            pass
        log.timing("client train step", 0.0125)
    lines = [json.loads(line) for line in (tmp_path / "run" / "timings.jsonl").read_text().splitlines()]
    assert [line["what"] for line in lines] == ["assigning experts", "client train step"]
    assert all(line["wall_s"] >= 0 for line in lines)
    assert (tmp_path / "run" / "events.jsonl").read_bytes() == b""


def test_closing_twice_does_nothing(tmp_path: Path) -> None:
    log = RunLog.create(tmp_path / "run", quiet_config())
    log.close()
    log.close()


def test_the_log_needs_no_torch_until_a_curve_is_drawn() -> None:
    script = "import sys, server.record.run_log, server.report.screen; print('torch' in sys.modules)"
    command = [sys.executable, "-c", script]
    assert subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout == "False\n"
