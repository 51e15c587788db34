"""More devices and clusters than texts: everybody has data, and nothing held out is trained on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from demo.tokenizer import train_tokenizer
from scenario.data import partition
from scenario.data.check_blocks import check_blocks
from scenario.data.federated_text import FederatedText, load_federated_text, pack
from sim.population import Cluster, Population, build_population

SEQUENCE_LENGTH = 16

Write = Callable[..., Path]


def population(num_devices: int, num_clusters: int, spread: float = 0.5) -> Population:
    return build_population(
        clusters=[
            Cluster(name=f"c{n}", latitude_deg=0.0, longitude_deg=0.3 * n) for n in range(num_clusters)
        ],
        num_devices=num_devices,
        devices_per_node=1,
        step_time_s=1.0,
        speed_spread=0.0,
        data_spread=spread,
        memory_bytes=10**9,
        seed=1,
    )


def deal(source: str | Path, people: Population, **changes: Any) -> FederatedText:
    chosen: dict[str, Any] = {
        "text_column": "text",
        "domain_column": "" if source == "embedded" else "topic",
        "label_column": "",
        "split": "train",
        "partitioner": "domain",
        "dirichlet_alpha": 0.5,
        "heldout_share": 0.2,
        "seed": 0,
    }
    return load_federated_text(source=str(source), population=people, **(chosen | changes))


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Return the maker of a file of so many texts of each topic."""

    def get(*num_texts: int) -> Path:
        path = tmp_path_factory.mktemp("texts") / "rows.csv"
        rows = [
            f"text {n} of topic {topic},t{topic}" for topic, num in enumerate(num_texts) for n in range(num)
        ]
        path.write_text("\n".join(["text,topic", *rows]))
        return path

    return get


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(["text of topic 0 1 2 3 4 5 6 7 8 9"], vocab_size=300, max_length=64)


def trained(text: FederatedText, people: Population) -> list[list[str]]:
    """Return what each device may train on: its own texts, then all it could take."""
    return [
        [*text.device_texts(device.device_id), *text.more_device_texts(device.device_id)]
        for device in people.devices
    ]


def held_out(text: FederatedText, people: Population) -> list[list[str]]:
    return [
        [*text.heldout_texts(cluster.name), *text.more_heldout_texts(cluster.name)]
        for cluster in people.clusters
    ]


def test_texts_that_go_round_are_dealt_as_they_always_were(write: Write) -> None:
    # As commit f745731 dealt them: runs of the same seed go on giving the same event log.
    people = population(4, 2)
    text = deal(write(8, 8), people)
    own = [[item.split()[1] for item in text.device_texts(device)] for device in range(4)]
    held = [[item.split()[1] for item in text.heldout_texts(cluster)] for cluster in ("c0", "c1")]
    assert own == [["3", "6", "5"], ["0", "1", "7"], ["7", "4", "5"], ["1", "0", "3"]]
    assert held == [["2", "4"], ["6", "2"]]
    assert text.notes == ()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    partitioner=st.sampled_from(["domain", "iid"]),
    num_texts=st.lists(st.integers(2, 9), min_size=1, max_size=4),
    num_clusters=st.integers(1, 12),
    more_devices=st.integers(0, 40),
    heldout_share=st.floats(0.01, 0.99),
)
def test_every_device_has_data_and_nothing_held_out_is_trained_on(
    write: Write,
    partitioner: str,
    num_texts: list[int],
    num_clusters: int,
    more_devices: int,
    heldout_share: float,
) -> None:
    people = population(num_clusters + more_devices, num_clusters)
    text = deal(write(*num_texts), people, partitioner=partitioner, heldout_share=heldout_share)
    training, heldout = trained(text, people), held_out(text, people)
    assert all(text.device_texts(device.device_id) for device in people.devices)
    assert all(text.heldout_texts(cluster.name) for cluster in people.clusters)
    assert not {item for items in training for item in items} & {item for items in heldout for item in items}
    assert all(len(items) == len(set(items)) for items in training + heldout), "no text twice in one place"


def test_devices_beyond_the_texts_draw_from_their_cluster_and_a_note_says_so(write: Write) -> None:
    people = population(60, 2)
    text = deal(write(10, 100), people)
    of_cluster = [{item for d in range(30 * c, 30 * c + 30) for item in text.device_texts(d)} for c in (0, 1)]
    assert {item.split()[-1] for item in of_cluster[0]} == {"0"}
    assert {item.split()[-1] for item in of_cluster[1]} == {"1"}
    assert len(of_cluster[0]) == 8, "30 draws leave none of 8 texts out"
    assert sum(len(text.device_texts(d)) for d in range(30, 60)) == 80, "100 texts go round: dealt apart"
    assert [note for note in text.notes if "30 of 60 devices draw their texts" in note]


