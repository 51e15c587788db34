"""The shared link, against a slow reference that moves bytes in small equal steps of time."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.grid.capacity import Capacity
from sim.grid.channel import SharedChannel
from sim.plans.plan import Contact
from tests.sim.grid.skies import flat
from tests.sim.plans.test_plan import ramp

TWO = (flat(0.0, 100.0, 10.0, 1.0), flat(200.0, 300.0, 20.0, 1.0))


def channel(contacts: tuple[Contact, ...] = TWO) -> SharedChannel:
    return SharedChannel(Capacity(contacts=contacts, direction="down"))


def test_a_transfer_that_joins_halves_the_share_of_the_first() -> None:
    link = channel()
    link.start("a", 500.0, 0.0)  # alone until 20 s: 200 bytes across
    link.start("b", 1000.0, 20.0)  # 5 B/s each: a ends 60 s later
    assert link.next_finish() == (80.0, "a")
    assert link.finish("a", 80.0).by_contact == ((0.0, 500.0),)
    # b has 300 of 1000; 200 more until the set at 100 s; 500 at 20 B/s from 200 s.
    assert link.next_finish() == (225.0, "b")
    assert link.finish("b", 225.0).by_contact == ((0.0, 500.0), (200.0, 500.0))
    assert link.next_finish() is None


def test_transfers_that_end_together_end_in_the_order_they_began() -> None:
    link = channel()
    for key in "cab":
        link.start(key, 100.0, 0.0)
    ends = []
    while finish := link.next_finish():
        ends.append((finish[1], finish[0]))
        link.finish(finish[1], finish[0])
    assert [key for key, _ in ends] == ["c", "a", "b"]
    assert [time_s for _, time_s in ends] == pytest.approx([30.0] * 3)


def test_a_cancelled_transfer_leaves_its_share_to_the_others_and_reports_its_bytes() -> None:
    link = channel()
    link.start("a", 500.0, 0.0)
    link.start("b", 500.0, 0.0)
    assert link.cancel("a", 40.0).by_contact == ((0.0, 200.0),)
    assert link.next_finish() == (70.0, "b")


def test_what_does_not_fit_before_the_end_of_the_plan_never_ends() -> None:
    link = channel()
    link.start("a", 3001.0, 0.0)
    assert link.next_finish() is None
    assert link.left_bytes("a", 250.0) == pytest.approx(1001.0)


@pytest.mark.parametrize("seed", range(20))
def test_an_exact_fit_of_many_transfers_does_not_spill_into_the_next_contact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    link = channel((flat(0.0, 100.0, 1e7, 1.0), flat(200.0, 300.0, 1e7, 1.0)))
    cuts = np.sort(rng.choice(1_000_000_000, size=9, replace=False))
    for key, size in enumerate(np.diff([0, *cuts, 1_000_000_000]).tolist()):
        link.start(str(key), size, 0.1 * key)
    ends = []
    while finish := link.next_finish():
        crossing = link.finish(finish[1], finish[0])
        ends.append((finish[0], len(crossing.by_contact)))
    assert len(ends) == 10
    assert max(ends) == (pytest.approx(100.0), 1)
    assert max(end_s for end_s, _ in ends) <= 100.0


def test_a_snapshot_taken_at_any_time_goes_on_identically() -> None:
    original, copy = channel(), channel()
    for key, size, time_s in (("a", 700.3, 0.0), ("b", 900.1, 33.3), ("c", 50.0, 150.0)):
        original.start(key, size, time_s)
        copy.restore(json.loads(json.dumps(original.snapshot())))
    while finish := original.next_finish():
        assert copy.next_finish() == finish
        assert copy.finish(finish[1], finish[0]) == original.finish(finish[1], finish[0])


def slow_ends(
    contacts: tuple[Contact, ...], sizes: list[float], starts_s: list[float], step_s: float
) -> dict[int, float]:
    """Return when each transfer ends, moving bytes in equal shares every ``step_s``."""
    left, ends = dict(enumerate(sizes)), {}
    for time_s in np.arange(0.0, contacts[-1].set_s + step_s, step_s).tolist():
        active = [key for key in left if starts_s[key] <= time_s]
        contact = next((c for c in contacts if c.rise_s <= time_s < c.set_s), None)
        rate = float(np.interp(time_s, contact.time_s, contact.down_bytes_per_s)) if contact else 0.0
        for key in active:
            left[key] -= rate * step_s / len(active)
        for key in [key for key in active if left[key] <= 0]:
            del left[key]
            ends[key] = time_s
    return ends


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.floats(1.0, 800.0), min_size=1, max_size=5),
    starts_s=st.lists(st.floats(0.0, 60.0), min_size=5, max_size=5),
    rates=st.lists(st.floats(1.0, 40.0), min_size=2, max_size=4),
)
def test_the_shared_channel_agrees_with_moving_bytes_in_small_steps(
    sizes: list[float], starts_s: list[float], rates: list[float]
) -> None:
    contacts = (ramp(5.0, 30.0, rates), ramp(40.0, 90.0, list(reversed(rates))))
    link, ends = channel(contacts), dict[int, float]()
    joins = sorted((starts_s[key], key) for key in range(len(sizes)))
    while joins or link.next_finish():
        finish = link.next_finish()
        if joins and (finish is None or joins[0][0] <= finish[0]):
            start_s, key = joins.pop(0)
            link.start(str(key), sizes[key], start_s)
        elif finish:
            crossing = link.finish(finish[1], finish[0])
            assert sum(carried for _, carried in crossing.by_contact) == pytest.approx(sizes[int(finish[1])])
            ends[int(finish[1])] = finish[0]
    step_s = 0.02
    slow = slow_ends(contacts, sizes, starts_s, step_s)
    for key, end_s in ends.items():
        if key in slow:  # else it ends within a step of the last set
            # Errors of a step add up over joins; a byte late at a set waits for the next rise.
            near_edge = any(abs(end_s - edge) < 1.0 for edge in (5.0, 30.0, 40.0, 90.0))
            assert slow[key] == pytest.approx(end_s, abs=11.5 if near_edge else 20 * step_s)
