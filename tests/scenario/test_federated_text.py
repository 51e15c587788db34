"""Who has which text: deterministic, sized by data share, nothing in two places; and every refusal."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from demo import corpus
from demo.tokenizer import train_tokenizer
from scenario.data import partition
from scenario.data.check_blocks import check_blocks
from scenario.data.federated_text import FederatedText, load_federated_text, pack
from sim.population import Cluster, Population, build_population

Deal = Callable[..., FederatedText]


def population(
    num_devices: int = 12, num_clusters: int = 4, seed: int = 0, spread: float = 0.5
) -> Population:
    return build_population(
        clusters=[
            Cluster(name=f"c{n}", latitude_deg=float(n), longitude_deg=0.0) for n in range(num_clusters)
        ],
        num_devices=num_devices,
        devices_per_node=1,
        step_time_s=1.0,
        speed_spread=0.0,
        data_spread=spread,
        memory_bytes=10**9,
        seed=seed,
    )


def deal(source: str | Path, **changes: Any) -> FederatedText:
    given: dict[str, Any] = {
        "text_column": "text",
        "domain_column": "",
        "label_column": "",
        "split": "train",
        "partitioner": "iid",
        "dirichlet_alpha": 0.5,
        "population": population(),
        "heldout_share": 0.2,
        "seed": 0,
    }
    return load_federated_text(source=str(source), **(given | changes))


@pytest.fixture(autouse=True)
def _own_dataset_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


@pytest.fixture()
def table(tmp_path: Path) -> Path:
    """Eighty texts of four topics, with a blank, a missing and a repeated one, as JSON lines."""
    rows: list[dict[str, Any]] = [
        {"text": f"text {n} of topic {n % 4}", "topic": f"t{n % 4}", "answer": f"yes {n}", "size": n}
        for n in range(80)
    ]
    rows += [dict(rows[5]), {**rows[6], "text": "  "}, {**rows[7], "text": None}]
    path = tmp_path / "table.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def everything(text: FederatedText, people: Population) -> list[str]:
    trained = [passage for device in people.devices for passage in text.device_texts(device.device_id)]
    return trained + [passage for cluster in people.clusters for passage in text.heldout_texts(cluster.name)]


def test_the_embedded_corpus_gives_each_cluster_its_domain() -> None:
    people = population(96, 8)
    text = deal("embedded", partitioner="domain", population=people)
    by_domain = corpus.domains()
    assert text.domains == tuple(by_domain)
    for device in people.devices:
        domain = text.domains[[cluster.name for cluster in people.clusters].index(device.cluster)]
        assert set(text.device_texts(device.device_id)) <= set(by_domain[domain])
    assert sorted(everything(text, people)) == sorted(p for passages in by_domain.values() for p in passages)


def test_more_clusters_than_domains_share_domains_but_no_text() -> None:
    people = population(20, 10)
    text = deal("embedded", partitioner="domain", population=people)
    assert text.domains[:8] == tuple(corpus.domains())
    assert text.domains[8:] == text.domains[:2]
    assert len(everything(text, people)) == len(set(everything(text, people)))
    assert "share domains" in text.notes[0]


def test_fewer_clusters_than_domains_say_what_is_not_used(table: Path) -> None:
    text = deal(table, partitioner="domain", domain_column="topic", population=population(4, 2))
    assert text.domains == ("t0", "t1")
    assert any("not used are t2, t3" in note for note in text.notes)


@pytest.mark.parametrize("partitioner", ["domain", "iid", "dirichlet"])
def test_the_same_seed_deals_the_same_texts_and_another_seed_others(table: Path, partitioner: str) -> None:
    people = population()
    first, again, other = (
        everything(
            deal(table, partitioner=partitioner, domain_column="topic", dirichlet_alpha=9.0, seed=seed),
            people,
        )
        for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other
    assert sorted(first) == sorted(other), "every text is dealt, whatever the seed"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    partitioner=st.sampled_from(["domain", "iid", "dirichlet"]),
    heldout_share=st.floats(0.01, 0.6),
    seed=st.integers(0, 2**31),
)
def test_no_text_is_in_two_places(table: Path, partitioner: str, heldout_share: float, seed: int) -> None:
    people = population(seed=seed)
    text = deal(
        table,
        partitioner=partitioner,
        domain_column="topic",
        dirichlet_alpha=20.0,
        heldout_share=heldout_share,
        population=people,
        seed=seed,
    )
    dealt = everything(text, people)
    assert len(dealt) == len(set(dealt)) == 80
    assert all(text.device_texts(device.device_id) for device in people.devices)
    assert all(text.heldout_texts(cluster.name) for cluster in people.clusters)


def test_a_device_gets_as_much_as_its_data_share_says(table: Path) -> None:
    people = population(4, 1, spread=0.6)
    text = deal(table, population=people)
    shares = [device.data_share for device in people.devices]
    for device in people.devices:
        exact = 64 * device.data_share / sum(shares)
        assert len(text.device_texts(device.device_id)) == pytest.approx(exact, abs=2)


def test_a_small_dirichlet_parameter_skews_and_a_large_one_mixes() -> None:
    labels = [f"t{n % 4}" for n in range(4000)]

    def largest_label_share(dirichlet_alpha: float) -> float:
        """Return the mean over clusters of their commonest label's share; an even mixture of 4 has 1/4."""
        parts = partition.dirichlet(labels, 8, dirichlet_alpha, np.random.default_rng(1))
        held = [[labels[index] for index in part] for part in parts if len(part)]
        return float(np.mean([max(map(part.count, set(part))) / len(part) for part in held]))

    assert largest_label_share(0.1) > 0.7
    assert largest_label_share(1000.0) < 0.3


