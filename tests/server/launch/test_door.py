"""The door: what cannot be used is refused before anything starts, in its own words and nothing else."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from scenario.settings.config import Scalar
from scenario.settings.reading import read_config
from server.launch.command import main
from server.launch.door import check_inputs
from server.record.run_folder import check_can_be_made, name_run_folder

Settings = dict[str, Scalar]


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """Put back what the launcher does with signals in its own process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def refused(settings: Settings) -> str:
    with pytest.raises(ValueError) as error:
        check_inputs(read_config(settings), print)
    return str(error.value)


def own_data(tmp_path: Path) -> Settings:
    return {
        "run.dir": str(tmp_path / "runs"),
        "data.source": str(tmp_path / "texts.csv"),
        "data.domain-column": "domain",
    }


def test_faults_of_folder_model_sky_and_data_are_told_together_without_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "server.model_input", None)  # importing it would fail
    (tmp_path / "runs").touch()
    said = refused(
        own_data(tmp_path)
        | {"sky.plan-file": str(tmp_path / "plan.csv"), "model.name": str(tmp_path / "no-model")}
    )
    lines = said.split("\n")
    assert len(lines) == 4
    for line, named in zip(lines, ("runs", "no-model", "plan.csv", "texts.csv"), strict=True):
        assert named in line


def test_a_file_of_sites_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    said = refused({"run.dir": str(tmp_path), "population.sites": str(tmp_path / "nowhere.csv")})
    assert said == f"no sites file at {tmp_path / 'nowhere.csv'}"


def test_a_run_folder_that_cannot_go_on_is_refused(tmp_path: Path) -> None:
    assert "is not a run folder" in refused({"run.resume": str(tmp_path)})


def test_a_run_folder_is_tried_without_being_made(tmp_path: Path) -> None:
    folder = tmp_path / "a [new] one" / "runs" / "demo"
    check_can_be_made(folder)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="EMS_FL_RUNS"):
        check_can_be_made(Path("/dev/null/runs/demo"))


def test_a_user_without_a_home_is_told_which_variable_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    for name in ("EMS_FL_RUNS", "XDG_DATA_HOME", "HF_HOME", "XDG_CACHE_HOME", "EMS_FL_CACHE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="EMS_FL_RUNS"):
        name_run_folder(read_config({}))
    said = refused({"run.dir": "/tmp", "data.source": "/tmp/x.csv", "data.domain-column": "domain"})
    assert "HF_HOME" in said


def test_a_home_that_cannot_be_written_is_told_with_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwritable(*_: object, **__: object) -> None:
        try:
            (Path("/dev/null") / "cache").mkdir()
        except OSError as error:
            raise ValueError("the data cannot be read") from error

    monkeypatch.setattr("server.inputs.text_from", unwritable)
    assert "set HF_HOME to a folder that can be written" in refused(own_data(tmp_path))


def test_the_launcher_starts_nothing_and_its_last_word_is_the_refusal_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("server.launch.command.prepare", lambda *_: pytest.fail("Flower was started"))
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr("server.launch.command.make_home", lambda: home)
    line = [f"{key}={value}" for key, value in own_data(tmp_path).items()]
    assert main([*line, "--silence", "600"]) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.startswith("The run was refused: ") and "texts.csv" in said.err
    assert "Traceback" not in said.err
    assert not home.exists()


def test_a_folder_called_server_where_the_user_stands_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("server.launch.command.prepare", lambda *_: pytest.fail("Flower was started"))
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "__init__.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    assert main(["model.name=/nowhere/at/all", "--silence", "600"]) == 2
    assert "/nowhere/at/all" in capfd.readouterr().err
