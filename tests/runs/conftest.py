"""A small whole run in this process: the real apps on a tiny real checkpoint, Flower's Grid faked."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.supercore.run import Run
from transformers import AutoConfig, AutoModelForCausalLM

from client.app import app as client_app
from demo.tokenizer import train_tokenizer
from scenario.settings.config import Scalar
from scenario.settings.reading import read_config
from server.app import run
from tests.fake_grid import FakeGrid

DOMAINS = {
    "rivers": "the river runs to the sea and the sea takes the river",
    "numbers": "1 2 3 5 8 13 21 34 55 89 144 233 377 610 987",
    "code": "def f(x): return f(x - 1) + f(x - 2) if x > 1 else x",
    "orders": "turn left, go north, climb the hill, cross the bridge",
}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at a grid in real time more often than a run does: these nodes answer at once."""
    monkeypatch.setattr("server.ems_fl_run.POLL_INTERVAL_S", 0.05)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a random Mixtral of two layers and four experts with a tokenizer, saved by transformers."""
    folder = tmp_path_factory.mktemp("tiny-moe")
    tokenizer = train_tokenizer(list(DOMAINS.values()) * 5, vocab_size=300, max_length=32)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "mixtral",
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=32,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write four domains of short made-up texts as JSON lines."""
    import json

    file = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    rng = np.random.default_rng(0)
    with file.open("w") as lines:
        for domain, text in DOMAINS.items():
            words = text.split()
            for _ in range(60):
                row = {"text": " ".join(rng.permutation(words)), "domain": domain}
                lines.write(json.dumps(row) + "\n")
    return file


Settings = dict[str, Scalar]


def tiny_settings(checkpoint: Path, texts: Path, runs: Path) -> Settings:
    """Return settings of a run of a few seconds: four clusters, eight devices, half a simulated day."""
    return {
        "run.dir": str(runs),
        "run.name": "tiny",
        "model.name": str(checkpoint),
        "data.source": str(texts),
        "data.domain-column": "domain",
        "data.sequence-length": 12,
        "data.heldout-examples": 8,
        "sky.hours": 14.0,
        "population.devices": 8,
        "population.clusters": 4,
        "profile.examples": 4,
        "profile.wait-hours": 8.0,
        "train.lora-rank": 2,
        "train.learning-rate": 0.02,
        "train.max-steps": 8,
        "train.batch-size": 4,
        "evaluate.every-merges": 4,
    }


@pytest.fixture
def tiny_run(checkpoint: Path, texts: Path, tmp_path: Path) -> Settings:
    """Return `tiny_settings` of a run of its own."""
    return tiny_settings(checkpoint, texts, tmp_path / "runs")


@pytest.fixture(scope="session")
def clients() -> Callable[..., FakeGrid]:
    """Return a maker of fake grids whose nodes run the real ClientApp."""

    def make(
        settings: Settings,
        *,
        num_nodes: int = 2,
        spoil: Any = None,
        node_configs: Any = MappingProxyType({}),
        run_id: int = 1,
        **more: Any,
    ) -> FakeGrid:
        states: dict[int, RecordDict] = defaultdict(RecordDict)  # a SuperNode has one as long as it lives

        def client(message: Message) -> RecordDict | None:
            node_id = message.metadata.dst_node_id
            node, state = node_configs.get(node_id, {}), states[node_id]
            context = Context(
                run_id=run_id, node_id=node_id, node_config=node, state=state, run_config=settings
            )
            if spoil is not None:
                spoil(message)
            reply = client_app(message, context)
            if reply.has_error():
                raise RuntimeError(reply.error.reason)
            return reply.content

        grid = FakeGrid(client, num_nodes=num_nodes, **more)
        grid.set_run(Run.create_empty(run_id))
        return grid

    return make


@pytest.fixture(scope="session")
def whole_run(
    checkpoint: Path, texts: Path, clients: Callable[..., FakeGrid], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Run `tiny_settings` from beginning to end, once for all tests, and return its folder: only read it."""
    settings = tiny_settings(checkpoint, texts, tmp_path_factory.mktemp("runs"))
    return run(clients(settings), read_config(settings))
