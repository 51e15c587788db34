"""Read texts with their domains and labels: the embedded corpus, a file, or any Hugging Face dataset."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from demo import corpus
from scenario.data.dataset_table import read_folder, read_hub
from scenario.data.examples import example_of_messages, example_of_pair
from scenario.data.splits import split_spans
from scenario.tables.file_content import DamagedFileError
from scenario.tables.file_formats import KNOWN_ENDINGS, format_of
from scenario.tables.table import Table, is_encodable, kind_of, some
from scenario.tables.table_files import read_table


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledTexts:
    """Texts without blanks and repeats; domains and labels are empty when nobody needs them.

    Parameters
    ----------
    clusters : Sequence[str]
        Name of each text's cluster; empty when nobody needs it.
    holders : Sequence[str]
        Who holds each text; empty where no column says.
    places : Sequence[str]
        Where each text stands in its source, for people; empty for embedded text.
    notes : tuple[str, ...]
        What a person should know, such as how many rows were left out and why; often empty.
    """

    texts: Sequence[str]
    domains: Sequence[str]
    labels: Sequence[str]
    clusters: Sequence[str] = ()
    holders: Sequence[str] = ()
    places: Sequence[str] = ()
    notes: tuple[str, ...] = ()


def read_texts(
    source: str,
    *,
    text_column: str,
    domain_column: str,
    label_column: str,
    split: str,
    needs: Literal["", "domain", "label", "cluster"] | str,
    prompt_column: str = "",
    response_column: str = "",
    messages_column: str = "",
    cluster_column: str = "",
    device_column: str = "",
) -> LabelledTexts:
    """Read a source named as in `scenario.data.federated_text.load_federated_text`.

    Parameters
    ----------
    needs : {"", "domain", "label", "cluster"}
        What the partitioner must know of each text; for ``label`` the domain stands in where no label
        column is named.
    prompt_column, response_column, messages_column : str
        Named, they take the place of ``text_column``, and each text is an example of
        `scenario.data.examples`.
    cluster_column, device_column : str
        Columns that name each text's cluster, and who holds it.

    Raises
    ------
    ValueError
        If the source cannot be read, a named column is not there, a needed one is not named, or no
        text is left.
    """
    if source == "embedded":
        return _read_embedded()
    text_columns = _columns(messages_column or prompt_column or text_column)
    named = [
        *text_columns,
        *filter(None, (response_column, domain_column, label_column, cluster_column, device_column)),
    ]
    table = _load(source, split, named)
    if not table.lines:
        raise ValueError(f"data source {source!r} (split {split!r}) has no rows")
    _check_needs(needs, table, domain_column, label_column, cluster_column)
    if not text_columns:
        raise ValueError(
            f"data source {source!r}: text_column names no column; its columns are {', '.join(table.names)}"
        )
    # Messages are checked where examples are made of them.
    texts_in = [] if messages_column else [*text_columns, *_columns(response_column)]
    _check_columns(table, source, texts_in, named)
    if messages_column or response_column:
        table = _with_examples(table, source, text_columns, response_column)
        text_columns = [_EXAMPLES]
    key = {
        "domain": domain_column,
        "label": label_column or domain_column,
        "cluster": cluster_column,
    }.get(needs, "")
    texts, keys, rows, notes = _collect(table, source, text_columns, key)
    return LabelledTexts(
        texts=texts,
        domains=keys if needs == "domain" else (),
        labels=keys if needs == "label" else (),
        clusters=keys if needs == "cluster" else (),
        holders=_holders(table, source, device_column, rows) if device_column else (),
        places=[table.place(row) for row in rows],
        notes=(*table.notes, *notes),
    )


def _holders(table: Table, source: str, column: str, rows: Sequence[int]) -> list[str]:
    """Return who holds each row; refuse rows of nobody."""
    values = table.columns[column]
    nobody = [table.place(row) for row in rows if values[row] is None or not str(values[row]).strip()]
    if nobody:
        raise ValueError(
            f"data source {source!r}: column {column!r}, which says who holds a text, is empty in "
            f"{some(nobody)}; fill it or leave these rows out"
        )
    return [str(values[row]) for row in rows]


def _columns(joined: str) -> list[str]:
    return [name.strip() for name in joined.split("+") if name.strip()]


_EXAMPLES = "its examples"
"""Stands among the columns for what is made of them."""


def _with_examples(table: Table, source: str, columns: Sequence[str], response_column: str) -> Table:
    """Add the examples of the rows as a column; refuse rows that hold none."""
    examples, faults = [], []
    for row in range(len(table.lines)):
        try:
            if response_column:
                pieces = [str(table.columns[name][row] or "").strip() for name in columns]
                response = str(table.columns[response_column][row] or "").strip()
                if not any(pieces):
                    raise ValueError(f"has no prompt in {'+'.join(columns)}")
                if not response:
                    raise ValueError(f"has no response in {response_column}")
                examples.append(example_of_pair("\n".join(filter(None, pieces)), response))
            else:
                examples.append(example_of_messages(table.columns[columns[0]][row]))
        except ValueError as fault:
            faults.append(f"{table.place(row)} {fault}")
    if faults:
        raise ValueError(f"data source {source!r}: {some(faults)}; complete or leave out these rows")
    return replace(table, columns={**table.columns, _EXAMPLES: examples})


def _read_embedded() -> LabelledTexts:
    pairs = [(text, name) for name, texts in corpus.domains().items() for text in texts]
    names = [name for _, name in pairs]
    return LabelledTexts(texts=[text for text, _ in pairs], domains=names, labels=names)


def _check_needs(
    needs: str, table: Table, domain_column: str, label_column: str, cluster_column: str
) -> None:
    columns = f"its columns are {', '.join(table.names)}"
    if needs == "domain" and not domain_column:
        raise ValueError(
            "the 'domain' partitioner needs to know each text's domain: set domain_column, or use"
            f" partitioner 'iid'; {columns}"
        )
    if needs == "cluster" and not cluster_column:
        raise ValueError(
            "the 'cluster' partitioner needs to know each text's cluster: set cluster_column, or use another"
            f" partitioner; {columns}"
        )
    if needs == "label" and not (label_column or domain_column):
        raise ValueError(
            f"the 'dirichlet' partitioner needs a label: set label_column or domain_column; {columns}"
        )


def _load(source: str, split: str, wanted: Collection[str]) -> Table:
    """Open a source, with every failure as a ValueError of one sentence that names it."""
    path = Path(source).expanduser()
    known = format_of(path.name)
    kind = _kind_of_path(path, source)
    looks_local = known is not None or source.startswith((".", "/", "~"))
    if looks_local and not kind:
        raise ValueError(
            f"data source {source!r} is not there (looked for {path.absolute()}); give a file ending in"
            f" {KNOWN_ENDINGS}; a dataset's folder; the name of a dataset on the Hugging Face hub; or"
            " 'embedded'"
        )
    if kind == "other":
        raise ValueError(f"data source {source!r} is neither a file nor a folder; a pipe is read only once")
    if kind == "file" and known is None:
        raise ValueError(
            f"data source {source!r} has an ending of no known format; those known are {KNOWN_ENDINGS}"
        )
    try:
        if kind == "folder":
            return read_folder(path, split, wanted)
        if known is None:
            return read_hub(source, split, wanted)
        table = read_table(path, *known, wanted)
        # A file is one split, of which slices can be taken.
        spans = split_spans({"train": len(table.lines)}, split)
        return table if split == "train" else table.take([row for _, rows in spans for row in rows])
    except DamagedFileError as error:
        raise ValueError(f"data source {source!r} (split {split!r}) cannot be read: {error}") from error
    except Exception as error:  # `datasets` raises a dozen types; each means that this source cannot be used
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"data source {source!r} (split {split!r}) cannot be read: {first_line.rstrip('.')}. Check the"
            " name, the split and the file's format"
        ) from error


def _kind_of_path(path: Path, source: str) -> Literal["", "file", "folder", "other"]:
    """Return what is at a path, or "" for nothing."""
    try:
        if path.is_dir():
            return "folder"
        if path.is_file():
            return "file"
        return "other" if path.exists() else ""
    except OSError as error:  # of a folder above that may not be entered, of a name that is too long
        raise ValueError(f"data source {source!r} cannot be read: {error.strerror}") from error


def _check_columns(table: Table, source: str, text_columns: Sequence[str], named: Sequence[str]) -> None:
    """Refuse names of columns that are not there, and columns of text that hold something else."""
    faults = [f"no column {name!r}" for name in dict.fromkeys(named) if name not in table.names]
    for name in dict.fromkeys(text_columns):
        values = table.columns.get(name, ())
        wrong = next((row for row, value in enumerate(values) if not isinstance(value, str | None)), None)
        if wrong is not None:
            faults.append(
                f"column {name!r} does not hold text but {kind_of(values[wrong])} in {table.place(wrong)}"
            )
    if faults:
        raise ValueError(
            f"data source {source!r}: {'; '.join(faults)}; its columns are {', '.join(table.names)}"
        )


def _collect(
    table: Table, source: str, text_columns: Sequence[str], key: str
) -> tuple[list[str], list[str], list[int], tuple[str, ...]]:
    """Join the text columns; leave out blanks and repeats (a repeat could be trained on and held out).

    Returns
    -------
    list[str], list[str], list[int], tuple[str, ...]
        Texts, what each has in the column ``key``, its row, and a note on what was left out.
    """
    kept: dict[str, str] = {}
    rows: list[int] = []
    left_out: Counter[str] = Counter()
    keys = table.columns[key] if key else ()
    for row in range(len(table.lines)):
        pieces = [str(table.columns[name][row] or "").strip() for name in text_columns]
        text = "\n".join(piece for piece in pieces if piece)
        name = "" if not key or keys[row] is None else str(keys[row])
        if not text:
            left_out[f"without text in {'+'.join(text_columns)}"] += 1
        elif key and not name.strip():
            left_out[f"without a value in {key}"] += 1
        elif text in kept:
            left_out["with a text that an earlier row has"] += 1
        elif not (is_encodable(text) and is_encodable(name)):
            raise ValueError(
                f"data source {source!r}: {table.place(row)} holds half of a surrogate pair (\\ud800 to"
                " \\udfff), which is no character; whoever wrote the file cut a character in two"
            )
        else:
            kept[text] = name
            rows.append(row)
    if not kept:
        causes = _counted(left_out) if key else "every row is blank"
        raise ValueError(f"data source {source!r} has no text in {'+'.join(text_columns)}: {causes}")
    notes = (
        [f"{left_out.total()} of {len(table.lines)} rows left out: {_counted(left_out)}"] if left_out else []
    )
    return list(kept), list(kept.values()), rows, tuple(notes)


def _counted(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {why}" for why, count in left_out.items())
