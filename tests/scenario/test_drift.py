"""Text that drifts: clusters hold one another's from an hour on, held-out sets go along, nothing is lost."""

import pytest

from scenario.data.federated_text import FederatedText
from scenario.derive import drifted_text, era_at, population_from, text_from
from scenario.settings.config import RunConfig
from scenario.settings.reading import read_config

SETTINGS = {"population.devices": 9, "population.clusters": 4, "data.drift-hours": 12.0}


def texts(**changes: float) -> tuple[RunConfig, FederatedText, FederatedText]:
    config = read_config({**SETTINGS, **changes})
    before = text_from(config, population_from(config))
    return config, before, drifted_text(config, before)


def test_each_cluster_takes_over_the_next_ones_text_and_its_held_out_set() -> None:
    config, before, after = texts()
    people = population_from(config)
    names = [cluster.name for cluster in people.clusters]
    assert after.domains == (*before.domains[1:], before.domains[0])
    for name, next_name in zip(names, (*names[1:], names[0]), strict=True):
        assert after.heldout_texts(name) == before.heldout_texts(next_name)
    trained = {text for device in range(9) for text in after.device_texts(device)}
    held_out = {text for name in names for text in after.heldout_texts(name)}
    assert not trained & held_out
    # Three devices of the first cluster take over the parts of two, the third those of the first again.
    first, second = ([d for n in people.cluster_nodes(name) for d in n.device_ids] for name in names[:2])
    assert (len(first), len(second)) == (3, 2)
    for at, device in enumerate(first):
        assert after.device_texts(device) == before.device_texts(second[at % 2])


def test_only_a_share_of_the_clusters_drifts_and_no_fewer_than_two() -> None:
    _, before, after = texts(**{"data.drift-share": 0.1})
    assert after.domains == (before.domains[1], before.domains[0], *before.domains[2:])


def test_a_device_that_needs_more_takes_it_from_where_its_text_is_now() -> None:
    _, before, after = texts()
    ours = set(after.device_texts(0))
    more = [text for text, _ in zip(after.more_device_texts(0), range(5), strict=False)]
    theirs = {text for device in range(9) for text in before.device_texts(device) if device != 0}
    assert not ours & set(more) and set(more) <= theirs


@pytest.mark.parametrize(("hours", "era"), [(0.0, 0), (11.99, 0), (12.0, 1), (23.0, 1)])
def test_the_hour_says_what_is_held(hours: float, era: int) -> None:
    assert era_at(read_config(SETTINGS), hours * 3600.0) == era
    assert era_at(read_config({}), hours * 3600.0) == 0


@pytest.mark.parametrize(
    "wrong", [{"data.drift-hours": 24.0}, {"sky.simulated": False}, {"population.clusters": 1}]
)
def test_a_drift_that_cannot_be_is_refused(wrong: dict[str, float | bool]) -> None:
    with pytest.raises(ValueError, match=r"data\.drift-hours must lie before the horizon"):
        read_config({**SETTINGS, "sky.hours": 24.0, **wrong})
