"""Contacts, plans and the cumulative capacity."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.grid.capacity import Capacity
from sim.plans.plan import Contact, ContactPlan
from tests.sim.grid.skies import flat


def ramp(rise_s: float, set_s: float, knots: list[float], **more: Any) -> Contact:
    """Return a contact with evenly spaced knots and the same rates both ways."""
    return Contact(
        rise_s=rise_s,
        set_s=set_s,
        satellites=("SAT-1",),
        time_s=np.linspace(rise_s, set_s, len(knots)),
        down_bytes_per_s=np.array(knots),
        up_bytes_per_s=np.array(knots),
        **more,
    )


def test_the_capacity_of_a_contact_is_the_area_under_its_rate() -> None:
    # Triangle of 10 s and 4 B/s, then a rectangle of 10 s and 4 B/s: 20 + 40.
    assert ramp(100.0, 120.0, [0.0, 4.0, 4.0]).capacity_bytes("down") == 60.0


def test_cumulative_capacity_of_a_ramp_is_a_parabola_and_its_inverse_a_root() -> None:
    capacity = Capacity(contacts=(ramp(100.0, 110.0, [0.0, 20.0]),), direction="up")
    assert [capacity.bytes_at(t) for t in (0.0, 100.0, 105.0, 110.0, 999.0)] == [0.0, 0.0, 25.0, 100.0, 100.0]
    assert capacity.time_of(25.0) == 105.0
    assert capacity.time_of(100.0) == 110.0
    assert capacity.time_of(100.1) == np.inf


def test_a_time_given_twice_is_a_jump_of_the_rate() -> None:
    jump = Contact(
        rise_s=0.0,
        set_s=20.0,
        satellites=(),
        time_s=np.array([0.0, 10.0, 10.0, 20.0]),
        down_bytes_per_s=np.array([1.0, 1.0, 3.0, 3.0]),
        up_bytes_per_s=np.zeros(4),
    )
    capacity = Capacity(contacts=(jump,), direction="down")
    assert capacity.total_bytes == jump.capacity_bytes("down") == 40.0
    assert [capacity.bytes_at(t) for t in (9.0, 10.0, 11.0)] == [9.0, 10.0, 13.0]
    assert [capacity.time_of(b) for b in (9.0, 10.0, 13.0)] == [9.0, 10.0, 11.0]


def test_a_byte_that_waits_for_a_contact_crosses_at_its_rise_at_the_earliest() -> None:
    contacts = (flat(10.0, 20.0, 1.0, 1.0), flat(30.0, 40.0, 1.0, 1.0))
    capacity = Capacity(contacts=contacts, direction="down")
    assert capacity.time_of(10.0) == 20.0  # the last byte of the first contact is across at its set
    assert capacity.time_of(10.0 + 1e-6) == pytest.approx(30.0 + 1e-6, abs=1e-12)
    assert capacity.at_set_bytes == [10.0, 20.0]


contacts_strategy = st.lists(
    st.tuples(
        st.floats(0.0, 500.0),
        st.floats(0.1, 500.0),
        st.lists(st.floats(0.0, 1e6), min_size=2, max_size=6),
    ),
    min_size=1,
    max_size=5,
)


def build(parts: list[tuple[float, float, list[float]]]) -> tuple[Contact, ...]:
    """Return contacts from (gap, length, rates)."""
    contacts, end_s = [], 0.0
    for gap_s, length_s, rates in parts:
        contacts.append(ramp(end_s + gap_s, end_s + gap_s + length_s, rates))
        end_s = contacts[-1].set_s
    return tuple(contacts)


@settings(max_examples=300, deadline=None)
@given(parts=contacts_strategy, share=st.floats(1e-6, 1.0))
def test_the_inverse_undoes_the_cumulative_capacity_inside_contacts(
    parts: list[tuple[float, float, list[float]]], share: float
) -> None:
    contacts = build(parts)
    capacity = Capacity(contacts=contacts, direction="down")
    if capacity.total_bytes < 1.0:
        return
    wanted = share * capacity.total_bytes
    time_s = capacity.time_of(wanted)
    assert capacity.bytes_at(time_s) == pytest.approx(wanted, rel=1e-9, abs=1e-6)
    assert any(contact.rise_s <= time_s <= contact.set_s for contact in contacts)


@settings(max_examples=100, deadline=None)
@given(parts=contacts_strategy, at=st.lists(st.floats(0.0, 3000.0), min_size=2, max_size=2))
def test_cumulative_capacity_equals_fine_sums_of_the_rate(
    parts: list[tuple[float, float, list[float]]], at: list[float]
) -> None:
    contacts = build(parts)
    early_s, late_s = sorted(at)
    capacity = Capacity(contacts=contacts, direction="up")
    fine_s = np.linspace(early_s, late_s, 20_001)
    rate = np.zeros_like(fine_s)
    for contact in contacts:
        inside = (fine_s >= contact.rise_s) & (fine_s < contact.set_s)
        rate[inside] = np.interp(fine_s[inside], contact.time_s, contact.up_bytes_per_s)
    step_s = (late_s - early_s) / 20_000
    slow = float(np.sum((rate[1:] + rate[:-1]) / 2) * step_s)
    jumps = 2 * len(contacts) * 1e6 * step_s  # the sum is off by up to one step at each rise and set
    assert capacity.bytes_at(late_s) - capacity.bytes_at(early_s) == pytest.approx(slow, abs=jumps + 1e-6)


def test_contacts_are_half_open_and_rises_are_strictly_later() -> None:
    first, second = flat(10.0, 20.0, 1.0, 1.0), flat(20.0, 40.0, 1.0, 1.0)
    plan = ContactPlan(horizon_s=40.0, contacts={"A": (first, second), "B": ()})
    found = [plan.contact_at("A", t) for t in (9.9, 10.0, 20.0, 39.9, 40.0)]
    assert found == [None, first, second, second, None]
    assert [plan.next_rise_s("A", t) for t in (0.0, 10.0, 20.0)] == [10.0, 20.0, None]
    assert plan.next_rise_s("B", 0.0) is None
    with pytest.raises(ValueError, match="no cluster 'C' in the contact plan; it knows: A, B"):
        plan.next_rise_s("C", 0.0)


def test_a_contact_names_all_its_faults_at_once() -> None:
    with pytest.raises(ValueError) as fault:
        Contact(
            rise_s=5.0,
            set_s=5.0,
            satellites=(),
            time_s=np.array([5.0, 4.0]),
            down_bytes_per_s=np.array([-1.0, 1.0]),
            up_bytes_per_s=np.array([np.nan, 1.0]),
            delay_s=-1.0,
        )
    for part in ("0 <= rise_s < set_s", "delay_s", "must ascend", "down_bytes_per_s", "up_bytes_per_s"):
        assert part in str(fault.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_rates_that_are_no_rates_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="down_bytes_per_s must be finite and >= 0"):
        flat(0.0, 1.0, bad, 1.0)


def test_a_plan_names_overlaps_and_contacts_past_the_horizon_with_their_cluster() -> None:
    with pytest.raises(ValueError) as fault:
        ContactPlan(
            horizon_s=30.0,
            contacts={
                "A": (flat(0.0, 10.0, 1.0, 1.0), flat(9.0, 12.0, 1.0, 1.0)),
                "B": (flat(20.0, 31.0, 1.0, 1.0),),
            },
        )
    assert "'A' has contacts that overlap" in str(fault.value)
    assert "'B' has a contact until 31.0 s, past the horizon, 30.0 s" in str(fault.value)


def test_contacts_are_values() -> None:
    assert flat(0.0, 1.0, 2.0, 3.0) == flat(0.0, 1.0, 2.0, 3.0)
    assert len({flat(0.0, 1.0, 2.0, 3.0), flat(0.0, 1.0, 2.0, 3.0)}) == 1
    assert flat(0.0, 1.0, 2.0, 3.0) != flat(0.0, 1.0, 2.0, 4.0)
    with pytest.raises(ValueError, match="read-only"):
        flat(0.0, 1.0, 2.0, 3.0).time_s[0] = 5.0
