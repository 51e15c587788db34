"""A full disk, a killed process: what was there before stays, and nothing is left beside it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from moe.disk.writing import new_folder, writing
from moe.experts import ExpertArrays, ExpertId, Tuning
from moe.export.checkpoint import export_adapter, export_merged
from moe.export.command import main
from moe.tuning.adapters import initial_arrays
from tests.full_disk import contents, files_at_most

Tiny = Callable[[str], Path]
TUNING = Tuning(lora_rank=3)


def some_arrays(path: Path, seed: int) -> ExpertArrays:
    rng = np.random.default_rng(seed)
    start = initial_arrays(path, TUNING, [ExpertId(0, 2), ExpertId(1, 7)])
    return {key: rng.normal(0, 0.1, value.shape).astype(np.float32) for key, value in start.items()}


# Each size is too small for another file of the export: its largest, its smallest, or one on the way.
@pytest.mark.parametrize("num_bytes", [0, 100, 1000, 20_000])
@pytest.mark.parametrize(
    ("export", "what"), [(export_adapter, "the adapter"), (export_merged, "the merged checkpoint")]
)
def test_an_export_that_does_not_fit_leaves_the_last_one(
    tiny: Tiny, tmp_path: Path, export: Callable[..., Path], what: str, num_bytes: int
) -> None:
    base, out = tiny("mixtral"), tmp_path / "out"
    export(base, some_arrays(base, 1), TUNING, out)
    before = contents(tmp_path)
    says = rf"{what} cannot be written to {out} .*File too large.* takes [\d.]+ [kM]B, and [\d.]+ MB are free"
    for replace in (False, True, True):
        goal = out if replace else tmp_path / "new"
        with (
            files_at_most(num_bytes),
            pytest.raises(OSError, match=says if replace else what) as failure,
        ):
            export(base, some_arrays(base, 2), TUNING, goal, replace=replace)
        assert "free some space, or choose a folder on another disk" in str(failure.value)
        assert contents(tmp_path) == before
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
    export(base, some_arrays(base, 2), TUNING, out, replace=True)
    fresh = export(base, some_arrays(base, 2), TUNING, tmp_path / "fresh")
    assert contents(out) == contents(fresh) != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "out"]


def test_what_is_known_not_to_fit_is_not_begun(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"no space left on that disk\); it takes 1000000000000.0 MB"),
        new_folder(tmp_path / "a" / "out", what="the model", num_bytes=10**18),
    ):
        pytest.fail("was begun")
    assert not any(tmp_path.iterdir())


def test_files_are_as_readable_as_their_folder(tiny: Tiny, tmp_path: Path) -> None:
    out = export_adapter(tiny("mixtral"), {}, TUNING, tmp_path / "out")
    assert {file.stat().st_mode & 0o777 for file in out.iterdir()} == {out.stat().st_mode & 0o666}


def test_what_a_killed_process_left_is_neither_taken_nor_kept(tmp_path: Path) -> None:
    (tmp_path / ".out.unfinished" / "deep").mkdir(parents=True)
    (tmp_path / ".out.unfinished" / "half").write_text("half")
    with new_folder(tmp_path / "out", what="it", num_bytes=0) as folder:
        (folder / "whole").write_text("whole")
    assert contents(tmp_path) == {"out/whole": b"whole"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_process_killed_between_two_names_loses_neither_folder(tmp_path: Path) -> None:
    (tmp_path / ".out.replaced").mkdir()
    (tmp_path / ".out.replaced" / "old").write_text("old")
    with (
        pytest.raises(OSError, match="no room"),
        new_folder(tmp_path / "out", what="it", num_bytes=0, replace=True),
    ):
        raise OSError("no room")
    assert contents(tmp_path) == {"out/old": b"old"}
    (tmp_path / "out").rename(tmp_path / ".out.replaced")
    with (
        pytest.raises(OSError, match="no space left"),
        new_folder(tmp_path / "out", what="it", num_bytes=10**18, replace=True),
    ):
        pytest.fail("was begun")
    assert contents(tmp_path) == {"out/old": b"old"}
    # Killed after the second one: the new folder is there, and the old one is not wanted any more.
    (tmp_path / ".out.replaced").mkdir()
    (tmp_path / ".out.replaced" / "older").write_text("older")
    with new_folder(tmp_path / "out", what="it", num_bytes=0, replace=True) as folder:
        (folder / "new").write_text("new")
    assert contents(tmp_path) == {"out/new": b"new"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_name_that_the_disk_refuses_gives_the_old_folder_its_own_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name.endswith(".unfinished"):
            raise OSError("no room for a name")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with (
        pytest.raises(OSError, match="no room for a name"),
        new_folder(tmp_path / "out", what="it", num_bytes=0, replace=True) as folder,
    ):
        (folder / "new").write_text("new")
    assert contents(tmp_path) == {"out/old": b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_is_replaced_only_on_request_and_a_file_never(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("precious")
    before = contents(tmp_path)
    for name, replace in (("file", True), ("file", False), ("full", False)):
        with (
            pytest.raises(ValueError, match="is not an empty folder; name another"),
            new_folder(tmp_path / name, what="it", num_bytes=0, replace=replace),
        ):
            pytest.fail("was begun")
    assert contents(tmp_path) == before


def test_two_writers_of_one_folder_are_told_apart(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out", what="it", num_bytes=0) as folder:
        (folder / "mine").write_text("mine")
        with (
            pytest.raises(ValueError, match=r"another process is writing .*out; wait for it"),
            new_folder(tmp_path / "out", what="it", num_bytes=0),
        ):
            pytest.fail("was begun")
    assert contents(tmp_path) == {"out/mine": b"mine"}


def test_other_errors_pass_through_and_leave_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyError, match="mine"),
        new_folder(tmp_path / "out", what="it", num_bytes=0) as folder,
    ):
        (folder / "half").write_text("half")
        raise KeyError("mine")
    assert not any(tmp_path.iterdir())
    with pytest.raises(KeyError), writing("it", tmp_path / "file", 0):
        raise KeyError


def test_the_command_says_so_too(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_adapter(tiny("mixtral"), {}, TUNING, tmp_path / "adapter")
    with files_at_most(20_000):
        assert main([str(tmp_path), "--merged", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"moe.export: the merged checkpoint cannot be written to {tmp_path / 'out'}")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
