import csv
from pathlib import Path

import pytest

from sim.contacts.command import main
from sim.plan_files.files import read_plan

HERE = ["--site", "Leh,34.16,77.58,3500", "--site", "Tristan da Cunha,-37.07,-12.31"]


def test_the_default_sky_prints_one_line_a_site(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 satellites, 8 sites, 24 h from 2026-01-01T00:00:00.000Z: 61 passes"
    assert [line.split()[:2] for line in lines[2:4]] == [["Iqaluit", "12"], ["Khatgal", "8"]]
    assert len(lines) == 10


def test_plan_and_windows_are_written_and_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan_file, windows_file = tmp_path / "plan.csv", tmp_path / "windows.csv"
    assert (
        main([*HERE, "--mask", "5", "--out", str(plan_file), "--windows", str(windows_file), "--list"]) == 0
    )
    plan = read_plan(plan_file)
    with windows_file.open() as stream:
        windows = list(csv.DictReader(stream))
    assert list(plan.contacts) == ["Leh", "Tristan da Cunha"]
    served = sorted(c.rise_s for c in plan.contacts["Leh"])
    rises = sorted(float(w["rise_s"]) for w in windows if w["site"] == "Leh")
    assert len(rises) >= len(served)
    assert served[0] == pytest.approx(rises[0], abs=1e-4)
    assert all(5.0 <= float(w["max_elevation_deg"]) <= 90.0 for w in windows)
    printed = capsys.readouterr().out
    assert printed.count("P0") == len(windows)
    assert set(tmp_path.iterdir()) == {plan_file, windows_file}


def test_satellites_of_a_file_are_chosen_by_pattern(
    shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(shared_data / "orbits/celestrak_2026-08-22/stations.txt")
    assert main(["--elements", file, "--only", "iss (z*", "--mask", "10", *HERE]) == 0
    assert capsys.readouterr().out.startswith("1 satellites, 2 sites, 24 h from 2026-08-22T12:00:47.000Z")


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "sky.png"
    assert main(["--picture", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [picture]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mask", "95"], "elevation_mask_deg must be in [0, 90), got 95.0"),
        (["--walker", "24"], "--walker must be T/P/F such as 24/3/1, got '24'"),
        (["--walker", "10/3/0"], "divide the 10 satellites, got 3"),
        (["--site", "A,1"], "--site must be NAME,LATITUDE,LONGITUDE[,METRES], got 'A,1'"),
        (["--start", "noon"], "--start must be a time such as 2026-01-01T06:00, got 'noon'"),
        (["--hours", "0"], "span_s must be in (0, "),
        (["--elements", "none.tle"], "no element file at none.tle"),
        (["--only", "X*"], "--only 'X*' fits none of the 3 satellites"),
        (["--rates", "0", "1"], "down_bps must be a finite number > 0, got 0.0"),
        (["--inclination", "5"], "cluster 'Iqaluit'"),
        (["--serving", "Moon"], "the serving satellite 'Moon' is not among"),
        (["--out", "plan.txt"], "plan.txt: the suffix must be"),
    ],
)
def test_bad_input_is_refused_with_a_message_and_exit_code_two(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "python -m sim.contacts --picture sky.png" in capsys.readouterr().out
