"""Read files of text into tables: values with separators, paragraphs, parquet; JSON has its own file."""

import csv
import io
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from scenario.tables.file_content import DamagedFileError, decode, open_bytes, read_bytes
from scenario.tables.json_rows import read_json
from scenario.tables.table import Table


def read_table(path: Path, file_format: str, compression: str, wanted: Collection[str]) -> Table:
    """Read a file as `scenario.tables.file_formats.format_of` says it is.

    Parameters
    ----------
    wanted : Collection[str]
        Columns to keep; one that is not there is left to the caller, who sees the names.

    Raises
    ------
    DamagedFileError
        If the file is damaged, or a wanted column is in it twice.
    """
    if file_format == "parquet":
        if compression:
            return read_parquet(io.BytesIO(read_bytes(path, compression)), wanted)
        with open_bytes(path) as file:  # only the columns that are wanted leave the disk
            return read_parquet(file, wanted)
    text = decode(read_bytes(path, compression))
    if file_format == "txt":
        return read_paragraphs(text)
    if file_format == "json":
        return read_json(text, wanted)
    return read_delimited(text, "\t" if file_format == "tsv" else ",", wanted)


def read_paragraphs(text: str) -> Table:
    """Read text whose paragraphs are rows of one column, "text"; blank lines stand between them."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    paragraphs: list[str] = []
    lines: list[int] = []
    line = 1
    for paragraph in re.split(r"(\n[^\S\n]*\n\s*)", text):
        if paragraph.strip():
            paragraphs.append(paragraph)
            lines.append(line)
        line += paragraph.count("\n")
    return Table(names=("text",), columns={"text": paragraphs}, lines=lines)


def read_delimited(text: str, delimiter: str, wanted: Collection[str]) -> Table:
    """Read comma or tab separated values under a line of names, quoted as in RFC 4180.

    Every value is text, whatever it looks like: NA, null and 007 are three categories. Lines without
    any character are skipped.
    """
    # The module's bound is one for the process, and a text may be longer than its 131 072 characters.
    csv.field_size_limit(sys.maxsize)
    names: tuple[str, ...] | None = None
    columns: dict[str, list[str]] = {}
    places: dict[str, int] = {}
    lines: list[int] = []
    for line, fields in _records(text, delimiter):
        if names is None:
            names = tuple(fields)
            _refuse_twice(names, wanted)
            places = {name: names.index(name) for name in wanted if name in names}
            columns = {name: [] for name in places}
            continue
        if len(fields) != len(names):
            raise DamagedFileError(
                f"line {line}: values and names differ in number, {len(fields)} here and {len(names)} in the"
                f" first line; a value that holds the separator {delimiter!r} stands in double quotes"
            )
        for name, place in places.items():
            columns[name].append(fields[place])
        lines.append(line)
    return Table(names=names or (), columns=columns, lines=lines)


def _records(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each record with the line it begins in."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise DamagedFileError(
                f"the row that begins in line {line} cannot be read: {error} (are its quotes in pairs?)"
            ) from error
        if fields is None:
            return
        if fields:
            yield line, fields
        line = reader.line_num + 1


def read_parquet(source: IO[bytes], wanted: Collection[str]) -> Table:
    """Read the columns of a parquet file; rows are counted, a parquet file has no lines."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(source)
        names = tuple(file.schema_arrow.names)
        _refuse_twice(names, wanted)
        found = file.read(columns=[name for name in names if name in wanted])
        columns = {name: _values(name, found.column(name)) for name in names if name in wanted}
        # Read here: the file is closed when the caller goes on.
        num_rows = file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DamagedFileError(str(error).strip().split("\n")[0] or type(error).__name__) from error
    return Table(names=names, columns=columns, lines=range(1, num_rows + 1), unit="row")


def _values(name: str, column: Any) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        for row, value in enumerate(column, start=1):
            try:
                value.as_py()
            except UnicodeDecodeError as error:
                byte = error.object[error.start]
                raise DamagedFileError(
                    f"row {row}: column {name!r} holds byte 0x{byte:02X}, which is not UTF-8"
                ) from error
        raise
    return values


def _refuse_twice(names: Sequence[str], wanted: Collection[str]) -> None:
    twice = [name for name in wanted if names.count(name) > 1]
    if twice:
        raise DamagedFileError(f"column {', '.join(map(repr, twice))} is there more than once; rename one")
