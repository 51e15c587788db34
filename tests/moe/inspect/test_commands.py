"""The commands of this room on any terminal, in any home: what they say arrives, a fault in one line."""

import errno
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects

from moe.disk.hub import fetch
from moe.experts import ExpertId, Tuning
from moe.export.checkpoint import export_adapter
from moe.export.command import main as export
from moe.inspect.command import main as inspect
from moe.tuning.adapters import initial_arrays

Tiny = Callable[..., Path]
TUNING = Tuning(lora_rank=2)


def test_a_terminal_without_the_letters_of_a_name_gets_escapes(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "größe-世界"
    base.symlink_to(tiny("mixtral"))
    arrays = initial_arrays(base, TUNING, [ExpertId(0, 1)])
    adapter = export_adapter(base, arrays, TUNING, tmp_path / "ä")
    out = tmp_path / "merged-ü"
    raw = io.BytesIO()
    with monkeypatch.context() as patched:
        terminal = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
        patched.setattr(sys, "stdout", terminal)
        assert export([str(adapter), "--base", str(base), "--merged", str(out)]) == 0
        assert inspect([str(out)]) == 0
    said = raw.getvalue().decode("ascii")
    assert "merged-\\xfc\n" in said
    assert "mixtral (tested)" in said


def test_a_fault_is_one_line_whatever_the_name_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "two\nlines"
    folder.mkdir()
    assert inspect([str(folder)]) == 1
    assert export([str(folder), "--merged", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in said] == ["moe.inspect", "moe.export"]


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "", "~nobody-like-this/model", "https://a.b/c"])
def test_a_path_that_cannot_be_is_one_line(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert inspect([name]) == 1
    said = capsys.readouterr().err
    assert said.startswith("moe.inspect: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", [".", "..", "/", ""])
def test_a_folder_to_make_needs_a_name(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    adapter = export_adapter(tiny("mixtral"), {}, TUNING, tmp_path / "adapter")
    assert export([str(adapter), "--merged", name]) == 1
    said = capsys.readouterr().err
    assert "is no name for a folder to make the merged checkpoint in; name another" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.ENOTDIR])
def test_a_hub_cache_that_cannot_be_written_names_the_variable_that_helps(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def read_only(*_args: object, **_options: object) -> str:
        raise OSError(number, os.strerror(number), "/home/somebody/.cache/huggingface/hub/x")

    monkeypatch.setattr("huggingface_hub.snapshot_download", read_only)
    fetch.cache_clear()
    with pytest.raises(
        ValueError, match=rf"cannot be put .*{os.strerror(number)}.*; set HF_HOME to a folder"
    ):
        fetch("somebody/model")


def test_the_publishers_own_format_is_not_fetched_beside_the_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, list[str]] = {}

    def note(_name: str, **options: list[str]) -> str:
        asked.update(options)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", note)
    fetch.cache_clear()
    fetch("somebody/model")
    there = ["config.json", "model-1.safetensors", "tokenizer.model", "parts/model-2.safetensors"]
    beside = ["consolidated.safetensors", "consolidated-00001-of-00002.safetensors", "original/params.json"]
    found = filter_repo_objects(
        [*there, *beside, "model.gguf"],
        allow_patterns=asked["allow_patterns"],
        ignore_patterns=asked["ignore_patterns"],
    )
    assert list(found) == there
    fetch.cache_clear()
