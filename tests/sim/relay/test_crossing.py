"""Bytes cross one after another, at the plan's rates, inside contacts alone."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.grid.capacity import Capacity
from sim.plans.plan import Contact
from sim.relay.crossing import SEGMENT_BYTES, Crossing


def contact(rise_s: float, set_s: float, rate: float) -> Contact:
    knots, rates = np.array([rise_s, set_s]), np.array([rate, rate])
    return Contact(
        rise_s=rise_s,
        set_s=set_s,
        satellites=(),
        time_s=knots,
        down_bytes_per_s=rates,
        up_bytes_per_s=2 * rates,
    )


CONTACTS = (contact(10.0, 20.0, 100.0), contact(50.0, 60.0, 50.0))


def crossing(loss: float = 0.0, seed: int = 0) -> Crossing:
    capacity = Capacity(contacts=CONTACTS, direction="down")
    return Crossing(capacity, loss, np.random.default_rng(seed))


def test_what_is_sent_in_the_dark_crosses_from_the_next_rise_on_and_the_rest_after_the_gap() -> None:
    link = crossing()
    assert link.across_s(0.0, 300) == pytest.approx(13.0)
    assert link.across_s(5.0, 600) == pytest.approx(19.0)  # behind the first
    assert link.across_s(15.0, 200) == pytest.approx(52.0)  # 100 before the set, 100 after the next rise
    assert link.across_s(70.0, 1) == math.inf


def test_a_link_that_is_free_takes_bytes_when_they_come_and_does_not_save_its_room_up() -> None:
    link = crossing()
    assert link.across_s(15.0, 100) == pytest.approx(16.0)
    assert link.across_s(18.0, 100) == pytest.approx(19.0)


def test_the_two_directions_have_their_own_rates() -> None:
    up = Crossing(Capacity(contacts=CONTACTS, direction="up"), 0.0, np.random.default_rng(0))
    assert up.across_s(10.0, 400) == pytest.approx(12.0)


@given(st.lists(st.tuples(st.floats(0.0, 70.0), st.integers(1, 900)), min_size=1, max_size=12))
def test_never_more_than_the_plan_carries_and_never_in_the_dark(sent: list[tuple[float, int]]) -> None:
    link, capacity = crossing(), Capacity(contacts=CONTACTS, direction="down")
    total, last_s = 0, 0.0
    for now_s, num_bytes in sorted(sent):
        across_s = link.across_s(now_s, num_bytes)
        if math.isinf(across_s):
            return
        total += num_bytes
        assert across_s >= max(now_s, last_s) - 1e-9
        assert capacity.bytes_at(across_s) >= total - 1e-6
        assert any(c.rise_s <= across_s <= c.set_s for c in CONTACTS)
        last_s = across_s


def test_lost_segments_take_their_room_again_as_often_as_is_said() -> None:
    loss, segments = 0.2, 400
    capacity = Capacity(contacts=(contact(0.0, 1e6, float(SEGMENT_BYTES)),), direction="down")
    times = [
        Crossing(capacity, loss, np.random.default_rng(seed)).across_s(0.0, segments * SEGMENT_BYTES)
        for seed in range(200)
    ]
    # The mean of a negative binomial: a segment is sent 1 / (1 - loss) times.
    assert np.mean(times) == pytest.approx(segments / (1 - loss), rel=0.02)
    assert min(times) >= segments
