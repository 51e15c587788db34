"""Text as editors, spreadsheets and shells save it is read, or refused for what it looks like."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from sim.orbits.elements import read_elements
from sim.plan_files.files import read_plan
from sim.sites import read_sites
from tests.sim.orbits.elements_text import FORMS, omm, tle, written

SITES = "name,latitude_deg,longitude_deg\nSão Gabriel,-0.13,-67.09\nXi'an,34.3,108.9\n"
ION = "a contact +0 +60 1 2 100\na contact +0 +60 2 1 100\n"
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
Read = Callable[[Path], object]


def read_names(path: Path) -> list[str]:
    return [satellite.name for satellite in read_elements(path)]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_the_same_text_in_any_unicode_is_the_same(tmp_path: Path, encoding: str, newline: str) -> None:
    # Those of a fixed order of bytes do not write a mark by themselves: once with it, else without.
    mark = "\ufeff" if encoding.endswith(("-le", "-be")) and newline == "\n" else ""
    for name, text, read, expected in (
        ("sites.csv", SITES, lambda path: [site.name for site in read_sites(path)], ["São Gabriel", "Xi'an"]),
        ("a.tle", tle(), read_names, ["GOOD"]),
        ("a.ion", ION, lambda path: list(read_plan(path).contacts), ["2"]),
    ):
        path = tmp_path / name
        path.write_bytes((mark + text.replace("\n", newline)).encode(encoding))
        assert read(path) == expected


@pytest.mark.parametrize("form", FORMS)
def test_messages_in_utf_16_are_read(tmp_path: Path, form: str) -> None:
    path = tmp_path / "messages"
    path.write_bytes(written([omm()], form).encode("utf-16"))
    assert read_names(path) == ["GOOD"]


def test_a_code_page_is_refused_with_file_line_and_what_it_looks_like(tmp_path: Path) -> None:
    path = tmp_path / "sites.csv"
    path.write_bytes(SITES.encode("cp1252"))
    with pytest.raises(
        ValueError, match=r"sites.csv, line 2: not UTF-8 \(byte 0xe3\); .* Windows-1252"
    ) as caught:
        read_sites(path)
    assert "'São Gabriel,-0.13,-67.09': save it as UTF-8" in str(caught.value)
    path.write_bytes(b"# a\r\n" + tle("CAFÉ").encode("latin-1"))
    with pytest.raises(ValueError, match=r"sites.csv, line 2: not UTF-8 .* reads 'CAFÉ'"):
        read_elements(path)


@pytest.mark.parametrize("read", [read_elements, read_sites])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (gzip.compress(b"x", mtime=0), "compressed by gzip: unpack it first"),
        (b"PK\x03\x04rest", "a zip archive, as spreadsheet workbooks are"),
        (b"name\n\x00\x01\x02\x03", "line 2: not a text file, it holds a zero byte"),
        (b"\x81\x8d\x8f\x90", "line 1: not a text file in UTF-8 or UTF-16, byte 0x81 begins no character"),
        (b"\xff\xfea", "not a text file, or damaged: begins as UTF-16"),
    ],
)
def test_files_that_are_no_text_are_named_for_what_they_are(
    tmp_path: Path, read: Read, content: bytes, says: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=says):
        read(path)


def test_absent_files_and_folders_are_named_for_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no sites file at {tmp_path}/none.csv"):
        read_sites(tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError, match=f"no contact plan at {tmp_path}/none.ion"):
        read_plan(tmp_path / "none.ion")
    with pytest.raises(ValueError, match="is a folder; name the sites file"):
        read_sites(tmp_path)
    with pytest.raises(ValueError, match="is a folder; name the element file"):
        read_elements(tmp_path)


def test_indented_lines_of_elements_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tle"
    path.write_text("".join(f"    {line}\n" for line in (tle() + tle("", number=7)).splitlines()))
    assert read_names(path) == ["GOOD", "7"]
    path.write_text(tle("").replace("\n", "\t \n\t"))
    assert read_names(path) == ["123"]


def test_a_no_break_space_in_a_line_of_elements_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tle"
    path.write_text(tle().replace("2 00123  97", "2 00123 \u00a097"), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"a.tle, line 3: a line of a TLE is plain ASCII, this one holds '\\xa0'"
    ):
        read_elements(path)


def test_quotes_that_are_not_closed_are_named_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "sites.csv"
    path.write_text('name,lat,lon\nA,1,2\n"B,3,4\nC,5,6\n')
    with pytest.raises(ValueError, match=r"sites.csv, line \d: not valid CSV: unexpected end of data"):
        read_sites(path)