@given(shares=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=20), extra=st.integers(0, 500))
def test_apportioned_counts_add_up_and_none_is_empty(shares: list[float], extra: int) -> None:
    total = len(shares) + extra
    counts = partition.apportion(total, shares)
    assert sum(counts) == total
    assert min(counts) >= 1
    for share, count in zip(shares, counts, strict=True):
        assert abs(count - 1 - extra * share / sum(shares)) < 1 + 1e-6


def test_apportioning_by_hand() -> None:
    # One each, then 8 more as 6 : 1 : 1.
    assert partition.apportion(11, [6.0, 1.0, 1.0]) == [7, 2, 2]
    with pytest.raises(ValueError, match="2 items cannot give each of 3"):
        partition.apportion(2, [1.0, 1.0, 1.0])


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
def test_files_of_every_kind_hold_the_same_texts(table: Path, tmp_path: Path, suffix: str) -> None:
    frame = datasets.load_dataset("json", data_files=str(table), split="train").to_pandas()
    path = tmp_path / f"copy.{suffix}"
    if suffix == "parquet":
        frame.to_parquet(path)
    elif suffix == "csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True)
    people = population()
    assert sorted(everything(deal(path), people)) == sorted(everything(deal(table), people))


def test_a_text_file_is_read_by_paragraph(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(f"Paragraph {n}\nin two lines." for n in range(40)))
    assert "Paragraph 7\nin two lines." in everything(deal(path), population())


def test_a_folder_that_datasets_saved_is_read(table: Path, tmp_path: Path) -> None:
    datasets.load_dataset("json", data_files=str(table), split="train").save_to_disk(tmp_path / "saved")
    people = population()
    assert sorted(everything(deal(tmp_path / "saved"), people)) == sorted(everything(deal(table), people))


def test_text_columns_are_joined_in_the_order_named(table: Path) -> None:
    text = deal(table, text_column="answer+text")
    assert "yes 3\ntext 3 of topic 3" in everything(text, population())


def test_a_split_may_be_a_slice(table: Path) -> None:
    assert len(everything(deal(table, split="train[:50%]"), population())) < 50


def test_real_text_of_nine_domains_is_dealt_by_domain(shared_data: Path) -> None:
    people = population(16, 8)
    text = deal(
        shared_data / "text" / "multidomain9.parquet",
        text_column="prompt+response",
        domain_column="domain",
        partitioner="domain",
        split="train[:2000]+train[40000:42000]+train[95000:]",
        population=population(8, 2),
    )
    assert len(text.domains) == 2
    whole = deal(
        shared_data / "text" / "multidomain9.parquet",
        text_column="prompt+response",
        domain_column="domain",
        partitioner="domain",
        population=people,
    )
    assert len(set(whole.domains)) == 8
    assert len(everything(whole, people)) == len(set(everything(whole, people))) > 50_000


