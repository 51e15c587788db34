"""Read texts with their domains and labels: the embedded corpus, or any Hugging Face dataset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from demo import corpus

if TYPE_CHECKING:
    from datasets import Dataset

_BUILDERS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".txt": "text"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledTexts:
    """Texts without blanks and repeats; domains and labels are empty when their column is not named."""

    texts: Sequence[str]
    domains: Sequence[str]
    labels: Sequence[str]


def read_texts(
    source: str,
    *,
    text_column: str,
    domain_column: str,
    label_column: str,
    split: str,
    needs: Literal["", "domain", "label"] | str,
) -> LabelledTexts:
    """Read a source named as in `scenario.data.federated_text.load_federated_text`.

    Parameters
    ----------
    needs : {"", "domain", "label"}
        What the partitioner must know of each text; for ``label`` the domain stands in where no label
        column is named.

    Raises
    ------
    ValueError
        If the source cannot be read, a named column is not there, a needed one is not named, or no
        text is left.
    """
    if source == "embedded":
        return _read_embedded()
    dataset = _load(source, split)
    _check_needs(needs, dataset, domain_column, label_column)
    text_columns = _check_columns(dataset, source, text_column, domain_column, label_column)
    keys = {"domain": domain_column, "label": label_column or domain_column}
    wanted = {name: keys[name] for name in ("domain", "label") if keys[name]}
    return _collect(dataset, text_columns, wanted, source)


def _read_embedded() -> LabelledTexts:
    pairs = [(text, name) for name, texts in corpus.domains().items() for text in texts]
    names = [name for _, name in pairs]
    return LabelledTexts(texts=[text for text, _ in pairs], domains=names, labels=names)


def _check_needs(needs: str, dataset: "Dataset", domain_column: str, label_column: str) -> None:
    columns = f"its columns are {', '.join(dataset.column_names)}"
    if needs == "domain" and not domain_column:
        raise ValueError(
            "the 'domain' partitioner needs to know each text's domain: set domain_column, or use"
            f" partitioner 'iid'; {columns}"
        )
    if needs == "label" and not (label_column or domain_column):
        raise ValueError(
            f"the 'dirichlet' partitioner needs a label: set label_column or domain_column; {columns}"
        )


def _load(source: str, split: str) -> "Dataset":
    """Open a dataset through `datasets`, with every failure of it as a ValueError that names the source."""
    import datasets  # takes a second, and the embedded corpus does not need it

    path = Path(source).expanduser()
    builder = _BUILDERS.get(path.suffix.lower())
    looks_local = builder is not None or source.startswith((".", "/", "~"))
    if looks_local and not path.exists():
        raise ValueError(
            f"data source {source!r} is not there (looked for {path.absolute()}); give a csv, json, jsonl,"
            " parquet or txt file, a dataset's folder, the name of a dataset on the Hugging Face hub, or"
            " 'embedded'"
        )
    try:
        if builder is not None and path.is_file():
            options: Mapping[str, str] = {"sample_by": "paragraph"} if builder == "text" else {}
            loaded = datasets.load_dataset(builder, data_files=str(path), split=split, **options)
        elif (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(str(path))
            loaded = loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
        else:
            name, _, configuration = source.partition(":")
            loaded = datasets.load_dataset(name, configuration or None, split=split)
    except Exception as error:  # `datasets` raises a dozen types; each means that this source cannot be used
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"data source {source!r} (split {split!r}) cannot be read: {first_line}. Check the name, the"
            " split and the file's format"
        ) from error
    return loaded


def _check_columns(
    dataset: "Dataset", source: str, text_column: str, domain_column: str, label_column: str
) -> list[str]:
    """Return the text columns once every named column is known to be there and to hold text."""
    text_columns = [name.strip() for name in text_column.split("+") if name.strip()]
    named = [*text_columns, *filter(None, (domain_column, label_column))]
    faults = [f"no column {name!r}" for name in dict.fromkeys(named) if name not in dataset.column_names]
    if not text_columns:
        faults.append("text_column names no column")
    for name in text_columns:
        kind = getattr(dataset.features.get(name), "dtype", "") if name in dataset.column_names else "string"
        if kind not in {"string", "large_string"}:
            faults.append(f"column {name!r} does not hold text but {dataset.features[name]}")
    if faults:
        raise ValueError(
            f"data source {source!r}: {'; '.join(faults)}; its columns are {', '.join(dataset.column_names)}"
        )
    return text_columns


def _collect(
    dataset: "Dataset", text_columns: Sequence[str], keys: Mapping[str, str], source: str
) -> LabelledTexts:
    """Join the text columns; drop blanks and repeats (a repeat could be trained on and held out)."""
    columns = {name: dataset[name][:] for name in {*text_columns, *keys.values()}}
    kept: dict[str, int] = {}
    for row in range(len(dataset)):
        pieces = [str(columns[name][row] or "").strip() for name in text_columns]
        text = "\n".join(piece for piece in pieces if piece)
        if text and all(columns[name][row] is not None for name in keys.values()):
            kept.setdefault(text, row)
    if not kept:
        raise ValueError(
            f"data source {source!r} has no text in {'+'.join(text_columns)}: every row is blank"
        )
    rows = list(kept.values())
    read = {name: [str(columns[column][row]) for row in rows] for name, column in keys.items()}
    return LabelledTexts(texts=list(kept), domains=read.get("domain", ()), labels=read.get("label", ()))
