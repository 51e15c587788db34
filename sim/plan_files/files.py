"""Contact plans on disk: our own CSV and parquet; ION and STK have files of their own beside this one."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet

from sim.plan_files.ion import ION_SUFFIXES, ion_text, plan_from_ion
from sim.plan_files.rows import COLUMNS, NUMBERS, Row, header, plan_from_rows, read_header, rows_of
from sim.plan_files.stk import STK_COLUMNS
from sim.plans.plan import ContactPlan
from sim.text_files import csv_rows, read_text

_METADATA_KEY = b"ems-fl"
_FORMATS = f".csv, .parquet, or {', '.join(ION_SUFFIXES)} for ION"


def write_plan(plan: ContactPlan, path: Path | str) -> None:
    """Write a plan; the suffix says how: .csv, .parquet, or an ION contact plan (.ion, .ionrc, .rc).

    Reading it back gives an equal plan, to the last bit. The file appears whole or not at all.

    Parameters
    ----------
    plan : ContactPlan
        Every contact must carry something.
    path : Path or str
        Overwritten if it exists.

    Raises
    ------
    ValueError
        If the suffix is unknown or the plan cannot be read back from such a file.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        if path.suffix == ".csv":
            _write_csv(plan, partial)
        elif path.suffix == ".parquet":
            _write_parquet(plan, partial)
        elif path.suffix in ION_SUFFIXES:
            partial.write_text(ion_text(plan), encoding="utf-8")
        else:
            raise ValueError(f"cannot write a contact plan to {path}: the suffix must be {_FORMATS}")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_plan(path: Path | str) -> ContactPlan:
    """Read a plan that `write_plan` or another ION tool wrote; the suffix says how.

    An access report of STK knows neither rates nor the start of the scenario: read it with
    `sim.plan_files.stk.read_stk`.

    Raises
    ------
    ValueError
        With every fault and its line; see `sim.plan_files.rows.plan_from_rows`.
    FileNotFoundError
        If there is no such file.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _read_csv(path)
    if suffix == ".parquet":
        return _read_parquet(path)
    if suffix in ION_SUFFIXES:
        return plan_from_ion(_text(path), file=path.name)
    raise ValueError(f"cannot read a contact plan from {path}: the suffix must be {_FORMATS}")


def _text(path: Path) -> str:
    """Return a text file's content, or say that it is none."""
    return read_text(path, "contact plan")


def _write_csv(plan: ContactPlan, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(f"# {header(plan)}\n")
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows_of(plan))  # csv writes floats with repr, which reads back exactly


def _read_csv(path: Path) -> ContactPlan:
    text = _text(path)
    lines = text.split("\n")
    if any(STK_COLUMNS[0] in line for line in lines[:5]):
        raise ValueError(
            f"{path.name}: an STK access report has no rates and no scenario start; read it with"
            " sim.plan_files.stk.read_stk and write it as .csv"
        )
    if len(lines) < 2 or not lines[0].startswith("# "):
        raise ValueError(f"{path.name}: a contact plan begins with a '# {{...}}' line and the column names")
    horizon_s, clusters = read_header(lines[0][2:], path.name)
    table = csv_rows(text.partition("\n")[2], path.name, first_line=2)
    _, columns = next(table, (2, []))
    if missing := [name for name in COLUMNS if name not in columns]:
        raise ValueError(f"{path.name}, line 2: lacks the columns {', '.join(missing)}; it has {columns}")
    rows = _csv_rows(table, columns)
    return plan_from_rows(rows, horizon_s=horizon_s, clusters=clusters, file=path.name)


def _csv_rows(table: Iterator[tuple[int, list[str]]], columns: list[str]) -> Iterator[Row]:
    """Yield the rows below the column names; one of the wrong length lacks its values."""
    for number, cells in table:
        if cells:
            fits = len(cells) == len(columns)
            yield Row(f"line {number}", dict(zip(columns, cells, strict=True)) if fits else {})


def _write_parquet(plan: ContactPlan, path: Path) -> None:
    schema = pyarrow.schema(
        [(name, pyarrow.float64() if name in NUMBERS else pyarrow.string()) for name in COLUMNS],
        metadata={_METADATA_KEY: header(plan).encode()},
    )
    rows = list(rows_of(plan))
    columns = {name: [row[name] for row in rows] for name in COLUMNS}
    # A file, not its name: of names pyarrow makes addresses ("a:b") and columns ("year=2026/").
    with path.open("wb") as file:
        pyarrow.parquet.write_table(pyarrow.table(columns, schema=schema), file)


def _read_parquet(path: Path) -> ContactPlan:
    try:
        with path.open("rb") as file:
            table = pyarrow.parquet.read_table(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"no contact plan at {path}") from None
    except pyarrow.ArrowException as fault:
        raise ValueError(f"{path.name}: not a parquet file ({fault})") from None
    text = (table.schema.metadata or {}).get(_METADATA_KEY, b"").decode()
    horizon_s, clusters = read_header(text, path.name)
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise ValueError(f"{path.name}: lacks the columns {', '.join(missing)}; it has {table.column_names}")
    rows = [Row(f"row {number}", values) for number, values in enumerate(table.to_pylist())]
    return plan_from_rows(rows, horizon_s=horizon_s, clusters=clusters, file=path.name)
