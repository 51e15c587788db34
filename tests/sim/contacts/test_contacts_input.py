"""What ``python -m sim.contacts`` says of input it cannot use, and to streams that know few letters."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sim.contacts.command import main
from tests.rooms import ROOT
from tests.sim.orbits.elements_text import tle

HERE = ["--site", "Xi'an, (east) [1],10,20", "--mask", "5"]


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command as a user does, in an environment of few letters."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    return subprocess.run(
        [sys.executable, "-m", "sim.contacts", *arguments],
        cwd=ROOT,
        env={**plain, **environment},
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "ascii:strict", "LANG": "C"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
)
def test_names_of_any_letters_do_not_stop_a_stream_of_few(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    sites = tmp_path / "sites.csv"
    sites.write_text("name,lat,lon\nSão Tomé 日本,10,20\n", encoding="utf-8")
    done = command("--sites", str(sites), "--mask", "5", "--list", **environment)
    assert done.returncode == 0, done.stderr.decode()
    assert b"S\\xe3o Tom\\xe9 \\u65e5\\u672c" in done.stdout
    assert b"Traceback" not in done.stderr


def test_an_error_about_a_name_of_any_letters_is_said_to_a_stream_of_few() -> None:
    done = command("--site", "São Tomé,95,0", PYTHONIOENCODING="ascii:strict")
    assert done.returncode == 2
    assert b"S\\xe3o Tom\\xe9" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ("GOOD", ["GOOD"]),
        ("starlink-1 [dtc]", ["STARLINK-1 [DTC]"]),
        ("STARLINK* [[]DTC]", None),
        ("STARLINK-? [DTC]", ["STARLINK-1 [DTC]", "STARLINK-2 [DTC]"]),
        ("*[+]", ["A, B [+]"]),
        ("a, b*", ["A, B [+]"]),
        ("*", ["STARLINK-1 [DTC]", "STARLINK-2 [DTC]", "A, B [+]", "GOOD"]),
        ("[G]OOD", None),
        ("(", None),
    ],
)
def test_only_takes_brackets_and_commas_as_letters_of_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], only: str, names: list[str] | None
) -> None:
    file = tmp_path / "a.tle"
    all_names = ("STARLINK-1 [DTC]", "STARLINK-2 [DTC]", "A, B [+]", "GOOD")
    file.write_text("".join(tle(name, number=number) for number, name in enumerate(all_names, 1)))
    code = main(["--elements", str(file), "--only", only, *HERE, "--list"])
    printed = capsys.readouterr()
    if names is None:
        assert code == 2
        assert f"--only {only!r} fits none of the 4 satellites" in printed.err
    else:
        assert {name for name in all_names if f" {name} " in printed.out} == set(names)


def test_only_that_fits_nothing_shows_names_that_are_near(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.tle").write_text(tle("ISS (ZARYA)"))
    assert main(["--elements", str(tmp_path / "a.tle"), "--only", "ISS ZARYA"]) == 2
    assert "fits none of the 1 satellites; near it are ISS (ZARYA)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Xi'an,34,108", "Xi'an"),
        ("São Tomé,0,6,10", "São Tomé"),
        ("Washington, D.C.,38.9,-77", "Washington, D.C."),
        ('"Base, 7",1,2', "Base, 7"),
        ('"A ""b""",1,2,3', 'A "b"'),
        ('The "Rock",1,2', 'The "Rock"'),
        ("  Sioux   Falls ,1,2", "Sioux Falls"),
    ],
)
def test_a_site_on_the_command_line_may_have_any_name(
    capsys: pytest.CaptureFixture[str], text: str, name: str
) -> None:
    assert main(["--site", text]) == 0
    assert capsys.readouterr().out.splitlines()[2].startswith(f"{name} ")


@pytest.mark.parametrize("text", ["A,1,2,3,4", "A,1", "A", '"A"', '"A",x,1', "1,2"])
def test_a_site_without_its_numbers_is_refused(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert main(["--site", text]) == 2
    assert f"--site must be NAME,LATITUDE,LONGITUDE[,METRES], got {text!r}" in capsys.readouterr().err


def test_satellites_that_are_left_out_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.tle").write_text(tle() + tle("XP", number=5, kind="4"))
    assert main(["--elements", str(tmp_path / "a.tle"), *HERE]) == 0
    printed = capsys.readouterr()
    assert "note: " in printed.err and "left out XP: its elements are of ephemeris type 4" in printed.err
    assert printed.out.startswith("1 satellites, 1 sites")


def test_the_picture_shows_dollar_signs_as_they_are(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "a.tle").write_text(tle("$\\bad{$"))
    picture = tmp_path / "sky[1].png"
    arguments = ["--elements", str(tmp_path / "a.tle"), "--site", "$\\frac{$,10,20", "--mask", "5"]
    assert main([*arguments, "--picture", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_is_not_there_is_named_before_anything_is_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "none" / "here.csv"
    for option in ("--windows", "--out", "--picture"):
        assert main([option, str(file), "--elements", "absent"]) == 2
        said = f"sim.contacts: cannot write {file}: there is no folder {file.parent}; make it first"
        assert capsys.readouterr().err.strip() == said


@pytest.mark.parametrize(
    "arguments",
    [
        ["--start", "9999-12-31T23:00"],
        ["--start", "0001-01-01"],
        ["--hours", "nan"],
        ["--hours", "inf"],
        ["--hours", "-1"],
        ["--step", "nan"],
        ["--altitude", "nan"],
        ["--ut1-utc", "nan"],
        ["--walker", "9/9/9/9"],
        ["--walker", "²/1/0"],
        ["--walker", "0/0/0"],
        ["--sites", "."],
        ["--elements", "."],
        ["--sites", "\0"],
        ["--site", "A,1,2", "--site", "A,3,4"],
        ["--gateway", "A"],
    ],
)
def test_impossible_input_is_refused_in_one_line_and_without_a_traceback(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("sim.contacts: ")
    assert len(printed.err.splitlines()) <= 2  # one a fault
    assert printed.out == ""
