"""What is refused before a run begins."""

from pathlib import Path

import pytest

from benchmarks.tiny_models import save_tiny
from demo.tokenizer import train_tokenizer
from moe.experts import ExpertLayout
from scenario.settings.reading import read_config
from server.job import check_memory, prepare
from server.model_input import check_workers


def test_a_model_larger_than_the_machine_is_refused_with_the_way_out() -> None:
    check_memory(8_000_000_000, 8_000_000_000)
    with pytest.raises(
        ValueError, match=r"61\.1 GB in model\.dtype.*has 16\.0 GB of memory; set evaluate\.streamed = true"
    ):
        check_memory(61_100_000_000, 16_000_000_000)


def test_more_workers_than_the_machine_has_memory_for_are_refused_with_the_estimate() -> None:
    layout = ExpertLayout(
        family="mixtral",
        num_experts={0: 8, 1: 8},
        top_k=2,
        expert_bytes={0: 200_000_000, 1: 300_000_000},
        shared_bytes=1_000_000_000,
        shapes={},
    )
    # 1.5 GB for the server, 1.0 GB shared, and 0.58 GB a worker: four fit into 4.82 GB, and no fifth.
    sizes = {"server_bytes": 1_500_000_000, "machine_bytes": 4_820_000_000}
    check_workers(layout, 4, **sizes)
    check_workers(layout, 0, server_bytes=1_500_000_000, machine_bytes=1_500_000_000)
    with pytest.raises(
        ValueError, match=r"^5 workers need at least 5\.4 GB .* 0\.58 GB a worker .* has 4\.8 GB .* --workers"
    ):
        check_workers(layout, 5, **sizes)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Return a tiny model without a tokenizer; its embedding has 300 rows."""
    return save_tiny(tmp_path / "base", "mixtral", vocab_size=300)


def refusal(base: Path) -> str:
    """Return why a run of this model is refused at its door."""
    settings: dict[str, bool | int | float | str] = {
        **{"model.name": str(base), "data.sequence-length": 16},
        **{"population.clusters": 2, "population.devices": 2},
    }
    with pytest.raises(ValueError) as caught:
        prepare(read_config(settings), say=lambda _text: None)
    return str(caught.value)


def test_a_model_without_a_tokenizer_is_refused_in_one_sentence(base: Path) -> None:
    told = refusal(base)
    assert told.startswith(f"checkpoint {base} has no tokenizer (one of tokenizer.json")
    assert "\n" not in told


def test_a_tokenizer_larger_than_the_embedding_is_refused_with_the_token(base: Path) -> None:
    tokenizer = train_tokenizer(["word"], vocab_size=257, max_length=64)
    tokenizer.add_tokens([f"<{number}>" for number in range(len(tokenizer), 302)])
    tokenizer.save_pretrained(base)
    told = refusal(base)
    assert "an embedding of 300 rows and a tokenizer of 302 tokens: 2 have no row" in told
    assert "the first is '<300>', number 300" in told
