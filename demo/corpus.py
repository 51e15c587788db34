"""The embedded corpus: real text of eight clearly different domains, found on every machine.

Nothing is shipped or downloaded. The text depends on the versions of the installed packages, so it is
the same on one machine and differs a little between machines; `digest` names what was found.

Each domain is two disjoint parts: what the maker of the demo model reads, and what the federated
devices hold. Whole sections of documents go to one part or the other, so that the devices' text has
words of its own, as private data has, and fine-tuning something to learn that the checkpoint has not seen.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from demo import sources
from demo.kept_corpus import kept

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
_SECTION_CHARS = 12_000
_MAKER_SHARE = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainText:
    """One domain's passages: the maker's and the devices', no passage in both or twice."""

    maker: tuple[str, ...]
    devices: tuple[str, ...]

    @property
    def num_chars(self) -> int:
        """Size of both parts together."""
        return sum(map(len, self.maker + self.devices))


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
    return {name: list(found.devices) for name, found in _read_corpus().items()}


def maker_texts() -> dict[str, list[str]]:
    """Read the part of each domain the demo checkpoint is made from; disjoint from `domains`.

    Returns and raises as `domains`.
    """
    return {name: list(found.maker) for name, found in _read_corpus().items()}


def digest() -> str:
    """Name the text found on this machine: a SHA-256 in hex over every passage of every domain."""
    total = hashlib.sha256()
    for name, found in _read_corpus().items():
        total.update(f"{name} {len(found.maker)} {len(found.devices)}".encode())
        for passage in (*found.maker, *found.devices):
            total.update(hashlib.sha256(passage.encode()).digest())
    return total.hexdigest()


@lru_cache(maxsize=1)
def _read_corpus() -> Mapping[str, DomainText]:
    found = kept(
        lambda: {name: [list(text.maker), list(text.devices)] for name, text in collect(_SOURCES).items()}
    )
    return MappingProxyType(
        {name: DomainText(maker=tuple(maker), devices=tuple(own)) for name, (maker, own) in found.items()}
    )


def collect(candidates: tuple[tuple[str, Documents], ...]) -> dict[str, DomainText]:
    """Read candidates in order until `NUM_DOMAINS` are found; a source that lacks is passed over.

    Raises
    ------
    ValueError
        If fewer than `MIN_DOMAINS` have enough text.
    """
    found: dict[str, DomainText] = {}
    missing: list[str] = []
    for name, documents in candidates:
        if len(found) == NUM_DOMAINS:
            break
        try:
            text = cut(documents())
        except (sources.SourceMissingError, OSError) as error:
            missing.append(f"{name}: {error}")
            continue
        if text.num_chars < _MIN_CHARS:
            missing.append(f"{name}: {text.num_chars} characters of text, {_MIN_CHARS} needed")
            continue
        found[name] = text
    if len(found) < MIN_DOMAINS:
        raise ValueError(
            f"the embedded corpus needs at least {MIN_DOMAINS} domains of text, found {len(found)}"
            f" ({', '.join(found) or 'none'}); missing: {'; '.join(missing)}. Install the project's"
            " requirements (torch, plotly, scikit-learn) with their data files, or set data.source to a"
            " dataset of your own"
        )
    return found


def cut(documents: Iterator[str]) -> DomainText:
    """Cut documents into passages, drop paragraphs seen before, and deal sections to maker and devices.

    A paragraph counts as seen when its words are, whatever their case, digits or spacing: licences and
    file headers repeat with another year, and a repeat must not stand in both a device's text and the
    held-out text.
    """
    seen: set[bytes] = set()
    sections = [section for document in documents for section in _sections(_passages(document, seen))]
    # By hash, so that a cap takes from all over a domain and not its first files.
    sections.sort(key=lambda section: hashlib.sha256("\n".join(section).encode()).digest())
    total = min(_MAX_CHARS, sum(len(passage) for section in sections for passage in section))
    maker: list[str] = []
    devices: list[str] = []
    size = 0
    for section in sections:
        (maker if size < _MAKER_SHARE * total else devices).extend(section)
        size += sum(map(len, section))
        if size >= total:
            break
    return DomainText(maker=tuple(maker), devices=tuple(devices))


def _passages(document: str, seen: set[bytes]) -> Iterator[str]:
    """Yield unseen paragraphs joined to about `_PASSAGE_CHARS`; adds to ``seen``."""
    kept: list[str] = []
    for paragraph in _paragraphs(document):
        key = _fingerprint(paragraph)
        if key in seen:
            continue
        seen.add(key)
        kept.append(paragraph)
        if sum(map(len, kept)) >= _PASSAGE_CHARS:
            yield "\n\n".join(kept)
            kept = []
    if kept:
        yield "\n\n".join(kept)


def _sections(passages: Iterator[str]) -> Iterator[list[str]]:
    """Yield runs of neighbouring passages of about `_SECTION_CHARS`, what remains last."""
    section: list[str] = []
    for passage in passages:
        section.append(passage)
        if sum(map(len, section)) >= _SECTION_CHARS:
            yield section
            section = []
    if section:
        yield section


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
