"""File names are names and not patterns; site names of any letters survive every file that is written."""

import csv
import datetime as dt
from pathlib import Path

import pytest

from sim.contacts.command import main
from sim.orbits.elements import read_elements
from sim.plan_files.files import read_plan, write_plan
from sim.plan_files.stk import read_stk, write_stk
from sim.plans.plan import ContactPlan
from sim.sites import read_sites
from tests.sim.grid.skies import flat
from tests.sim.orbits.elements_text import tle
from tests.sim.test_site_files import NAMES

PATHS = ["a[1]", "a*", "a?", "[!a]", "x=1", "{a,b}", "a:b", "~", "a b", "%s", "é", "file:x"]
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
PLAN = ContactPlan(
    horizon_s=1e5,
    contacts={
        name: (flat(100.0 * place, 100.0 * place + 50.0, 7.0, 5.0),) for place, name in enumerate(NAMES)
    },
)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".ion"])
@pytest.mark.parametrize("name", PATHS)
def test_a_plan_is_written_to_and_read_from_the_file_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, suffix: str
) -> None:
    # A file that the name as a pattern would fit, and a folder whose name looks like a column.
    (tmp_path / "year=2026").mkdir()
    monkeypatch.chdir(tmp_path / "year=2026")
    Path("a1" + suffix).write_text("another file")
    write_plan(PLAN, name + suffix)
    assert read_plan(name + suffix) == PLAN
    assert sorted(path.name for path in Path().iterdir()) == sorted(["a1" + suffix, name + suffix])


@pytest.mark.parametrize("name", PATHS)
def test_elements_and_sites_are_read_from_the_file_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for other in ("a1", "ab", "b"):
        Path(other).write_text("another file")
    Path(name).write_text(tle())
    assert [satellite.name for satellite in read_elements(name)] == ["GOOD"]
    Path(name).write_text("name,lat,lon\nA,1,2\n")
    assert [site.name for site in read_sites(name)] == ["A"]


def test_a_pattern_that_only_fits_other_files_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a1.tle").write_text(tle())
    for name in ("a[1].tle", "a*.tle", "a?.tle"):
        with pytest.raises(ValueError, match="no element file at"):
            read_elements(tmp_path / name)


def test_an_access_report_of_any_names_reads_back(tmp_path: Path) -> None:
    write_stk(PLAN, tmp_path / "access.csv", start=START)
    again = read_stk(tmp_path / "access.csv", start=START, down_bytes_per_s=7.0, up_bytes_per_s=5.0)
    assert list(again.contacts) == NAMES


def test_the_command_takes_sites_of_any_name_and_writes_them_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sites, windows = tmp_path / "sites.csv", tmp_path / "windows.csv"
    with sites.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("name", "lat", "lon"), *((name, 10.0, 20.0) for name in NAMES)])
    files = [tmp_path / f"plan{suffix}" for suffix in (".csv", ".parquet", ".ion")]
    for file in files:
        assert (
            main(["--sites", str(sites), "--mask", "5", "--out", str(file), "--windows", str(windows)]) == 0
        )
        assert list(read_plan(file).contacts) == NAMES
    with windows.open(encoding="utf-8", newline="") as stream:
        assert list(dict.fromkeys(row["site"] for row in csv.DictReader(stream))) == NAMES
    printed = capsys.readouterr().out
    assert all(name in printed for name in NAMES)