def test_missing_columns_are_named_with_those_there_are(table: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no column 'txt'; no column 'field'.*its columns are text, topic, answer"
    ):
        deal(table, text_column="txt+answer", domain_column="field")


def test_a_column_of_numbers_is_no_text(table: Path) -> None:
    with pytest.raises(ValueError, match="column 'size' does not hold text"):
        deal(table, text_column="size")


def test_a_partitioner_without_its_column_says_which_there_are(table: Path) -> None:
    with pytest.raises(ValueError, match=r"'domain' partitioner.*set domain_column.*columns are text, topic"):
        deal(table, partitioner="domain")
    with pytest.raises(ValueError, match=r"'dirichlet' partitioner.*set label_column"):
        deal(table, partitioner="dirichlet")


def test_every_bad_setting_is_named_at_once() -> None:
    with pytest.raises(
        ValueError, match=r"one of domain, iid, dirichlet, cluster, got 'random'.*heldout_share.*seed"
    ):
        deal("embedded", partitioner="random", heldout_share=1.0, seed=-1)
    with pytest.raises(ValueError, match=r"dirichlet_alpha must be > 0 and finite, got nan"):
        deal("embedded", partitioner="dirichlet", dirichlet_alpha=float("nan"))


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"'\./nowhere\.parquet' is not there"):
        deal("./nowhere.parquet")


@pytest.mark.parametrize(
    ("name", "content"), [("bad.parquet", b"PAR1 and nothing more"), ("bad.json", b'{"text": ')]
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}' \(split 'train'\) cannot be read"):
        deal(tmp_path / name)


def test_a_split_that_is_not_there_is_named(table: Path) -> None:
    with pytest.raises(ValueError, match=r"\(split 'test'\) cannot be read"):
        deal(table, split="test")


def test_a_dataset_of_blanks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "blank.jsonl"
    path.write_text('{"text": " "}\n{"text": ""}\n')
    with pytest.raises(ValueError, match="every row is blank"):
        deal(path)


def test_an_unknown_device_or_cluster_is_refused(table: Path) -> None:
    text = deal(table)
    with pytest.raises(ValueError, match="no device 12; devices are 0 to 11"):
        text.device_texts(12)
    with pytest.raises(ValueError, match="no cluster 'mars'; clusters are c0, c1"):
        text.heldout_texts("mars")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(["one two three four five six seven"], vocab_size=300, max_length=64)


def test_packing_keeps_every_token_in_order_and_marks_the_ends(tokenizer: PreTrainedTokenizerBase) -> None:
    texts = ["one two three", "four five", "six seven"]
    blocks_NT = pack(tokenizer, texts, sequence_length=4)
    stream = [token for text in texts for token in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
    assert blocks_NT.shape == (len(stream) // 4, 4)
    assert blocks_NT.flatten().tolist() == stream[: blocks_NT.size]


def test_packing_stops_at_the_limit(tokenizer: PreTrainedTokenizerBase) -> None:
    whole = pack(tokenizer, ["one two three four"] * 20, sequence_length=4)
    part = pack(tokenizer, ["one two three four"] * 20, sequence_length=4, max_examples=3)
    assert part.tolist() == whole[:3].tolist()


def test_packing_refuses_less_than_one_block(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match=r"1 texts make \d+ tokens, less than one block of 512"):
        pack(tokenizer, ["one"], sequence_length=512)
    with pytest.raises(ValueError, match="sequence_length must be >= 2"):
        pack(tokenizer, ["one"], sequence_length=1)


def test_devices_with_less_than_one_block_are_named(table: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    people = population(8, 2, spread=0.0)
    text = deal(table, population=people)
    check_blocks(text, tokenizer, people, sequence_length=16)
    with pytest.raises(
        ValueError, match=r"one example is 4000 tokens.*device 0 \(\d+ tokens\).*device 4 .* and 5 more"
    ):
        check_blocks(text, tokenizer, people, sequence_length=4000)