def test_a_device_with_a_larger_share_draws_more() -> None:
    shares = [1.0] * 98 + [0.2, 3.0]
    parts = partition.drawn(np.arange(50), shares, np.random.default_rng(0))
    assert [len(part) for part in parts] == [1] * 99 + [3]
    assert len(set(parts[-1].tolist())) == 3


@given(
    num_texts=st.integers(1, 20),
    shares=st.lists(st.floats(0.1, 9.0), min_size=1, max_size=60),
    seed=st.integers(0, 9),
)
def test_drawn_parts_repeat_no_text_and_use_all_alike(num_texts: int, shares: list[float], seed: int) -> None:
    parts = partition.drawn(np.arange(num_texts), shares, np.random.default_rng(seed))
    assert len(parts) == len(shares)
    assert all(1 <= len(part) == len(set(part.tolist())) for part in parts)
    uses = np.bincount(np.concatenate(parts), minlength=num_texts)
    assert uses.max() - uses.min() <= 2


def test_clusters_beyond_the_texts_of_a_domain_share_them_and_a_note_says_so(write: Write) -> None:
    people = population(12, 6)
    text = deal(write(4, 40), people)
    assert text.domains == ("t0", "t1") * 3
    assert text.heldout_texts("c0") == text.heldout_texts("c2") == text.heldout_texts("c4")
    assert set(text.heldout_texts("c1")).isdisjoint(text.heldout_texts("c3")), "these go round"
    assert [note for note in text.notes if "3 clusters share the training texts and the held-out" in note]
    assert [note for note in text.notes if "2 domains for 6 clusters: clusters share domains" in note]


def test_a_domain_of_one_text_is_refused_by_name(write: Write) -> None:
    with pytest.raises(
        ValueError, match=r"one text to train on and one held out: cluster 'c1' \(t1\) has 1 text\."
    ):
        deal(write(8, 1), population(4, 2))


def test_a_dirichlet_draw_that_leaves_clusters_empty_is_refused_with_what_to_change(write: Write) -> None:
    with pytest.raises(
        ValueError, match=r"cluster 'c\d+' \(mixed\) has \d texts? and \d+ more\. .*larger diri"
    ):
        deal(write(8, 8), population(40, 40), partitioner="dirichlet", dirichlet_alpha=0.01)


def test_a_short_device_takes_further_texts_until_one_example_is_full(
    write: Write, tokenizer: PreTrainedTokenizerBase
) -> None:
    people = population(40, 2, spread=0.0)
    text = deal(write(50, 50), people)
    for device in people.devices:
        own, more = text.device_texts(device.device_id), list(text.more_device_texts(device.device_id))
        with pytest.raises(ValueError, match="less than one block"):
            pack(tokenizer, own, sequence_length=40)
        blocks_NT = pack(tokenizer, own, sequence_length=40, more=more)
        assert str(tokenizer.decode(blocks_NT[0].tolist())).startswith(own[0])
        assert all(item.split()[-1] == own[0].split()[-1] for item in more), "of its cluster and domain"
    notes = check_blocks(text, tokenizer, people, sequence_length=40)
    assert notes[0].startswith("40 of 40 devices fill no example of 40 tokens with texts of their own")


def test_texts_that_fill_an_example_take_no_further_ones(tokenizer: PreTrainedTokenizerBase) -> None:
    own, more = ["text 1 of topic 2"] * 9, iter(["text 3 of topic 4"])
    blocks_NT = pack(tokenizer, own, sequence_length=16, more=more)
    assert blocks_NT.tolist() == pack(tokenizer, own, sequence_length=16).tolist()
    assert next(more) == "text 3 of topic 4", "not taken"


def test_a_short_device_takes_from_its_cluster_before_others_of_its_domain(write: Write) -> None:
    people = population(8, 4)
    text = deal(write(40, 40), people)
    of_cluster = {item for device in (0, 1) for item in text.device_texts(device)}
    more = list(text.more_device_texts(0))
    own = text.device_texts(0)
    assert set(more[: len(of_cluster) - len(own)]) == of_cluster - set(own)
    beyond = {item for device in (4, 5) for item in text.device_texts(device)}
    assert set(more[len(of_cluster) - len(own) :]) == beyond, "c2 has the other texts of t0"


