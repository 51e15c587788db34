"""Run configurations as people save them: read, or refused by file, line and cause."""

from pathlib import Path
from typing import Any

import pytest

from scenario.settings.reading import read_config
from server.launch.run_config import merge_run_config


def merged(tmp_path: Path, content: bytes) -> dict[str, Any]:
    file = tmp_path / "own.toml"
    file.write_bytes(content)
    return merge_run_config([str(file)], runs_folder=tmp_path)


def refusal(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(ValueError, match=r"own\.toml") as error:
        merged(tmp_path, content)
    return str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_no_part_of_the_settings(tmp_path: Path, encoding: str) -> None:
    assert merged(tmp_path, "[sky]\nhours = 12.0\n".encode(encoding))["sky.hours"] == 12.0


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("seed = 1\n".encode("utf-16-le"), "line 1: it looks like UTF-16 without a byte order mark"),
        ('seed = 1\n[run]\nname = "é"\n'.encode("cp1252"), "line 3: byte 0xE9 is not UTF-8"),
    ],
)
def test_another_encoding_is_named_with_its_line(tmp_path: Path, content: bytes, named: str) -> None:
    said = refusal(tmp_path, content)
    assert named in said and "save the file as UTF-8" in said


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[sky]\nhours = 1.0\nhours = 2.0\n", "line 3, 'hours = 2.0': the key is given twice"),
        ("[sky]\nhours = 1.0\n[sky]\n", "line 3, '[sky]': the table is given twice"),
        ('sky.hours = 1.0\n"sky.hours" = 2.0\n', "sky.hours given twice"),
        ("[sky]\nhours = one\n", "line 2, 'hours = one': Invalid value"),
    ],
)
def test_a_fault_of_the_file_is_shown_with_the_line_it_is_in(tmp_path: Path, text: str, named: str) -> None:
    assert named in refusal(tmp_path, text.encode())


def test_a_date_in_a_file_is_refused_with_the_quotes_it_needs(tmp_path: Path) -> None:
    settings = merged(tmp_path, b"[sky]\nstart-utc = 2026-01-01T00:00:00Z\n")
    with pytest.raises(ValueError, match='got 2026-01-01T00:00:00Z; quote it: "2026-01-01T00:00:00Z"'):
        read_config(settings)


def test_a_date_on_the_command_line_is_text_because_a_shell_takes_its_quotes(tmp_path: Path) -> None:
    settings = merge_run_config(["sky.start-utc=2026-01-01T00:00:00Z"], runs_folder=tmp_path)
    assert read_config(settings).sky.start_utc == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"run.name": 2026}, 'got 2026; quote it: "2026"'),
        ({"run.dir": True}, 'got true; quote it: "true"'),
        ({"train": 3}, "train is a table of settings"),
        ({"population": [{"devices": 3}]}, "population is a table of settings"),
    ],
)
def test_a_setting_of_the_wrong_kind_says_what_to_write(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match="cannot be used") as error:
        read_config(settings)
    assert said in str(error.value)


def test_a_folder_that_is_no_text_is_refused_and_not_made(tmp_path: Path) -> None:
    settings = merged(tmp_path, b"[run]\ndir = true\n")
    with pytest.raises(ValueError, match=r"run\.dir must be text, got true"):
        read_config(settings)


def test_names_of_files_and_folders_are_names_and_no_patterns(tmp_path: Path) -> None:
    for name, seed in (("a[1] *?=b.toml", 7), ("a1 xy=b.toml", 8)):
        (tmp_path / name).write_text(f"seed = {seed}\n")
    assert merge_run_config([str(tmp_path / "a[1] *?=b.toml")], runs_folder=tmp_path)["seed"] == 7
    folder = str(tmp_path / "runs [x] of * mine?")
    assert merge_run_config([f"run.dir={folder}"], runs_folder=tmp_path)["run.dir"] == folder


def test_a_value_that_ends_like_a_file_is_a_value(tmp_path: Path) -> None:
    assert merge_run_config(["run.name=mine.toml"], runs_folder=tmp_path)["run.name"] == "mine.toml"
