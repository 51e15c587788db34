"""The command ems-fl: it is installed, it explains itself, and it ends as the command behind it ends."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.app import app
from server.machine.environment import write_command
from server.record.run_folder import RESUME_FILE
from server.report.summary import SUMMARY_FILE, ClusterSummary, Cost, RunSummary, read_summary, write_summary
from tests.rooms import ROOT

COMMANDS = ("run", "demo", "resume", "report", "inspect", "prepare", "export", "contacts", "stop")
COST = Cost(bytes_down=3, bytes_up=2, trainable_parameters=1)
SUMMARY = RunSummary(
    strategy="ems-fl",
    clusters=(ClusterSummary(name="Leh", domain="licences", experts_per_layer=(1, 2), own_loss_after=3.25),),
    spent=COST,
    full_adapter=COST,
    full_model=COST,
    clock_s=86_400.0,
    wall_s=1.5,
    stop_reason="the horizon was reached",
    run_folder="/elsewhere",
    warnings=("routing is near uniform",),
)
runner = CliRunner()


def test_it_is_installed_as_a_command_that_works_from_any_folder(tmp_path: Path) -> None:
    command = write_command(ROOT, tmp_path)
    told = subprocess.run([command, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [name for name in COMMANDS if f"\n  {name} " in told.stdout] == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_examples_under_its_own_name(name: str) -> None:
    told = runner.invoke(app, [name, "--help"])
    assert told.exit_code == 0, told.output
    if name != "stop":
        assert f"ems-fl {name}" in told.output.partition("example")[2]
        assert "python -m" not in told.output


def test_a_command_ends_with_the_exit_code_of_the_one_behind_it(tmp_path: Path) -> None:
    assert runner.invoke(app, ["inspect", str(tmp_path)]).exit_code == 1
    assert runner.invoke(app, ["contacts", "--hours", "-1"]).exit_code == 2
    assert runner.invoke(app, ["contacts", "--hours", "3"]).exit_code == 0


def test_a_summary_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_summary(tmp_path, SUMMARY)
    assert read_summary(tmp_path) == SUMMARY


def test_report_shows_a_finished_run_where_it_lies_now(tmp_path: Path) -> None:
    write_summary(tmp_path, replace(SUMMARY, stop_reason="max-merges was reached"))
    told = runner.invoke(app, ["report", str(tmp_path)])
    assert told.exit_code == 0
    assert "ems-fl ended: max-merges was reached" in told.output
    assert str(tmp_path) in told.output and "/elsewhere" not in told.output


def test_report_says_of_each_folder_what_it_lacks_or_that_it_is_none_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stopped, damaged, other = (tmp_path / name for name in ("stopped", "damaged", "other"))
    for folder in (stopped, damaged, other):
        folder.mkdir()
    (stopped / RESUME_FILE).write_text("")
    (damaged / SUMMARY_FILE).write_text('{"strategy": "ems-fl"}')
    told = runner.invoke(app, ["report", str(stopped), str(damaged), str(other)])
    assert told.exit_code == 2
    lines = told.output.strip().splitlines()
    assert sum("is not the folder of a run" in line for line in lines) == 1
    assert any("still going or was stopped" in line and f"ems-fl resume {stopped}" in line for line in lines)
    assert any("is damaged, or another version" in line and "clusters" in line for line in lines)
    assert (tmp_path / "runs.html").is_file()


def test_resume_refuses_a_folder_that_is_no_run(tmp_path: Path) -> None:
    told = runner.invoke(app, ["resume", str(tmp_path)])
    assert told.exit_code == 2
    assert f"{tmp_path} has no {RESUME_FILE}" in told.output


def test_no_heavy_package_is_loaded_to_show_the_help() -> None:
    program = (
        "import sys; from cli.app import app; print({'torch', 'flwr', 'transformers'} & set(sys.modules))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "set()"
