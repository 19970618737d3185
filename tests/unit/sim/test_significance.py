import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pizero.sim.significance import mcnemar

COUNT = st.integers(0, 300)


def test_known_values() -> None:
    # Fagerland, Lydersen and Laake, BMC Med. Res. Methodol. 13:91 (2013): airway hyper-responsiveness, 1 against 7
    assert mcnemar(1, 7) == pytest.approx(18 / 256)
    assert mcnemar(0, 5) == 2 / 32
    assert mcnemar(0, 6) == 2 / 64  # the first that is below 5 %
    assert mcnemar(3, 3) == mcnemar(0, 0) == mcnemar(0, 1) == 1.0
    assert mcnemar(2, 3) == 1.0


@pytest.fixture(scope="module")
def scipy_stats():
    return pytest.importorskip("scipy.stats")


@given(first=COUNT, second=COUNT)
def test_it_is_twice_the_smaller_tail_of_fair_coins(scipy_stats, first: int, second: int) -> None:
    expected = scipy_stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


@given(COUNT, COUNT)
def test_which_run_is_first_does_not_matter(first: int, second: int) -> None:
    assert mcnemar(first, second) == mcnemar(second, first)
    assert 0 < mcnemar(first, second) <= 1


def test_many_episodes_do_not_overflow() -> None:
    assert mcnemar(5000, 5000) == 1.0
    # the normal approximation with continuity correction
    assert mcnemar(4900, 5100) == pytest.approx(math.erfc(199 / math.sqrt(10_000) / math.sqrt(2)), rel=1e-3)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="-1 and 3 are no counts"):
        mcnemar(-1, 3)
