"""Which files of text can be read, by the ending of their names.

Cheap to import: the settings are checked against it in every process.
"""

from pathlib import PurePath

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".txt": "txt",
}
"""Format of each ending; a JSON file is an array or one object after the other, whatever its ending says."""

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
"""Endings that may follow those of `FORMATS`, as in ``texts.csv.gz``."""

KNOWN_ENDINGS = f"{', '.join(FORMATS)}, each also with {', '.join(COMPRESSIONS)} behind it"
"""For people."""


def format_of(name: str) -> tuple[str, str] | None:
    """Return a file's format and its compression's ending ("" for none), or None for an unknown ending."""
    suffixes = [suffix.lower() for suffix in PurePath(name).suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else ""
    if not suffixes or suffixes[-1] not in FORMATS:
        return None
    return FORMATS[suffixes[-1]], compression
