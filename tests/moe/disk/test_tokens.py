"""A checkpoint's tokenizer: there, whole, and no larger than the model's embedding."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.tiny_models import save_tiny
from demo.tokenizer import train_tokenizer
from moe.disk.layout import open_storage
from moe.disk.tokens import check_tokens, load_tokenizer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny model with a tokenizer that fits: 256 bytes, a few merges and the end of a text."""
    tokenizer = train_tokenizer(["a fox, a box, a fox"] * 3, vocab_size=280, max_length=64)
    base = save_tiny(tmp_path_factory.mktemp("whole"), "mixtral", vocab_size=len(tokenizer))
    tokenizer.save_pretrained(base)
    return base


@pytest.fixture
def base(whole: Path, tmp_path: Path) -> Path:
    """Return a copy of it, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "base"))


def test_a_tokenizer_of_as_many_tokens_as_rows_is_taken(base: Path) -> None:
    tokenizer = load_tokenizer(base)
    check_tokens(tokenizer, open_storage(base))
    assert tokenizer.decode(tokenizer("a fox")["input_ids"]) == "a fox"


def test_a_token_without_a_row_is_named_with_both_sizes(base: Path) -> None:
    tokenizer = load_tokenizer(base)
    rows = len(tokenizer)
    tokenizer.add_tokens(["<first>", "<second>"])
    with pytest.raises(
        ValueError, match=rf"embedding of {rows} rows .*of {rows + 2} tokens: 2 have"
    ) as caught:
        check_tokens(tokenizer, open_storage(base))
    assert f"the first is '<first>', number {rows}" in str(caught.value)
    assert "resize_token_embeddings" in str(caught.value)


def test_a_tokenizer_loads_beside_a_null_that_transformers_refuses(base: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"hidden_act": None}))
    check_tokens(load_tokenizer(base), open_storage(base))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no files": (
        lambda b: list(map(os.unlink, b.glob("tokenizer*"))),
        r"has no tokenizer \(one of tokenizer.json, tokenizer.model",
    ),
    "settings alone": (lambda b: (b / "tokenizer.json").unlink(), "has no tokenizer"),
    "words alone": (lambda b: (b / "tokenizer.json").rename(b / "vocab.json"), "does not load"),
    "cut short": (lambda b: (b / "tokenizer.json").write_text("{"), "does not load.*JSON"),
    "empty": (lambda b: (b / "tokenizer.json").write_text(""), "does not load"),
    "a list": (lambda b: (b / "tokenizer.json").write_text("[]"), "does not load"),
    "settings cut short": (lambda b: (b / "tokenizer_config.json").write_text("{"), "does not load"),
    "settings of a list": (lambda b: (b / "tokenizer_config.json").write_text("[]"), "does not load"),
    "no text": (lambda b: (b / "tokenizer.json").write_bytes(b"\xff\xfe\x00"), "does not load"),
}


@pytest.mark.parametrize("damage, told", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_tokenizer_that_is_not_there_or_damaged_is_one_sentence(
    base: Path, damage: Callable[[Path], object], told: str
) -> None:
    damage(base)
    with pytest.raises(ValueError, match=told) as caught:
        load_tokenizer(base)
    assert "\n" not in str(caught.value)
    assert str(base) in str(caught.value)
