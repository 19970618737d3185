from dataclasses import replace

import numpy as np
import pytest

from pizero.data.normalize import Normalizer, check_mode, refuse_no_spread
from pizero.data.stats import Stats

STATS = Stats(
    mean=np.array([1.0, 10.0]),
    std=np.array([2.0, 4.0]),
    min=np.array([-5.0, 0.0]),
    max=np.array([9.0, 20.0]),
    q01=np.array([-3.0, 2.0]),
    q99=np.array([5.0, 18.0]),
    count=100,
)
NAMES = ("x", "grip")


def test_bounds_take_the_quantiles_to_minus_one_and_one_and_clip_beyond() -> None:
    x = np.array([[-3, 18], [5, 2], [1, 10], [-5, 20]], np.float32)
    normalized = Normalizer("bounds", STATS, NAMES).normalize(x)
    np.testing.assert_allclose(normalized, [[-1, 1], [1, -1], [0, 0], [-1, 1]], atol=1e-8)
    assert normalized.min() == -1
    assert normalized.max() <= 1


def test_bounds_are_open_pi_zeros_formula() -> None:
    x = np.array([0.7, 3.1])
    expected = 2 * (x - STATS.q01) / (STATS.q99 - STATS.q01 + 1e-8) - 1
    np.testing.assert_array_equal(Normalizer("bounds", STATS, NAMES).normalize(x), expected)


def test_quantile_goes_on_beyond_the_bounds() -> None:
    normalized = Normalizer("quantile", STATS, NAMES).normalize(np.array([9.0, 10.0]))
    np.testing.assert_allclose(normalized, [2, 0], atol=1e-6)


def test_z_score_has_openpis_epsilon() -> None:
    normalized = Normalizer("z-score", STATS, NAMES).normalize(np.array([7.0, 2.0]))
    np.testing.assert_allclose(normalized, [6 / (2 + 1e-6), -8 / (4 + 1e-6)], rtol=1e-15)


@pytest.mark.parametrize("mode", ["bounds", "z-score", "quantile"])
def test_raw_dimensions_pass_unchanged_both_ways(mode: str) -> None:
    normalizer = Normalizer(mode, STATS, NAMES, raw=("grip",))
    x = np.array([[1.0, 1.0], [2.0, -7.5]])
    np.testing.assert_array_equal(normalizer.normalize(x)[:, 1], x[:, 1])
    np.testing.assert_array_equal(normalizer.invert(x)[:, 1], x[:, 1])
    assert (normalizer.normalize(x)[:, 0] != x[:, 0]).all()


def test_bounds_count_what_training_never_shows_as_the_bound() -> None:
    inverted = Normalizer("bounds", STATS, NAMES).invert(np.array([[1.5, -3.0]]))
    np.testing.assert_allclose(inverted, [[5, 2]], atol=1e-7)


@pytest.mark.parametrize(
    ("mode", "measure"), [("bounds", "quantiles 0"), ("quantile", "quantiles 0"), ("z-score", "deviation")]
)
def test_a_dimension_without_spread_is_refused_with_its_name(mode: str, measure: str) -> None:
    values = np.random.default_rng(0).normal(size=(50, 2))
    values[:, 1] = np.float32(0.1)
    with pytest.raises(ValueError, match=f"'grip' has no spread .*{measure}.*raw_actions") as error:
        refuse_no_spread(mode, Stats.of(values), NAMES)
    assert "\n" not in str(error.value)
    refuse_no_spread(mode, Stats.of(values), NAMES, raw=("grip",))
    assert Normalizer(mode, Stats.of(values), NAMES, raw=("grip",)).normalize(values)[0, 1] == values[0, 1]


@pytest.mark.parametrize("mode", ["bounds", "quantile", "z-score"])
def test_rounding_is_no_spread(mode: str) -> None:
    values = np.random.default_rng(0).normal(size=(50, 2))
    values[:, 1] = np.float32(300) + np.random.default_rng(1).choice([0, 2**-15], 50)  # the last bit of a float32
    with pytest.raises(ValueError, match="'grip' has no spread"):
        refuse_no_spread(mode, Stats.of(values), NAMES)


def test_a_dimension_that_moves_in_few_frames_has_no_quantile_spread() -> None:
    values = np.random.default_rng(0).normal(size=(1000, 2))
    values[:, 1] = 0
    values[:5, 1] = 1
    with pytest.raises(ValueError, match="values 0 to 1"):
        refuse_no_spread("bounds", Stats.of(values), NAMES)
    refuse_no_spread("z-score", Stats.of(values), NAMES)
    refuse_no_spread("identity", Stats.of(values * 0), NAMES)


