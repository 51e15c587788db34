"""Settings of the launcher with or without their option, anywhere on the line."""

import argparse
from pathlib import Path

import pytest

from server.launch.command import main, parse
from server.launch.command_line import with_settings_option
from server.launch.options import check


@pytest.mark.parametrize(
    "line",
    [
        "run.name=x conf/a.toml seed=2",
        "-c run.name=x conf/a.toml seed=2",
        "run.name=x -c conf/a.toml seed=2",
        "run.name=x --run-config conf/a.toml --workers 3 seed=2",
        "--workers 3 run.name=x --port 7 conf/a.toml -c seed=2",
        "run.name=x --work 3 conf/a.toml -- seed=2",
        "--run-config=run.name=x conf/a.toml -c seed=2",
    ],
)
def test_settings_are_taken_with_and_without_their_option_in_the_order_given(line: str) -> None:
    assert parse(line.split()).run_config == ["run.name=x", "conf/a.toml", "seed=2"]


def test_what_follows_an_option_that_takes_a_value_is_no_setting() -> None:
    options = parse(["--app", "somewhere", "seed=1", "--superlink", "host:1", "--timeout", "-1"])
    assert (str(options.app), options.superlink, options.timeout) == ("somewhere", "host:1", -1.0)
    assert options.run_config == ["seed=1"]


def test_no_settings_are_no_settings() -> None:
    assert parse([]).run_config == []
    assert with_settings_option([], [argparse.Action(["--x"], "x")]) == []


def test_an_unknown_option_is_still_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["seed=1", "--no-such-option"])
    assert stop.value.code == 2 and "--no-such-option" in capsys.readouterr().err


def test_a_python_without_flowers_command_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.machine.environment.sys.executable", str(tmp_path / "python"))
    with pytest.raises(ValueError, match=f"there is no {tmp_path}/flwr, the command that starts Flower"):
        check(parse([]))
    check(parse(["--engine", "in-process"]))
