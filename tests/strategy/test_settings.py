"""How many experts a device is given: by its memory and by its link."""

import re

import pytest

from strategy.settings import experts_that_fit
from tests.strategy.world import ArithmeticClient, layout, settings

# The world's layout: 1000 bytes shared, 2 layers of 4 experts.
SHARED_BYTES = 1000


@pytest.mark.parametrize(
    ("memory_bytes", "fit"),
    [(0, 0), (1299, 0), (1300, 1), (1599, 1), (1600, 2), (2200, 4), (10**9, 4)],
)
def test_as_many_experts_fit_as_can_be_tuned_beside_the_shared_part(memory_bytes: int, fit: int) -> None:
    assert experts_that_fit(layout(), memory_bytes, one_of_each_bytes=300) == fit


def test_the_link_limits_too_but_never_takes_the_last_expert() -> None:
    def fit(window_bytes: float) -> int:
        return experts_that_fit(
            layout(), 1900, one_of_each_bytes=300, adapter_bytes=50, window_bytes=window_bytes
        )

    assert [fit(window) for window in (0, 49, 99, 100, 150, 10**6)] == [1, 1, 1, 2, 3, 3]


def test_the_memory_that_a_refusal_asks_for_is_enough() -> None:
    def limit(_: str, memory_bytes: int) -> int:
        return experts_that_fit(layout(), memory_bytes, one_of_each_bytes=123_457)

    chosen = settings(("sea",), max_experts=limit, one_of_each_bytes=123_457)
    client = ArithmeticClient(clusters={1: "sea"}, favourite={"sea": 0}, memory_bytes=123_456)
    with pytest.raises(ValueError, match=r"1000 bytes shared, and 123457 of expert weights") as refusal:
        chosen.check_profile(client.profile(1))
    told = re.search(r"memory-mb to ([\d.]+) or more", str(refusal.value))
    assert told is not None
    client.memory_bytes = int(float(told[1]) * 1_000_000)
    chosen.check_profile(client.profile(1))
    assert client.memory_bytes < SHARED_BYTES + 123_457 + 1000, "no more than a kilobyte too much"