def test_a_misspelt_raw_dimension_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="'gripp' is unknown; nearest: grip"):
        Normalizer("bounds", STATS, NAMES, raw=("gripp",))


def test_statistics_of_another_robot_are_refused() -> None:
    with pytest.raises(ValueError, match="2 dimensions, the robot has 3"):
        Normalizer("bounds", STATS, ("x", "y", "z"))


def test_an_unknown_normalisation_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'boundz' is unknown; choose one of \('bounds', 'z-score', .*'identity'\)"):
        check_mode("boundz")


def test_lerobots_z_score_adds_its_epsilon_on_the_way_in_alone() -> None:
    constant = replace(STATS, mean=np.array([1.0, 0.0]), std=np.array([2.0, 0.0]))
    normalizer = Normalizer("lerobot-z-score", constant, NAMES)
    x = np.array([[7.0, 0.0], [7.0, 1.0]], np.float32)
    np.testing.assert_allclose(normalizer.normalize(x), [[3, 0], [3, 1e8]], rtol=1e-6)
    np.testing.assert_array_equal(normalizer.invert(np.array([[1.5, 5.0]], np.float32)), [[4, 0]])


def test_lerobots_quantiles_have_no_epsilon_but_where_they_are_equal() -> None:
    constant = replace(STATS, q01=np.array([-3.0, 2.0]), q99=np.array([5.0, 2.0]))
    normalizer = Normalizer("lerobot-quantile", constant, NAMES)
    np.testing.assert_array_equal(
        normalizer.normalize(np.array([[-3.0, 2], [5, 2], [9, 2]])), [[-1, -1], [1, -1], [2, -1]]
    )
    np.testing.assert_allclose(normalizer.invert(np.array([[2.0, 1.0]])), [[9, 2 + 1e-8]], rtol=1e-7)
    tiny = replace(STATS, q99=STATS.q01 + np.array([1e-6, 1e-6]))  # where openpi's epsilon would halve the result
    assert Normalizer("lerobot-quantile", tiny, NAMES).normalize(STATS.q01 + 1e-6).max() > 0.5


def test_lerobots_formulas_are_computed_in_float32() -> None:
    x = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    mean, std = STATS.mean.astype(np.float32), STATS.std.astype(np.float32)
    for mode, expected in (
        ("lerobot-z-score", (x - mean) / (std + np.float32(1e-8))),
        ("lerobot-quantile", np.float32(2) * (x - np.float32(STATS.q01)) / np.float32(STATS.q99 - STATS.q01) - 1),
    ):
        normalized = Normalizer(mode, STATS, NAMES).normalize(x)
        assert normalized.dtype == np.float32
        np.testing.assert_array_equal(normalized, expected)


def test_identity_changes_nothing_and_needs_no_quantiles() -> None:
    normalizer = Normalizer("identity", replace(STATS, q01=None, q99=None), NAMES)
    x = np.array([[7.0, -1e9]])
    np.testing.assert_array_equal(normalizer.normalize(x), x)
    np.testing.assert_array_equal(normalizer.invert(x), x)


@pytest.mark.parametrize("mode", ["bounds", "quantile", "lerobot-quantile"])
def test_a_mode_that_needs_absent_quantiles_says_which(mode: str) -> None:
    known = replace(STATS, min=None, max=None, count=None)
    Normalizer(mode, known, NAMES)
    with pytest.raises(ValueError, match=f"'{mode}' needs q01, which the statistics do not hold"):
        Normalizer(mode, replace(known, q01=None), NAMES)
    with pytest.raises(ValueError, match="needs q01 and q99, which"):
        Normalizer(mode, replace(known, q01=None, q99=None), NAMES)
    Normalizer("z-score", replace(known, q01=None, q99=None), NAMES)


@pytest.mark.parametrize("mode", ["bounds", "z-score", "quantile", "lerobot-z-score", "lerobot-quantile"])
def test_a_constant_dimension_of_an_imported_checkpoint_stays_finite(mode: str) -> None:
    values = np.random.default_rng(0).normal(size=(50, 2))
    values[:, 1] = 3
    normalizer = Normalizer(mode, Stats.of(values), NAMES)
    normalized = normalizer.normalize(values)
    assert normalized[0, 1] == (0 if "z-score" in mode else -1)
    np.testing.assert_allclose(normalizer.invert(normalized)[:, 1], 3, rtol=1e-6)
