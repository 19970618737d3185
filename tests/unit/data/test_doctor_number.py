"""Each check of numbers with data that have the fault, and with data that have not."""

import numpy as np
import pytest

from pizero.data.doctor_finding import Finding, Spans, ranked
from pizero.data.doctor_number import check_bounds, check_constant, check_degrees, check_spread, is_angle
from pizero.data.stats import Stats

NAMES = ("x", "joint_1")
SPANS = Spans.of([60, 40])


def healthy(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (100, 2))


def test_ranked_puts_errors_first_and_keeps_the_order_within_a_level() -> None:
    findings = [Finding(level, str(i), "", "") for i, level in enumerate(("note", "error", "warning", "error"))]
    assert [finding.topic for finding in ranked(findings)] == ["1", "3", "2", "0"]


def test_a_place_is_told_by_episode_and_frame_and_pairs_stay_in_an_episode() -> None:
    assert SPANS.place(59) == "episode 0, frame 59"
    assert SPANS.place(60) == "episode 1, frame 0"
    assert 59 not in SPANS.before(1)
    assert len(SPANS.before(1)) == 98
    assert len(SPANS.before(50)) == 10


def test_healthy_numbers_have_no_finding() -> None:
    x = healthy()
    stats = Stats.of(x)
    assert check_constant("state", NAMES, stats, ()) == []
    for mode in ("bounds", "quantile", "z-score", "lerobot-z-score", "identity"):
        assert check_spread("state", NAMES, stats, mode, (), x, SPANS) == []
    assert check_degrees("state", NAMES, x) == []
    assert check_bounds(NAMES, x, (-1.0, -1.0), (1.0, 1.0), SPANS) == []
    assert check_bounds(NAMES, 100 * x, (), (), SPANS) == []


def test_a_constant_dimension_is_an_error_unless_it_is_raw() -> None:
    x = healthy()
    x[:, 1] = 0.5
    (finding,) = check_constant("action", NAMES, Stats.of(x), ())
    assert (finding.level, finding.dims) == ("error", ("action joint_1",))
    assert "--data.raw-actions joint_1" in finding.advice
    assert "--data.raw-state joint_1" in check_constant("state", NAMES, Stats.of(x), ())[0].advice
    assert check_constant("action", NAMES, Stats.of(x), ("joint_1",)) == []
    assert check_spread("action", NAMES, Stats.of(x), "quantile", ()) == []  # said once


def test_an_outlier_is_found_with_its_size_and_its_place() -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (1000, 2))
    x[640, 0] = -50.0
    spans = Spans.of([600, 400])
    (finding,) = check_spread("state", NAMES, Stats.of(x), "quantile", (), x, spans)
    q01, q99 = np.quantile(x[:, 0], [0.01, 0.99])
    expected = (-50 - q01) / (q99 - q01) * 2 - 1
    assert (finding.level, finding.topic, finding.dims) == ("warning", "near-constant", ("state x",))
    assert f"normalised to {expected:.4g}" in finding.text
    assert "episode 1, frame 40" in finding.text
    assert check_spread("state", NAMES, Stats.of(x), "quantile", ("x",)) == []
    assert check_spread("state", NAMES, Stats.of(x), "identity", ()) == []


def test_under_bounds_an_outlier_is_said_to_be_clipped() -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (1000, 2))
    x[640, 0] = 500.0
    (finding,) = check_spread("state", NAMES, Stats.of(x), "bounds", ())
    assert finding.level == "error"
    assert "clipped to 1" in finding.text
    assert "clipped" not in check_spread("state", NAMES, Stats.of(x), "quantile", ())[0].text


def test_z_score_measures_in_deviations() -> None:
    x = np.zeros((1000, 2))
    x[:, 0], x[:, 1] = np.random.default_rng(0).normal(size=1000), 0.0
    x[5, 1] = 1.0  # a gripper that closes once: mean 0.001, deviation 0.0316
    (finding,) = check_spread("action", NAMES, Stats.of(x), "z-score", ())
    assert f"normalised to {(1 - 0.001) / np.sqrt(0.001 - 1e-6):.4g}"[:20] in finding.text
    assert (finding.level, finding.dims) == ("warning", ("action joint_1",))


def test_the_joint_of_openpi_issue_814_is_an_error_with_its_3200() -> None:
    x = healthy()
    low, high = 1.568642928333805, 1.5696224851423788
    x[:, 1] = np.linspace(low, high, 100)
    x[:2, 1], x[-2:, 1] = low, high
    (finding,) = check_spread("action", NAMES, Stats.of(x), "quantile", ())
    assert (finding.level, finding.topic) == ("error", "near-constant")
    assert "0 would be -3200" in finding.text


@pytest.mark.parametrize(("outside", "count"), [(1.005, 0), (-1.005, 0), (1.5, 1), (-1.5, 1)])
def test_actions_beyond_the_robots_range_are_found(outside: float, count: int) -> None:
    x = healthy()
    x[61, 1] = outside
    findings = check_bounds(NAMES, x, (-1.0, -1.0), (1.0, 1.0), SPANS)
    assert len(findings) == count
    if findings:
        assert f"{outside} in episode 1, frame 1" in findings[0].text
        assert "in 1 % of the frames" in findings[0].text


def test_degrees_are_told_from_radians_by_name_and_size() -> None:
    x = healthy() * 170
    (finding,) = check_degrees("state", NAMES, x)
    assert finding.dims == ("state joint_1",)  # x, in millimetres perhaps, is no angle
    assert is_angle("left_waist")
    assert not is_angle("gripper_angle")
    assert not is_angle("joint_1_velocity")
