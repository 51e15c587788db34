"""Whole runs on prompts with responses, and what is refused of them before anything is trained."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from benchmarks.tiny_models import save_tiny
from scenario.settings.reading import read_config
from server.app import run
from server.job import prepare
from tests.fake_grid import FakeGrid
from tests.runs.conftest import DOMAINS, Settings

Clients = Callable[..., FakeGrid]


@pytest.fixture
def example_run(tiny_run: Settings, tmp_path: Path) -> Settings:
    """Return settings of a run on pairs of which the response always begins as its domain does."""
    file = tmp_path / "pairs.jsonl"
    rows = [
        {"q": f"{name} {number}", "a": f"{text.split()[number % 3]} {name}", "domain": name}
        for name, text in DOMAINS.items()
        for number in range(40)
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    return {
        **{**tiny_run, "data.source": str(file), "data.sequence-length": 24, "merge.max-merges": 5},
        **{"data.prompt-column": "q", "data.response-column": "a"},
    }


@pytest.mark.parametrize("family", ["mixtral", "switch_transformers"])
def test_a_run_on_examples_learns_the_responses(
    example_run: Settings, checkpoint: Path, clients: Clients, tmp_path: Path, family: str
) -> None:
    settings = dict(example_run)
    if family != "mixtral":
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        base = save_tiny(tmp_path / "base", family, vocab_size=len(tokenizer))
        tokenizer.save_pretrained(base)
        settings["model.name"] = str(base)
    folder = run(clients(settings), read_config(settings))
    clusters = json.loads((folder / "summary.json").read_text())["clusters"]
    learned = [c for c in clusters if c["own_loss_after"] != c["own_loss_before"]]
    assert len(learned) >= 2
    assert all(c["own_loss_after"] < c["own_loss_before"] for c in learned), clusters


def test_choosing_among_the_responses_is_told_before_and_after(
    example_run: Settings, clients: Clients, tmp_path: Path
) -> None:
    file = tmp_path / "domains.jsonl"
    rows = [{"q": f"what is {n}?", "a": name, "domain": name} for name in DOMAINS for n in range(40)]
    file.write_text("\n".join(map(json.dumps, rows)))
    told: Settings = {
        "data.source": str(file),
        "evaluate.choices": 4,
        "merge.max-merges": 8,
        "train.learning-rate": 0.05,
    }
    settings = {**example_run, **told}
    folder = run(clients(settings), read_config(settings))
    clusters = json.loads((folder / "summary.json").read_text())["clusters"]
    names = [f"{model}_accuracy_{when}" for model in ("own", "merged") for when in ("before", "after")]
    assert all(cluster[name] in (0.0, 0.25, 0.5, 0.75, 1.0) for cluster in clusters for name in names)
    before, after = (sum(c[f"own_accuracy_{when}"] for c in clusters) for when in ("before", "after"))
    assert after >= before + 1.0, clusters
    said = json.loads((folder / "findings.json").read_text())["completions"]
    # After the prompt and nothing else; with what the data says beside it.
    assert said and all(one["beginning"].strip().endswith("?") for one in said)
    assert {one["original"].strip() for one in said} <= set(DOMAINS)
    assert "Held-out accuracy, own sub-models" in (folder / "adapter" / "README.md").read_text()


def test_free_text_cannot_be_chosen_from(example_run: Settings, tmp_path: Path) -> None:
    file = tmp_path / "free.jsonl"
    rows = [{"q": f"q{n}", "a": f"a{n}", "domain": name} for name in DOMAINS for n in range(300)]
    file.write_text("\n".join(map(json.dumps, rows)))
    settings = {**example_run, "data.source": str(file), "evaluate.choices": 4}
    with pytest.raises(ValueError, match="different responses to choose from, got 300"):
        prepare(read_config(settings), print)


def test_a_run_on_examples_keeps_frozen_layers_outputs_to_the_bit(
    example_run: Settings, clients: Clients
) -> None:
    logs = []
    for kept_mb in (0.000001, 10.0):
        settings = {**example_run, "train.layers": "1", "train.kept-outputs-mb": kept_mb}
        folder = run(clients(settings), read_config(settings))
        logs.append((folder / "events.jsonl").read_bytes())
    assert logs[0] == logs[1]


def test_a_plain_template_is_said_aloud(example_run: Settings) -> None:
    said: list[str] = []
    prepare(read_config(example_run), said.append)
    assert sum("the tokenizer has no chat template: messages are put together" in line for line in said) == 1


def test_a_row_that_fails_in_the_template_is_named_before_the_run(
    example_run: Settings, checkpoint: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "with-template"
    copy.mkdir()
    for file in checkpoint.iterdir():
        (copy / file.name).symlink_to(file)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['content'] == 'rivers 7' %}{{ raise_exception('no 7') }}{% endif %}"
        "{{ m['content'] }}{% endfor %}"
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    tokenizer.save_pretrained(copy)
    with pytest.raises(ValueError, match=r"line 8 cannot be put into the tokenizer's chat template: no 7"):
        prepare(read_config({**example_run, "model.name": str(copy)}), print)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"data.response-column": ""}, "got data.prompt-column; name both"),
        (
            {"data.messages-column": "m"},
            "got data.prompt-column and data.response-column and data.messages-column",
        ),
        ({"data.source": "embedded"}, 'needs a data.source of rows, got "embedded"'),
    ],
)
def test_columns_that_do_not_go_together_are_refused(
    example_run: Settings, columns: Settings, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        read_config({**example_run, **columns})
