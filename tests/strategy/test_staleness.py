"""The discounts of FedAsync and FedBuff."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategy.staleness import Discount, constant, discount_from_name, hinge, polynomial

discounts = st.one_of(
    st.builds(constant),
    st.builds(polynomial, st.floats(0.0, 10.0)),
    st.builds(hinge, st.floats(0.0, 10.0), st.integers(0, 50)),
)


@given(discounts, st.integers(0, 1000))
def test_a_discount_starts_at_one_and_never_increases_or_leaves_zero_to_one(f: Discount, s: int) -> None:
    assert f(0) == 1.0
    assert 0.0 <= f(s + 1) <= f(s) <= 1.0


def test_the_golden_values_follow_the_formulas_of_fedasync_section_5_2() -> None:
    # Worked by hand: (1 + 8)^-0.5 = 1/3; hinge a = 10, b = 4: 1 / (10 * (6 - 4) + 1) = 1/21.
    assert polynomial(0.5)(8) == pytest.approx(1 / 3, rel=1e-15)
    assert hinge(10.0, 4)(6) == pytest.approx(1 / 21, rel=1e-15)
    assert hinge(10.0, 4)(4) == 1.0
    assert constant()(1000) == 1.0


def test_a_name_gives_its_discount_with_its_own_parameters() -> None:
    assert discount_from_name("hinge", a=1.0, b=2)(4) == pytest.approx(1 / 3)
    assert discount_from_name("polynomial", a=1.0, b=2)(4) == pytest.approx(1 / 5)
    assert discount_from_name("constant", a=1.0, b=2)(4) == 1.0


def test_impossible_discounts_and_an_update_from_the_future_are_refused() -> None:
    with pytest.raises(ValueError, match=r"exponent .* must be >= 0, got -1"):
        polynomial(-1.0)
    with pytest.raises(ValueError, match="exponent"):
        polynomial(float("nan"))
    with pytest.raises(ValueError, match="slope >= 0 and grace >= 0"):
        hinge(0.5, -1)
    with pytest.raises(ValueError, match="unknown discount 'linear'; choose one of constant"):
        discount_from_name("linear", a=1.0, b=1)
    for discount in (constant(), polynomial(), hinge()):
        with pytest.raises(ValueError, match="from the future"):
            discount(-1)
