"""Folders of text, and what holds for files and folders alike: names, categories, no stale copies."""

import os
from pathlib import Path

import datasets
import pytest

from scenario.data.text_source import LabelledTexts, read_texts


@pytest.fixture(autouse=True)
def _own_dataset_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def read(path: Path, *, text: str = "text", domain: str = "region", split: str = "train") -> LabelledTexts:
    return read_texts(
        str(path),
        text_column=text,
        domain_column=domain,
        label_column="",
        split=split,
        needs="domain" if domain else "",
    )


@pytest.mark.parametrize("name", ["set[1]", "set*", "set::1", "set 1#"])
def test_a_folder_name_is_a_name_and_no_pattern(tmp_path: Path, name: str) -> None:
    for folder, text in (("set1", "wrong"), (name, "right")):
        (tmp_path / folder / "in").mkdir(parents=True)
        (tmp_path / folder / "in" / "b[1].csv").write_text(f"text,region\n{text},NA\n")
    found = read(tmp_path / name)
    assert (found.texts, found.domains) == (["right"], ["NA"])


def test_the_files_of_a_folder_that_are_not_read_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.csv", "b.csv"):
        (folder / name).write_text(f"text,region\n{name},EU\n")
    (folder / "c.jsonl").write_text('{"text": "c", "region": "EU"}\n')
    found = read(folder)
    assert found.texts == ["a.csv", "b.csv"]
    assert found.notes == ("files of the folder that are in none of its splits: c.jsonl",)


def test_a_damaged_file_of_a_folder_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.csv").write_text("text,region\na,EU\n")
    (folder / "b.csv").write_bytes(b"text,region\na\xe9,EU\n")
    with pytest.raises(ValueError, match=r"folder' .*: b\.csv: line 2: byte 0xE9 is not UTF-8"):
        read(folder)


def test_splits_and_slices_of_a_folder_are_those_of_its_file_names(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("train", "test"):
        body = "".join(f"{name} {number},EU\n" for number in range(4))
        (folder / f"{name}.csv").write_text("text,region\n" + body)
    assert read(folder, split="test[:2]+train[3:]").texts == ["test 0", "test 1", "train 3"]
    with pytest.raises(ValueError, match=r"split 'valid'\) cannot be read: Unknown split"):
        read(folder, split="valid")


def test_the_settings_of_a_folders_readme_hold(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.csv").write_text("text;region\none;NA\n")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: '*.csv'\n  sep: ';'\n---\n"
    )
    assert read(folder).domains == ["NA"]


def test_a_folder_that_datasets_saved_may_have_any_name(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["a", "b"], "region": ["NA", "EU"]}).save_to_disk(tmp_path / "set")
    (tmp_path / "set").rename(tmp_path / "set[1]::x")
    assert read(tmp_path / "set[1]::x").domains == ["NA", "EU"]


@pytest.mark.parametrize("where", ["file", "folder", "folder with settings"])
def test_a_file_that_changed_is_read_again_though_size_and_time_are_the_same(
    tmp_path: Path, where: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "train.csv"
    if where == "folder with settings":  # which `datasets` reads, with its cache
        (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n  quotechar: q\n---\n")
    seen: list[str] = []
    for text in ("first", "other"):
        path.write_text(f"text,region\n{text},EU\n")
        os.utime(path, (1_000_000_000, 1_000_000_000))
        seen += read(path if where == "file" else folder).texts
    assert seen == ["first", "other"]


@pytest.mark.parametrize("where", ["file", "folder"])
@pytest.mark.parametrize("word", ["NA", "null", "None", "nan", "NaN", "N/A", "empty", "007", "1.0", "true"])
def test_a_category_is_text_whatever_it_looks_like(tmp_path: Path, word: str, where: str) -> None:
    rows = [("one", "EU"), ("two", word), (word, "EU")]
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "train.csv"
    path.write_text("text,region\n" + "".join(f"{text},{name}\n" for text, name in rows))
    found = read(path if where == "file" else folder)
    assert [*zip(found.texts, found.domains, strict=True)] == rows
    assert found.notes == ()
