"""The launcher: merged settings, true exit codes, and nothing left behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from server.launch.command import main
from server.launch.flower_run import FlowerRun, read_status
from server.launch.run_config import merge_run_config, write_run_config
from server.machine.environment import FLOWER_CONFIG, checkout_settings, install, local_port
from server.machine.processes import TAG_VARIABLE, end_all, free_port, port_is_free, tagged
from tests.rooms import ROOT

STUB = ROOT / "tests" / "stub_app"


# --- settings ---


def test_files_and_settings_merge_in_order_and_the_last_one_wins(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('seed = 3\n[run]\nname = "from file"\n[sky]\nhours = 2.0\n')
    merged = merge_run_config([str(file), "seed=4 run.name='by hand'", "sky.hours=6.0"], runs_folder=tmp_path)
    assert merged == {"seed": 4, "run.name": "by hand", "sky.hours": 6.0, "run.dir": str(tmp_path)}


def test_two_settings_of_one_table_both_survive(tmp_path: Path) -> None:
    # Flower 1.41 keeps only the last of two -c options that share a table.
    merged = merge_run_config(["run.name=a", "run.resume=b"], runs_folder=tmp_path)
    assert (merged["run.name"], merged["run.resume"]) == ("a", "b")


def test_the_runs_folder_is_absolute_and_an_empty_one_means_the_default(tmp_path: Path) -> None:
    assert merge_run_config(["run.dir=''"], runs_folder=tmp_path)["run.dir"] == str(tmp_path)
    assert merge_run_config(["run.dir=here"], runs_folder=tmp_path)["run.dir"] == str(Path.cwd() / "here")


def test_every_bad_setting_is_named_at_once(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("seed = = 1\n")
    with pytest.raises(ValueError, match=r"nowhere\.toml") as error:
        merge_run_config(["nowhere.toml", str(bad), "no-equals-sign"], runs_folder=tmp_path)
    assert "bad.toml is not valid TOML" in str(error.value)
    assert "'no-equals-sign'" in str(error.value)


def test_what_is_written_reads_back_the_same(tmp_path: Path) -> None:
    settings: dict[str, object] = {
        "run.name": 'a "quoted" name',
        "seed": 1,
        "sky.hours": 0.5,
        "sky.simulated": False,
    }
    assert tomllib.loads(write_run_config(settings, tmp_path / "c.toml").read_text()) == settings


# --- environment ---


def test_the_environment_carries_the_settings_unless_the_user_has_set_them(tmp_path: Path) -> None:
    pth, config, _ = install(tmp_path, tmp_path, tmp_path)
    program = (
        f"import os; exec(open({str(pth)!r}).read()); "
        "print(os.environ['FLWR_HOME'], os.environ['FLWR_TELEMETRY_ENABLED'])"
    )
    # -S: this Python's own .pth file, where `make` has written one, must not answer instead.
    bare = {key: value for key, value in os.environ.items() if not key.startswith("FLWR_")}
    own = subprocess.run(
        [sys.executable, "-S", "-c", program], env=bare, capture_output=True, text=True, check=True
    )
    assert own.stdout.split() == [str(tmp_path / ".flwr"), "0"]
    theirs = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env=bare | {"FLWR_HOME": "mine"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert theirs.stdout.split() == ["mine", "0"]
    assert tomllib.loads(config.read_text())["superlink"]["local"]["address"] == ":local:"


def test_a_pth_file_holds_one_line_that_python_runs(tmp_path: Path) -> None:
    pth, *_ = install(tmp_path, tmp_path, tmp_path)
    lines = pth.read_text().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("import ")


def test_flower_reads_its_simulation_options_from_our_file() -> None:
    from flwr.cli.flower_config import parse_superlink_connection

    table = tomllib.loads(FLOWER_CONFIG.format(nodes=6, workers=3))["superlink"]
    options = parse_superlink_connection(table[table["default"]], "local").options
    assert options is not None and options.backend is not None
    assert options.num_supernodes == 6
    assert options.backend.client_resources is not None and options.backend.client_resources.num_cpus == 1
    assert options.backend.init_args is not None and options.backend.init_args.num_cpus == 3


def test_two_checkouts_do_not_share_a_port_or_a_home() -> None:
    here, there = Path("/a/checkout"), Path("/another/checkout")
    assert 20000 <= local_port(here) < 32000
    assert checkout_settings(here) != checkout_settings(there)
    assert local_port(here) != local_port(there)


# --- processes ---

SLEEPER = "import time; time.sleep(60)"
DEAF_SLEEPER = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('ready', flush=True); time.sleep(60)"
)
# A daemon as Flower starts one: detached, its parent gone.
DETACHED = (
    "import subprocess as s, sys; "
    "p = s.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], "
    "stdout=s.DEVNULL, stderr=s.DEVNULL, start_new_session=True); print(p.pid)"
)


def test_a_detached_process_is_found_by_its_tag_and_ended() -> None:
    tag = uuid.uuid4().hex
    environment = os.environ | {TAG_VARIABLE: tag}
    parent = subprocess.run(
        [sys.executable, "-c", DETACHED], env=environment, capture_output=True, text=True, check=True
    )
    pid = int(parent.stdout)
    assert [process.pid for process in tagged(tag)] == [pid]
    assert end_all(lambda: tagged(tag)) == 1
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_process_that_will_not_listen_is_killed() -> None:
    tag = uuid.uuid4().hex
    with subprocess.Popen(
        [sys.executable, "-c", DEAF_SLEEPER],
        env=os.environ | {TAG_VARIABLE: tag},
        stdout=subprocess.PIPE,
        text=True,
    ) as deaf:
        assert deaf.stdout is not None and deaf.stdout.readline() == "ready\n"
        said: list[str] = []
        assert end_all(lambda: tagged(tag), grace_s=0.5, say=said.append) == 1
        assert not psutil.pid_exists(deaf.pid)
    assert len(said) == 1


def test_processes_without_the_tag_are_left_alone() -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEPER]) as other:
        assert end_all(lambda: tagged(uuid.uuid4().hex)) == 0
        assert other.poll() is None
        other.kill()


def test_a_port_that_is_listened_on_is_not_free() -> None:
    import socket

    port = free_port()
    assert port_is_free(port)
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()
        assert not port_is_free(port)


# --- one run, with Flower's answers played by small programs ---


def follow(
    run: str, status: str = "finished:completed", *, timeout_s: float = 0.0, silence_s: float = 60.0
) -> FlowerRun:
    answer = json.dumps(
        {"success": True, "runs": [{"run-id": "7", "status": status, "status-details": "the reason"}]}
    )
    return FlowerRun(
        command=[sys.executable, "-c", run],
        list_command=[sys.executable, "-c", f"print({answer!r})"],
        environment=dict(os.environ),
        silence_s=silence_s,
        timeout_s=timeout_s,
    )


STARTED = "print('Successfully started run 7', flush=True); "


def test_a_run_that_flower_calls_completed_is_completed() -> None:
    assert follow(STARTED).follow().completed


def test_a_failed_run_is_not_completed_though_flwr_run_exits_with_0() -> None:
    end = follow(STARTED, "finished:failed").follow()
    assert not end.completed
    assert end.reason == "finished:failed: the reason"


def test_a_command_that_fails_or_starts_nothing_is_not_completed() -> None:
    assert "code 3" in follow("raise SystemExit(3)").follow().reason
    assert "started no run" in follow("print('hello')").follow().reason


def test_silence_is_filled_and_output_is_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    follow(STARTED + "import time; time.sleep(1.5); print('the table')", silence_s=0.4).follow()
    out = capsys.readouterr().out
    assert "the run goes on" in out
    assert out.rstrip().endswith("the table")


def test_flowers_remarks_about_itself_are_left_out_and_nothing_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = [
        "\x1b[93mWARNING \x1b[0m:   Since flwr 1.32, default simulated SuperNodes changed from 10 to 2.",
        "\x1b[92mINFO \x1b[0m:      ",
        "\x1b[92mINFO \x1b[0m:      Starting Flower Simulation",
        "",
        "after 4 merges: loss 4.2",
    ]
    follow(STARTED + "\n".join(f"print({line!r})" for line in lines)).follow()
    said = capsys.readouterr().out.splitlines()
    assert said[1:] == ["INFO :      Starting Flower Simulation", "", "after 4 merges: loss 4.2"]


def test_a_run_beyond_its_time_is_reported_so() -> None:
    tag = uuid.uuid4().hex
    run = follow(STARTED + "import time; time.sleep(60)", timeout_s=0.5)
    run.environment[TAG_VARIABLE] = tag
    end = run.follow()
    end_all(lambda: tagged(tag))
    assert end.timed_out and not end.completed


@pytest.mark.parametrize("answer", ["", "not json", "{}", '{"success": false}', '{"runs": []}'])
def test_an_unreadable_status_is_no_status(answer: str) -> None:
    assert read_status(answer) == ("", "")


def test_wrong_use_is_refused_with_every_fault_before_anything_starts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--workers", "0", "--timeout", "-1", "--app", "/nowhere"]) == 2
    said = capsys.readouterr().err
    assert "--workers" in said and "--timeout" in said and "--app" in said


def test_impossible_settings_are_refused_all_at_once_before_anything_starts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.launch.command.make_home", lambda: pytest.fail("something was started"))
    assert main(["-c", "sky.elevation-mask-deg=95 population.devices=0", "no-such.key=1"]) == 2
    said = capsys.readouterr().err
    assert "sky.elevation-mask-deg" in said and "population.devices" in said and "no-such.key" in said


# --- real runs ---


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Make a folder whose path leaves room for the Unix sockets that Ray makes under it."""
    folder = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def launch_stub(*settings: str, cwd: Path) -> subprocess.Popen[str]:
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
        "from server.launch.command import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [
        sys.executable,
        "-c",
        program,
        "--app",
        str(STUB),
        "--workers",
        "1",
        "--nodes",
        "1",
        "--timeout",
        "150",
    ]
    return subprocess.Popen(
        [*command, "--run-config", *settings],
        cwd=cwd,
        env=os.environ | {"HOME": str(cwd), "TMPDIR": str(cwd)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def left_behind(folder: Path) -> list[str]:
    """Commands of processes that were started with this folder as their home."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()[:3]))
        except (psutil.Error, OSError):
            continue
    return found


@pytest.mark.deployment
def test_a_real_run_that_raises_exits_with_1_and_leaves_nothing_behind(short_folder: Path) -> None:
    with launch_stub("fail=true", cwd=short_folder) as process:
        output, _ = process.communicate(timeout=200)
    assert process.returncode == 1, output
    assert "the stub was told to fail" in output
    assert left_behind(short_folder) == []
    assert [path.name for path in short_folder.iterdir()] == []


@pytest.mark.deployment
def test_ctrl_c_ends_a_real_run_with_130_and_leaves_nothing_behind(short_folder: Path) -> None:
    with launch_stub("sleep-s=120.0", cwd=short_folder) as process:
        assert process.stdout is not None
        deadline_s = time.monotonic() + 120
        while "the stub has started" not in (line := process.stdout.readline()):
            assert line and time.monotonic() < deadline_s, "the stub did not start"
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert left_behind(short_folder) == []
    assert [path.name for path in short_folder.iterdir()] == []
