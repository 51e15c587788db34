"""Cached folders are complete or absent, whoever asks and whatever fails."""

import shutil
import threading
from pathlib import Path

import pytest

from demo import cache


def _write(folder: Path) -> None:
    (folder / "file").write_text("made")


def _write_others(folder: Path) -> None:
    (folder / "file").write_text("the other's")


def test_a_folder_is_made_once_and_then_found(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        _write(folder)

    for _ in range(2):
        found = cache.ensure(tmp_path / "kind" / "key", make, print)
        assert (found / "file").read_text() == "made"
    assert len(made) == 1


def test_a_maker_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        _write(folder)
        raise ValueError("no text")

    with pytest.raises(ValueError, match="no text"):
        cache.ensure(tmp_path / "key", make, print)
    assert [path.name for path in tmp_path.iterdir()] == ["key.lock"]
    assert (cache.ensure(tmp_path / "key", _write, print) / "file").is_file()


def test_a_second_asker_waits_for_the_first_and_says_so(tmp_path: Path) -> None:
    began, may_end = threading.Event(), threading.Event()
    said: list[str] = []
    makers: list[Path] = []

    def slow(folder: Path) -> None:
        makers.append(folder)
        began.set()
        assert may_end.wait(30)
        _write(folder)

    def hear(text: str) -> None:
        said.append(text)
        may_end.set()

    first = threading.Thread(target=cache.ensure, args=(tmp_path / "key", slow, print))
    first.start()
    assert began.wait(30)
    cache.ensure(tmp_path / "key", slow, hear)
    first.join()
    assert len(makers) == 1
    assert said == ["waiting for another process that is making key"]


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("EMS_FL_CACHE", str(tmp_path / "own"))
    assert cache.root() == tmp_path / "own"
    monkeypatch.delenv("EMS_FL_CACHE")
    assert cache.root() == tmp_path / "xdg" / "ems-fl"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.root() == tmp_path / ".cache" / "ems-fl"


def test_other_keys_have_another_place() -> None:
    assert cache.folder("kind", "a", "b") == cache.folder("kind", "a", "b")
    assert (
        len({cache.folder("kind", "a", "b"), cache.folder("kind", "a", "c"), cache.folder("other", "a", "b")})
        == 3
    )


def test_who_comes_second_without_a_lock_takes_what_the_first_made(tmp_path: Path) -> None:
    def overtaken(folder: Path) -> None:
        shutil.copytree(others, tmp_path / "key")
        _write(folder)

    others = cache.ensure(tmp_path / "elsewhere" / "key", _write_others, print)
    found = cache.ensure(tmp_path / "key", overtaken, print)
    assert (found / "file").read_text() == "the other's"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "key", "key.lock"]


def test_a_cache_that_cannot_be_written_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ValueError, match=r"file/kind cannot be written.*set EMS_FL_CACHE"):
        cache.ensure(tmp_path / "file" / "kind" / "key", _write, print)


@pytest.mark.parametrize("damage", ["cut", "zeroed", "lost", "added", "unsealed"])
def test_a_folder_that_is_not_as_it_was_made_is_made_again(tmp_path: Path, damage: str) -> None:
    said: list[str] = []
    found = cache.ensure(tmp_path / "key", _write, said.append)
    file = found / "file"
    if damage == "cut":
        file.write_text("ma")
    elif damage == "zeroed":  # as a crash leaves files that were not yet on the disk
        file.write_bytes(bytes(4))
    elif damage == "lost":
        file.unlink()
    elif damage == "added":
        (found / "model.safetensors").write_bytes(b"")
    else:
        for seal in found.glob(".*"):
            seal.unlink()
    assert said == []
    assert cache.ensure(tmp_path / "key", _write, said.append) == found
    assert file.read_text() == "made"
    assert not (found / "model.safetensors").exists()
    assert len(said) == 1
    assert "is damaged, or of an older version: making it again" in said[0]
    assert cache.ensure(tmp_path / "key", _write, said.append) == found
    assert len(said) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "key.lock"]


def test_a_user_without_a_home_is_told_which_variable_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("EMS_FL_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ValueError, match=r"no home folder to keep the cache in.*set EMS_FL_CACHE"):
        cache.root()
