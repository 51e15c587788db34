"""Read a folder, or a dataset of the Hugging Face hub, through `datasets`."""

import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scenario.data.splits import split_names, split_spans
from scenario.tables.file_content import DamagedFileError
from scenario.tables.file_formats import format_of
from scenario.tables.table import Table, join, some
from scenario.tables.table_files import read_table

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder

_NO_DATA = {"dataset_infos.json", "dataset_info.json"}

_NO_PLAIN_NAME = ("[", "]", "*", "?", "::")
"""What a folder's name may hold and `datasets` gives a meaning: patterns, and one file system in another."""


def read_folder(folder: Path, split: str, wanted: Collection[str]) -> Table:
    """Read a folder that `datasets` saved, or one of data files that it can read.

    Which files are of which split is for `datasets` to say. Files without settings of their own (in a
    README) are then read as single files are; only others are left to `datasets`.

    Raises
    ------
    DamagedFileError
        If a file is damaged.
    Exception
        Whatever `datasets` raises; it has a dozen types for a source that it cannot use.
    """
    import datasets

    with _plain_name(folder) as plain:
        if (plain / "dataset_info.json").is_file() or (plain / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(str(plain))
            found = loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
            return _as_table(found, wanted)
        # A cache of its own: the shared one knows files by size and time, not by what is in them.
        with tempfile.TemporaryDirectory() as cache:
            builder, options = _builder(str(plain), None, cache_dir=cache)
            files = {
                str(name): [Path(str(file)) for file in of_split]
                for name, of_split in (builder.config.data_files or {}).items()
            }
            notes = _unread(plain, {file for of_split in files.values() for file in of_split})
            if _is_plain(builder, files):
                return replace(_read_files(plain, files, split, wanted), notes=notes)
            loaded = datasets.load_dataset(str(plain), split=split, cache_dir=cache, **options)
            return replace(_as_table(loaded, wanted), notes=notes)


def read_hub(source: str, split: str, wanted: Collection[str]) -> Table:
    """Read a dataset of the hub, ``name`` or ``name:configuration``; its cache knows it by its commit.

    Raises
    ------
    Exception
        As `read_folder`.
    """
    import datasets

    name, _, configuration = source.partition(":")
    _, options = _builder(name, configuration or None, cache_dir=None)
    return _as_table(datasets.load_dataset(name, configuration or None, split=split, **options), wanted)


def _builder(
    name: str, configuration: str | None, *, cache_dir: str | None
) -> tuple["DatasetBuilder", dict[str, Any]]:
    """Return what would read a dataset, and the options for it."""
    import datasets

    # pandas takes NA, null, None, nan and a dozen more words for "no value" unless told not to. Only the
    # reader of CSV knows the option, and a copy kept for work without a network is found by it.
    options: dict[str, Any] = {"keep_default_na": False}
    try:
        return datasets.load_dataset_builder(name, configuration, cache_dir=cache_dir, **options), options
    except ValueError:
        return datasets.load_dataset_builder(name, configuration, cache_dir=cache_dir), {}


def _is_plain(builder: "DatasetBuilder", files: Mapping[str, Sequence[Path]]) -> bool:
    """Return whether files are read the same without the builder: values with separators, JSON, parquet."""
    formats = {format_of(file.name) for of_split in files.values() for file in of_split}
    # Of paragraphs in a folder `datasets` makes a text a line, which stays as it was.
    if not formats or None in formats or any(known and known[0] == "txt" for known in formats):
        return False
    default = type(builder.config)()
    given = {
        item.name
        for item in fields(default)
        if getattr(builder.config, item.name) != getattr(default, item.name)
    }
    given -= {"name", "version", "data_files", "keep_default_na"}
    if given == {"sep"} and {known and known[0] for known in formats} == {"tsv"}:
        given.clear()
    return not given and builder.info.features is None


def _read_files(
    folder: Path, files: Mapping[str, Sequence[Path]], split: str, wanted: Collection[str]
) -> Table:
    tables = {
        name: join([_read_file(folder, file, wanted) for file in files[name]])
        for name in split_names(split) & files.keys()
    }
    lengths = {name: len(tables[name].lines) if name in tables else 0 for name in files}
    return join([tables[name].take(rows) for name, rows in split_spans(lengths, split)])


def _read_file(folder: Path, file: Path, wanted: Collection[str]) -> Table:
    inside = file.relative_to(folder)
    try:
        table = read_table(file, *(format_of(file.name) or ("", "")), wanted)
    except DamagedFileError as error:
        raise DamagedFileError(f"{inside}: {error}") from error
    return replace(table, lines=[f"{line} of {inside}" for line in table.lines])


def _unread(folder: Path, read: Collection[Path]) -> tuple[str, ...]:
    """Note the files of a folder that `datasets` passes over: it takes one format, and names of splits."""
    left = sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        # Its own tables of contents have endings of data, too.
        if format_of(path.name) and path.is_file() and path not in read and path.name not in _NO_DATA
    )
    return (f"files of the folder that are in none of its splits: {some(left)}",) if left else ()


def _as_table(dataset: "Dataset", wanted: Collection[str]) -> Table:
    return Table(
        names=tuple(dataset.column_names),
        columns={name: dataset[name][:] for name in dataset.column_names if name in wanted},
        lines=range(1, len(dataset) + 1),
        unit="row",
    )


@contextmanager
def _plain_name(folder: Path) -> Iterator[Path]:
    """Show a folder by a whole path that `datasets` does not take for a pattern or an address.

    Its files are linked one by one, because a link to the whole folder is followed to its real name.
    """
    real = str(folder.resolve())
    if not any(mark in real for mark in _NO_PLAIN_NAME):
        yield folder.resolve()
        return
    with tempfile.TemporaryDirectory() as made:
        for parent, folders, files in os.walk(folder):
            mirrored = Path(made) / Path(parent).relative_to(folder)
            for name in (*folders, *files):
                inside = Path(parent) / name
                if inside.is_dir() and not inside.is_symlink():
                    (mirrored / name).mkdir()
                else:
                    (mirrored / name).symlink_to(inside.resolve())
        try:
            yield Path(made)
        except DamagedFileError:  # names files by where they are in the folder
            raise
        except Exception as error:
            raise ValueError(str(error).replace(made, real)) from error
