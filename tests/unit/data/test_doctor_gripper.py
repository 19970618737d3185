"""Grippers: names, scales, and polarity from what the fingers do."""

import numpy as np
import pytest

from pizero.data.doctor_finding import Spans
from pizero.data.doctor_gripper import (
    check_declared,
    check_polarity,
    check_range,
    describe,
    find_grippers,
    following,
    meaning,
    scale_of,
)

SPANS = Spans.of([100, 100])
STATE, ACTIONS = ("hand_x", "gripper_openness"), ("hand_dx", "gripper")


def grasp(lag: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Openness of the fingers, and a command, 1 opens, that they follow some frames later."""
    command = np.ones(200)
    command[40:80] = command[130:170] = 0
    openness = np.concatenate([np.ones(lag), command[:-lag]])
    return openness, command


def table(column: np.ndarray) -> np.ndarray:
    return np.stack([np.random.default_rng(0).normal(size=len(column)), column], 1)


def test_grippers_are_found_by_name() -> None:
    assert find_grippers(("x", "left_gripper_angle", "finger_1", "Jaw")) == [1, 2, 3]
    assert find_grippers(("x", "y")) == []


@pytest.mark.parametrize(
    ("low", "high", "scale"),
    [
        (0.0, 1.0, "0 to 1"),
        (-1.0, 1.0, "-1 to 1"),
        (0.0, 0.08, "metres"),
        (0.0, 100.0, "other"),
        (-0.05, 1.0, "0 to 1"),
    ],
)
def test_the_scale_of_a_gripper(low: float, high: float, scale: str) -> None:
    assert scale_of(low, high) == scale


def test_two_values_are_told_from_a_continuous_range() -> None:
    assert describe(grasp()[1]) == "one of two values, 0 to 1"
    assert describe(np.linspace(0, 1, 100)) == "continuous, 0 to 1"


def test_larger_is_open_or_closed_by_name() -> None:
    assert meaning("gripper_openness") is True
    assert meaning("left_gripper_distance") is True
    assert meaning("gripper_closedness") is False
    assert meaning("gripper") is None


def test_the_delay_between_command_and_fingers_is_found_not_across_episodes() -> None:
    openness, command = grasp(lag=6)
    assert following(command, openness, SPANS, 10) == pytest.approx(1.0)
    assert following(command, openness, SPANS, 2) < 0.95
    assert following(command, np.zeros(200), SPANS, 10) == 0.0


@pytest.mark.parametrize(
    ("name", "turn", "convention", "wrong"),
    [
        ("gripper_openness", False, "1 opens", False),
        ("gripper_openness", False, "1 closes", True),
        ("gripper_closedness", True, "1 opens", False),
        ("gripper_closedness", True, "1 closes", True),
        ("gripper", False, "1 closes", False),  # the name does not tell
        ("gripper_openness", False, "unknown", False),
    ],
)
def test_polarity_is_compared_with_what_the_fingers_do(name: str, turn: bool, convention: str, wrong: bool) -> None:
    openness, command = grasp()
    state = table(1 - openness if turn else openness)
    findings = check_polarity(("hand_x", name), state, ACTIONS, table(command), convention, SPANS, 10.0)
    assert len(findings) == wrong
    if wrong:
        assert findings[0].level == "error"
        assert "1.00" in findings[0].text


def test_a_gripper_that_is_not_declared_is_found() -> None:
    actions = table(grasp()[1])
    (finding,) = check_declared(ACTIONS, actions, "none")
    assert finding.level == "warning"
    assert "one of two values, 0 to 1" in finding.text
    assert [f.level for f in check_declared(ACTIONS, actions, "unknown")] == ["note"]
    assert check_declared(ACTIONS, actions, "1 opens") == []
    assert check_declared(("hand_dx", "hand_dy"), actions, "none") == []
    assert check_declared(("hand_dx", "hand_dy"), actions, "1 opens")[0].level == "note"


def test_half_a_range_is_found() -> None:
    actions = table(grasp()[1])
    (finding,) = check_range("action", ACTIONS, actions, (-1.0, -1.0), (1.0, 1.0))
    assert "the robot takes -1 to 1" in finding.text
    assert check_range("action", ACTIONS, actions, (-1.0, 0.0), (1.0, 1.0)) == []
    assert check_range("action", ACTIONS, actions * 2 - 1, (-1.0, -1.0), (1.0, 1.0)) == []


def test_values_below_zero_are_noted_unless_the_range_is_symmetric() -> None:
    x = grasp()[0]
    (finding,) = check_range("state", STATE, table(x * 0.9 - 0.1), (), ())
    assert "to -0.1, in 40 % of the frames" in finding.text
    assert check_range("state", STATE, table(x), (), ()) == []
    assert check_range("state", STATE, table(x * 2 - 1), (), ()) == []
    assert check_range("state", STATE, table(x * 0.08 - 0.04), (), ()) == []  # a finger on either side of 0
