"""The corpus that a machine keeps: found once, found anew when the installation is another."""

from pathlib import Path

import pytest

from demo import kept_corpus
from demo.kept_corpus import Passages, kept


@pytest.fixture
def finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Passages]:
    monkeypatch.setenv("EMS_FL_CACHE", str(tmp_path / "cache"))
    return []


def look(finds: list[Passages]) -> Passages:
    """Keep what is found; every finding is counted and different, with a letter that ASCII lacks."""

    def find() -> Passages:
        finds.append({"prose": [["made of"], [f"held, lone \ud800, \u00e9, {len(finds)}"]]})
        return finds[-1]

    return kept(find)


def test_it_is_found_once_an_installation(finds: list[Passages], monkeypatch: pytest.MonkeyPatch) -> None:
    first = look(finds)
    assert look(finds) == first and len(finds) == 1
    monkeypatch.setattr(kept_corpus, "installation", lambda: ["another"])
    assert look(finds) != first and len(finds) == 2


def test_a_damaged_one_is_found_anew(finds: list[Passages], tmp_path: Path) -> None:
    look(finds)
    (file,) = (tmp_path / "cache").rglob("passages.json")
    file.write_text('{"prose": [["less"], []]}', encoding="utf-8")
    assert look(finds) == finds[1]


def test_without_a_place_it_is_found_every_time(
    finds: list[Passages], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EMS_FL_CACHE", str(tmp_path / "file"))
    look(finds)
    assert look(finds) == finds[1]
