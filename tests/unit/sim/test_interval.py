import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pizero.sim.interval import Z_95, wilson


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_at_both_ends_the_observed_rate_is_just_as_far_off_as_chance_allows(case: tuple[int, int]) -> None:
    # the interval's definition: all p with |rate - p| <= z sqrt(p (1 - p) / n)
    successes, n = case
    rate = successes / n
    for end in wilson(successes, n):
        if 0 < end < 1:
            assert abs(rate - end) == pytest.approx(Z_95 * math.sqrt(end * (1 - end) / n), abs=1e-9)
        else:
            assert rate == pytest.approx(end, abs=1e-12)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_success_and_failure_are_mirror_images(case: tuple[int, int]) -> None:
    successes, n = case
    low, high = wilson(successes, n)
    assert wilson(n - successes, n) == pytest.approx((1 - high, 1 - low))
    assert 0 <= low <= successes / n <= high <= 1


def test_published_values() -> None:
    # Newcombe, Stat. Med. 17 (1998), table I, method 3 (score without continuity correction)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@pytest.mark.parametrize("case", [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(case: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="is no rate"):
        wilson(*case)
