"""The embedded corpus: enough text, clearly different, no passage twice, refusals when it lacks."""

from collections import Counter
from collections.abc import Iterator

import pytest

from demo import corpus, sources


def test_eight_domains_of_enough_text_are_found() -> None:
    found = corpus.domains()
    assert len(found) == corpus.NUM_DOMAINS
    for name, passages in found.items():
        held = sum(map(len, passages))
        made_from = sum(map(len, corpus.maker_texts()[name]))
        assert 60_000 <= held + made_from < 360_000 + 30_000, name
        assert 0.3 < made_from / (held + made_from) < 0.5, name
        assert len(passages) >= 100, f"{name}: twelve devices and a held-out set need passages"


def test_no_passage_is_in_two_places() -> None:
    everything = [
        passage
        for part in (corpus.domains(), corpus.maker_texts())
        for passages in part.values()
        for passage in passages
    ]
    assert len(everything) == len(set(everything))


def test_domains_differ_more_than_the_two_parts_of_one_domain() -> None:
    def profile(passages: list[str]) -> Counter[str]:
        text = "".join(passages)[:100_000]
        return Counter(text[start : start + 3] for start in range(len(text) - 2))

    def similarity(left: Counter[str], right: Counter[str]) -> float:
        """Return the share of character triples that two texts have in common, counted with repeats."""
        return (left & right).total() / min(left.total(), right.total())

    devices = {name: profile(passages) for name, passages in corpus.domains().items()}
    maker = {name: profile(passages) for name, passages in corpus.maker_texts().items()}
    for name in devices:
        across = {rival: similarity(devices[name], maker[rival]) for rival in maker if rival != name}
        within = similarity(devices[name], maker[name])
        assert within > max(across.values()), (name, within, across)


def test_the_text_is_the_same_at_every_reading() -> None:
    first = corpus.digest()
    corpus._read_corpus.cache_clear()
    assert corpus.digest() == first
    assert len(first) == 64


def _letters(number: int) -> str:
    """Spell a number in letters: paragraphs that differ in digits alone count as repeats."""
    return "".join("abcdefghij"[int(digit)] for digit in f"{number:06d}")


def _words(prefix: str, num_paragraphs: int) -> Iterator[str]:
    for number in range(num_paragraphs):
        yield f"{prefix} paragraph called {_letters(number)} " + "and more of the same " * 40


def _missing() -> Iterator[str]:
    yield from _nowhere()


def _nowhere() -> Iterator[str]:
    raise sources.SourceMissingError("the package 'nowhere' is not installed")


def test_a_missing_source_is_replaced_by_the_one_in_reserve() -> None:
    present = [(f"d{n}", lambda n=n: _words(f"domain{'x' * n}", 100)) for n in range(8)]
    found = corpus.collect((("lost", _missing), *present))
    assert list(found) == [f"d{n}" for n in range(8)]


def test_six_domains_are_enough_and_five_are_refused_with_what_is_missing() -> None:
    present = [(f"d{n}", lambda n=n: _words(f"domain{'x' * n}", 100)) for n in range(6)]
    short = ("short", lambda: _words("short", 3))
    assert len(corpus.collect((*present, ("lost", _missing), short))) == 6
    with pytest.raises(
        ValueError, match=r"at least 6.*found 5.*lost: the package 'nowhere'.*short: \d+ char"
    ):
        corpus.collect((*present[:5], ("lost", _missing), short))


def test_a_paragraph_repeated_with_another_year_is_kept_once() -> None:
    text = "Copyright {} by the authors of this very fine program, all rights reserved by them."
    found = corpus.cut(iter([text.format(1999), text.format(2024), "Something else entirely stands here."]))
    assert len(found.maker + found.devices) == 2


def test_numbers_count_as_content_where_there_are_no_words() -> None:
    found = corpus.cut(iter(["0 1 2 3", "0 1 2 4", "0 1 2 3"]))
    assert sorted(found.maker + found.devices) == ["0 1 2 3", "0 1 2 4"]


def test_text_without_blank_lines_is_cut_into_passages() -> None:
    minified = "".join(f"function {_letters(n)}(a){{return a+{n}}};" for n in range(4000))
    found = corpus.cut(iter([minified]))
    assert max(map(len, found.maker + found.devices)) <= 3 * 900
    assert len(found.maker) > 5
    assert len(found.devices) > 5
