"""The embedded corpus: real text of eight clearly different domains, found on every machine.

Nothing is shipped or downloaded. The text depends on the versions of the installed packages, so it is
the same on one machine and differs a little between machines; `digest` names what was found.

Each domain is two disjoint parts: what the maker of the demo model reads, and what the federated
devices hold, so that fine-tuning has something to learn that the checkpoint has not seen.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType

from demo import sources

Documents = Callable[[], Iterator[str]]

NUM_DOMAINS = 8
MIN_DOMAINS = 6
"""Fewer than this on a machine is an error: the demo would no longer show what it is for."""

_SOURCES: tuple[tuple[str, Documents], ...] = (
    ("python", sources.python),
    ("reference", sources.reference),
    ("licences", sources.licences),
    ("headers", sources.headers),
    ("javascript", sources.javascript),
    ("unicode", sources.unicode),
    ("digits", sources.digits),
    ("operators", sources.operators),
    # In reserve: it overlaps with the reference and the licences, so it takes part only when another lacks.
    ("readmes", sources.readmes),
)

_MIN_CHARS = 60_000
_MAX_CHARS = 360_000
_PASSAGE_CHARS = 900
_MAKER_SHARE = 0.4


def domains() -> dict[str, list[str]]:
    """Read the text that devices hold: domain -> passages of about 900 characters, deduplicated.

    Returns
    -------
    dict[str, list[str]]
        8 domains (6 or 7 when this machine lacks the sources of others), each 60 to 360 thousand
        characters before the maker's part is taken out. The same on every call.

    Raises
    ------
    ValueError
        If fewer than 6 domains are found; names what is missing and how to get it.
    """
    return {name: _split(passages)[1] for name, passages in _read_corpus().items()}


def maker_texts() -> dict[str, list[str]]:
    """Read the part of each domain the demo checkpoint is made from; disjoint from `domains`.

    Returns and raises as `domains`.
    """
    return {name: _split(passages)[0] for name, passages in _read_corpus().items()}


def digest() -> str:
    """Name the text found on this machine: a SHA-256 in hex over every passage of every domain."""
    total = hashlib.sha256()
    for name, passages in _read_corpus().items():
        total.update(name.encode())
        for passage in passages:
            total.update(hashlib.sha256(passage.encode()).digest())
    return total.hexdigest()


@lru_cache(maxsize=1)
def _read_corpus() -> Mapping[str, tuple[str, ...]]:
    return MappingProxyType(collect(_SOURCES))


def collect(candidates: tuple[tuple[str, Documents], ...]) -> dict[str, tuple[str, ...]]:
    """Read candidates in order until `NUM_DOMAINS` are found; a source that lacks is passed over.

    Raises
    ------
    ValueError
        If fewer than `MIN_DOMAINS` have enough text.
    """
    found: dict[str, tuple[str, ...]] = {}
    missing: list[str] = []
    for name, documents in candidates:
        if len(found) == NUM_DOMAINS:
            break
        try:
            passages = cut(documents())
        except (sources.SourceMissingError, OSError) as error:
            missing.append(f"{name}: {error}")
            continue
        num_chars = sum(map(len, passages))
        if num_chars < _MIN_CHARS:
            missing.append(f"{name}: {num_chars} characters of text, {_MIN_CHARS} needed")
            continue
        found[name] = passages
    if len(found) < MIN_DOMAINS:
        raise ValueError(
            f"the embedded corpus needs at least {MIN_DOMAINS} domains of text, found {len(found)}"
            f" ({', '.join(found) or 'none'}); missing: {'; '.join(missing)}. Install the project's"
            " requirements (torch, plotly, scikit-learn) with their data files, or set data.source to a"
            " dataset of your own"
        )
    return found


def cut(documents: Iterator[str]) -> tuple[str, ...]:
    """Cut documents into passages, drop paragraphs seen before, and keep a fixed sample up to the cap.

    A paragraph counts as seen when its words are, whatever their case, digits or spacing: licences and
    file headers repeat with another year, and a repeat must not stand in both a device's text and the
    held-out text.
    """
    seen: set[bytes] = set()
    passages: list[str] = []
    for document in documents:
        kept: list[str] = []
        size = 0
        for paragraph in _paragraphs(document):
            key = _fingerprint(paragraph)
            if key in seen:
                continue
            seen.add(key)
            kept.append(paragraph)
            size += len(paragraph)
            if size >= _PASSAGE_CHARS:
                passages.append("\n\n".join(kept))
                kept, size = [], 0
        if kept:
            passages.append("\n\n".join(kept))
    return _sample(passages)


def _paragraphs(document: str) -> Iterator[str]:
    """Yield pieces between blank lines, those of more than two passages cut at statement or line ends."""
    for piece in re.split(r"\n\s*\n", document):
        paragraph = piece.strip("\n").rstrip()
        while len(paragraph) > 2 * _PASSAGE_CHARS:
            end = max(
                paragraph.rfind(mark, _PASSAGE_CHARS // 2, _PASSAGE_CHARS) for mark in ("\n", "}", ";", " ")
            )
            end = end + 1 if end > 0 else _PASSAGE_CHARS
            yield paragraph[:end]
            paragraph = paragraph[end:]
        if paragraph.strip():
            yield paragraph


def _fingerprint(paragraph: str) -> bytes:
    words = re.sub(r"[\W\d_]+", " ", paragraph.lower()).strip()
    # Numeric text has no words: there the numbers are the content.
    return hashlib.sha256((words if len(words) > 20 else paragraph.strip()).encode()).digest()


def _sample(passages: list[str]) -> tuple[str, ...]:
    """Order passages by their hash, so that a cap takes from all over a domain and not its first files."""
    total = 0
    kept: list[str] = []
    for passage in sorted(set(passages), key=lambda text: hashlib.sha256(text.encode()).digest()):
        total += len(passage)
        if total > _MAX_CHARS:
            break
        kept.append(passage)
    return tuple(kept)


def _split(passages: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Deal passages to the maker and to the devices; their order is by hash already."""
    num_maker = int(len(passages) * _MAKER_SHARE)
    return list(passages[:num_maker]), list(passages[num_maker:])
