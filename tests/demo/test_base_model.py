"""The demo model, of the tiny recipe: an ordinary checkpoint whose experts follow domains."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo import base_model, corpus, measure
from demo.packing import pack
from demo.recipe import TINY


@pytest.fixture(scope="module")
def blocks(tiny_model: Path) -> list[torch.Tensor]:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    return [
        torch.from_numpy(pack(tokenizer, passages[:60], sequence_length=64, max_examples=24))
        for passages in corpus.domains().values()
    ]


def test_it_loads_as_any_checkpoint_does(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    config = json.loads((tiny_model / "config.json").read_text())
    assert config["model_type"] == "mixtral"
    assert config["num_local_experts"] == 8
    assert config["num_experts_per_tok"] == 2
    assert model.config.num_hidden_layers >= 3
    assert (tiny_model / "model.safetensors").is_file()


def test_its_tokenizer_gives_any_text_back(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for text in ("def f(x):\n\treturn x\n", "Grüße, 世界 \U0001f6f0", "  two  spaces\r\n", "\x00\x7f"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert max(ids) < TINY.vocab_size
    assert tokenizer.eos_token_id is not None


def test_its_router_follows_the_domains(tiny_model: Path, blocks: list[torch.Tensor]) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    shares_DLE = measure.routing_shares(model, blocks)
    captured_DL, _ = measure.best_capture(shares_DLE)
    assert shares_DLE.sum(axis=2) == pytest.approx(1.0, abs=1e-5)
    assert captured_DL.mean() > 2 / 8, "one expert at random would capture 1/8"


def test_it_has_learnt_something(tiny_model: Path, blocks: list[torch.Tensor]) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    # Guessing among the vocabulary costs log(512) = 6.24 nats a token.
    assert sum(measure.mean_loss(model, each) for each in blocks) / len(blocks) < 5.5


def test_making_it_twice_gives_the_same_bytes_and_disturbs_nothing(tiny_model: Path, tmp_path: Path) -> None:
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    said: list[str] = []
    base_model.make_base_model(tmp_path, said.append, TINY)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / name).read_bytes() == (tiny_model / name).read_bytes(), name
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert said[0] == "reading the corpus"


def test_the_command_refuses_a_folder_that_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert base_model.main([str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_the_command_says_in_one_line_that_a_folder_cannot_be_made(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(base_model, "ensure_base_model", lambda _progress: tiny_model)
    (tmp_path / "file").write_text("no folder")
    assert base_model.main([str(tmp_path / "file" / "out")]) == 1
    assert str(tmp_path / "file") in (said := capsys.readouterr().err)
    assert said.count("\n") == 1
    assert base_model.main([str(tmp_path / "a[1]* copy")]) == 0
    copied = {file.name: file.read_bytes() for file in (tmp_path / "a[1]* copy").iterdir()}
    assert copied == {file.name: file.read_bytes() for file in tiny_model.iterdir() if file.name[0] != "."}
