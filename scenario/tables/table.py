"""Rows of text, whatever they were read from: the columns asked for, and where each row stands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Columns of one length.

    Parameters
    ----------
    names : tuple[str, ...]
        Of all columns there are.
    columns : Mapping[str, Sequence[Any]]
        Values of the columns that were asked for and are there; None where a row has none.
    lines : Sequence[int | str]
        Line of the file each row begins in, or its number, from 1; with " of FILE" for one of many files.
    unit : {"line", "row"}
        What ``lines`` counts.
    notes : tuple[str, ...]
        What a person should know of the reading; often empty.
    """

    names: tuple[str, ...]
    columns: Mapping[str, Sequence[Any]]
    lines: Sequence[int | str]
    unit: str = "line"
    notes: tuple[str, ...] = ()

    def place(self, row: int) -> str:
        """Name where a row stands, for people."""
        return f"{self.unit} {self.lines[row]}"

    def take(self, rows: Sequence[int]) -> "Table":
        """Return these rows, in this order."""
        return Table(
            names=self.names,
            columns={name: [values[row] for row in rows] for name, values in self.columns.items()},
            lines=[self.lines[row] for row in rows],
            unit=self.unit,
            notes=self.notes,
        )


def join(tables: Sequence[Table]) -> Table:
    """Put the rows of tables one after the other; those of a table that lacks a column have None there."""
    found = dict.fromkeys(name for table in tables for name in table.columns)
    return Table(
        names=tuple(dict.fromkeys(name for table in tables for name in table.names)),
        columns={
            name: [value for table in tables for value in table.columns.get(name, [None] * len(table.lines))]
            for name in found
        },
        lines=[line for table in tables for line in table.lines],
        unit=tables[0].unit,
    )


def kind_of(value: object) -> str:
    """Name what a value is, for people who expected text."""
    if isinstance(value, bool):
        return "true or false"
    for types, name in (((int, float), "a number"), (list, "a list"), (dict, "an object"), (bytes, "bytes")):
        if isinstance(value, types):
            return name
    return "null" if value is None else type(value).__name__


def is_encodable(text: str) -> bool:
    """Return whether a text can be written; half of a surrogate pair cannot."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def some(names: Sequence[object], most: int = 5) -> str:
    """List the first few of many names, and how many more there are."""
    most = most + 1 if len(names) == most + 1 else most  # "and 1 more" is no shorter
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