def test_the_same_seed_draws_the_same_texts_and_another_seed_others(write: Write) -> None:
    people, path = population(60, 6), write(6, 9)
    first, again, other = (trained(deal(path, people, seed=seed), people) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_what_is_too_little_for_all_is_refused_in_one_short_sentence(
    write: Write, tokenizer: PreTrainedTokenizerBase
) -> None:
    people = population(300, 2)
    with pytest.raises(ValueError, match=r"device 4 \(\d+ tokens\) and \d+ more") as refusal:
        check_blocks(deal(write(4, 4), people), tokenizer, people, sequence_length=5000)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize(("num_devices", "num_clusters"), [(1000, 8), (10_000, 200), (10_000, 500)])
def test_the_embedded_text_carries_ten_thousand_devices(
    num_devices: int, num_clusters: int, tokenizer: PreTrainedTokenizerBase
) -> None:
    people = population(num_devices, num_clusters)
    text = deal("embedded", people, heldout_share=0.1)
    notes = (*text.notes, *check_blocks(text, tokenizer, people, sequence_length=64))
    assert any("devices draw their texts" in note for note in notes)
    training = {item for device in people.devices for item in text.device_texts(device.device_id)}
    heldout = {item for cluster in people.clusters for item in text.heldout_texts(cluster.name)}
    assert training.isdisjoint(heldout)
    last = num_devices - 1
    blocks_NT = pack(
        tokenizer, text.device_texts(last), sequence_length=64, more=text.more_device_texts(last)
    )
    assert len(blocks_NT) >= 1


def test_the_text_is_read_once_however_many_devices_there_are(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opened = write(50, 50), []
    real = Path.open

    def counting(self: Path, *arguments: Any, **options: Any) -> Any:
        opened.append(self)
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", counting)
    people = population(400, 2)
    trained(deal(path, people), people)
    assert opened == [path]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.floats(0, 1), st.integers(0, 2**31 - 1))
def test_mixing_loses_no_text_and_keeps_every_size(sizes: list[int], share: float, seed: int) -> None:
    ends = np.cumsum(sizes)
    parts = [np.arange(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    mixed = partition.mixed(parts, share, np.random.default_rng(seed))
    assert [len(part) for part in mixed] == sizes
    assert sorted(np.concatenate(mixed).tolist()) == list(range(sum(sizes)))


@pytest.mark.parametrize(("mixing", "expected"), [(0.0, 1.0), (0.5, 0.5 + 0.5 / 4), (1.0, 1 / 4)])
def test_mixing_goes_from_one_domain_a_cluster_to_a_sample_of_everything(
    write: Write, mixing: float, expected: float
) -> None:
    people = population(8, 4)
    text = deal(write(200, 200, 200, 200), people, mixing=mixing)
    own = [
        f"topic {position}" in passage
        for position, cluster in enumerate(people.clusters)
        for passage in (
            *text.heldout_texts(cluster.name),
            *(
                one
                for d in people.devices
                if d.cluster == cluster.name
                for one in text.device_texts(d.device_id)
            ),
        )
    ]
    # Of what is exchanged a quarter comes back by chance.
    assert len(own) == 800 and np.mean(own) == pytest.approx(expected, abs=0.05)


def natural(folder: Path, rows: list[tuple[str, str]]) -> Path:
    """Write a file of texts that name a cluster and a holder."""
    path = folder / "natural.csv"
    lines = [f"text {n},{cluster},{holder}" for n, (cluster, holder) in enumerate(rows)]
    path.write_text("\n".join(["text,place,user", *lines]))
    return path


NATURAL = {"partitioner": "cluster", "cluster_column": "place", "device_column": "user", "domain_column": ""}


def test_columns_that_name_cluster_and_device_are_who_has_what(tmp_path: Path) -> None:
    people = population(4, 2)
    names = [cluster.name for cluster in people.clusters]
    rows = [(names[user % 2], f"user-{user}") for user in range(10) for _ in range(10 + user)]
    rows += [("elsewhere", "user-99")] * 3
    text = deal(natural(tmp_path, rows), people, **NATURAL)
    assert any("3 texts of clusters that take no part are not used: elsewhere" in note for note in text.notes)
    assert text.domains == tuple(names)
    holder_of = {f"text {n}": holder for n, (_, holder) in enumerate(rows)}
    cluster_of = {f"text {n}": cluster for n, (cluster, _) in enumerate(rows)}
    seen: dict[str, set[int]] = {}
    for device in people.devices:
        for passage in text.device_texts(device.device_id):
            assert cluster_of[passage] == device.cluster
            seen.setdefault(holder_of[passage], set()).add(device.device_id)
    assert all(len(devices) == 1 for devices in seen.values()) and len(seen) == 10
    for name in names:
        assert all(cluster_of[passage] == name for passage in text.heldout_texts(name))


def test_natural_partitions_that_do_not_fit_the_population_are_refused_by_name(tmp_path: Path) -> None:
    people = population(4, 2)
    first, second = (cluster.name for cluster in people.clusters)
    with pytest.raises(ValueError, match=f"no text is of the clusters {second}; the data names {first}"):
        deal(natural(tmp_path, [(first, "a"), (first, "b")] * 9), people, **NATURAL)
    with pytest.raises(ValueError, match=rf"{second}' has \d devices and the texts of 1 holders"):
        deal(natural(tmp_path, [(first, "a"), (first, "b"), (second, "c")] * 9), people, **NATURAL)
    with pytest.raises(ValueError, match="who holds a text, is empty in line 3"):
        deal(natural(tmp_path, [(first, "a"), (second, "")] * 9), people, **NATURAL)
