"""Nodes that bring data of their own: what they may say, and who gets which text."""

from pathlib import Path

import pytest

from client.hosting import OwnData, hosted_devices, node_population, own_data, own_text
from scenario.derive import population_from
from scenario.settings.config import Scalar
from scenario.settings.reading import read_config

CONFIG = read_config({"population.devices": 6, "population.clusters": 2, "data.heldout-share": 0.25})
POPULATION = population_from(CONFIG)
SECOND = POPULATION.clusters[1].name


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(["body,question,answer", *(f"mine {n},q{n},a{n}" for n in range(40))]))
    return path


def test_a_node_without_data_of_its_own_holds_a_share_of_the_runs() -> None:
    assert own_data({"cluster": SECOND, "partition-id": 3}) is None


def test_a_node_brings_its_file_its_column_and_its_memory(file: Path) -> None:
    node: dict[str, Scalar] = {"cluster": SECOND, "data": str(file), "text-column": "body", "memory-mb": 64}
    assert own_data(node) == OwnData(
        data=str(file), text_column="body", memory_mb=64.0, hosts=(("cluster", SECOND),)
    )


def test_its_texts_are_its_devices_alone_and_a_part_is_never_trained_on(file: Path) -> None:
    own = OwnData(data=str(file), text_column="body", hosts=(("devices", "3,5"),))
    text = own_text(own, CONFIG, POPULATION)
    assert text.clusters == (SECOND,)
    trained = text.device_texts(3) + text.device_texts(5)
    heldout = text.heldout_texts(SECOND)
    assert sorted(trained + heldout) == sorted(f"mine {n}" for n in range(40))
    assert len(heldout) == 10 and min(len(text.device_texts(device)) for device in (3, 5)) >= 1
    with pytest.raises(ValueError, match="no device 4"):
        text.device_texts(4)


def test_columns_of_a_node_are_not_mixed_with_those_of_the_run(file: Path) -> None:
    config = read_config(
        {"data.source": str(file), "data.messages-column": "chat", "data.domain-column": "body"}
    )
    own = OwnData(
        data=str(file), prompt_column="question", response_column="answer", hosts=(("cluster", SECOND),)
    )
    text = own_text(own, config, population_from(config))
    assert text.holds_examples and '"q' in text.heldout_texts(SECOND)[0]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (
            {"text-colum": "body"},
            "names text-colum; a node that brings data knows cluster, data, devices, keep",
        ),
        ({"memory-mb": "lots"}, "memory-mb of --node-config must be a number of megabytes, got 'lots'"),
        ({"memory-mb": -1}, "got -1"),
    ],
)
def test_what_a_node_may_not_say(more: dict[str, Scalar], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        own_data({"cluster": SECOND, "data": "/data/mine.csv", **more})


def test_what_belongs_to_data_is_not_ignored_without_it() -> None:
    with pytest.raises(ValueError, match="names memory-mb, text-column without data"):
        own_data({"cluster": SECOND, "dat": "/data/mine.csv", "text-column": "body", "memory-mb": 5})


def test_where_nobody_is_known_beforehand_a_node_is_one_device_of_the_cluster_it_names(file: Path) -> None:
    config = read_config(
        {"population.known": "on-contact", "sky.simulated": False, "population.memory-mb": 7}
    )
    node: dict[str, Scalar] = {"cluster": "Nuuk", "data": str(file), "text-column": "body"}
    own = own_data(node, 2**64 - 1)
    assert own is not None and own.number == 2**63 - 1  # what a whole number of Flower's records holds
    population = node_population(own, config)
    assert [cluster.name for cluster in population.clusters] == ["Nuuk"]
    assert hosted_devices(node, population) == (own.number,)
    assert population.device(own.number).memory_bytes == 7_000_000
    text = own_text(own, config, population)
    assert len(text.device_texts(own.number)) == 36 and len(text.heldout_texts("Nuuk")) == 4
