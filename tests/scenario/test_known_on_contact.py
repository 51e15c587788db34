"""A population known on contact: what goes together, and what it does not need."""

import pytest

from scenario.derive import population_from
from scenario.settings.reading import read_config
from tests.scenario.test_settings import refusal


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"population.known": "on-contact"}, 'population.known must be "beforehand" under a simulated sky'),
        ({"data.source": "none"}, 'data.source = "none" needs population.known = "on-contact"'),
        ({"data.source": "none", "merge.target-loss": 1.5}, "merge.target-loss must be 0 with data.source"),
        ({"data.source": "none", "evaluate.choices": 4}, "evaluate.choices must be 0 with data.source"),
    ],
)
def test_what_needs_a_population_known_on_contact_or_text_on_the_server_is_refused_without(
    settings: dict[str, bool | int | float | str], reason: str
) -> None:
    assert reason in refusal(settings)


def test_a_population_known_on_contact_does_not_ask_for_what_only_a_deal_needs() -> None:
    known: dict[str, bool | int | float | str] = {
        "population.known": "on-contact",
        "sky.simulated": False,
        "population.clusters": 600,
    }
    for source in ("/data/texts.csv", "none"):
        config = read_config({**known, "data.source": source})
        assert population_from(config).clusters == ()
    assert "data.domain-column must name a column" in refusal({"data.source": "/data/texts.csv"})
