"""A population known on contact, and other settings of real nodes: what goes together."""

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
        ({"merge.min-updates": 2, "strategy": "fedbuff"}, "merge.min-updates must be 0 with the strategy"),
        (
            {"privacy.epsilon": 1.0, "merge.update-bits": 8},
            "merge.update-bits must be 32 with privacy.epsilon",
        ),
        ({"data.source": "none", "evaluate.choices": 4}, "evaluate.choices must be 0 with data.source"),
    ],
)
def test_what_cannot_go_together_is_refused(
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
