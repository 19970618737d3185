"""Robots as data: round trip, comparison, and what is refused."""

import json
from dataclasses import replace

import pytest

from pizero.embodiment import Embodiment

ARM = Embodiment(
    name="arm",
    cameras=("front", "wrist"),
    state=("x", "y", "gripper"),
    actions=("dx", "dy", "gripper"),
    control_rate_hz=12.5,
    action_low=(-1.0, -1.0, 0.0),
    action_high=(1.0, 1.0, 1.0),
    gripper_action="1 closes",
)


def test_json_gives_the_equal_embodiment_back():
    assert Embodiment.from_json(json.loads(json.dumps(ARM.to_json()))) == ARM


def test_json_with_missing_and_unknown_keys_is_refused_with_their_names():
    data = ARM.to_json()
    data["camera"] = data.pop("cameras")
    with pytest.raises(ValueError, match=r"\['camera', 'cameras'\]"):
        Embodiment.from_json(data)


def test_equal_embodiments_differ_in_nothing():
    assert ARM.difference(replace(ARM)) == ""


def test_the_difference_names_each_field_with_both_values():
    other = replace(ARM, cameras=("wrist", "front"), control_rate_hz=5.0)
    difference = ARM.difference(other)
    assert difference == "cameras: ['front', 'wrist'] against ['wrist', 'front']; control_rate_hz: 12.5 against 5.0"


@pytest.mark.parametrize("bound", ["action_low", "action_high"])
def test_a_bound_per_action_is_needed(bound):
    with pytest.raises(ValueError, match=f"{bound} has 2 values for 3 actions"):
        replace(ARM, **{bound: (0.0, 0.0)})


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_robot_needs_a_rate_above_zero(rate):
    with pytest.raises(ValueError, match="control_rate_hz"):
        replace(ARM, control_rate_hz=rate)


def test_an_embodiment_of_which_little_is_known_survives_json():
    robot = replace(ARM, control_rate_hz=None, action_low=(), action_high=(), gripper_action="unknown")
    assert Embodiment.from_json(json.loads(json.dumps(robot.to_json()))) == robot
    assert ARM.difference(robot).startswith("control_rate_hz: 12.5 against None; action_low: [-1.0, -1.0, 0.0] against")


@pytest.mark.parametrize("bound", ["action_low", "action_high"])
def test_one_bound_without_the_other_is_refused(bound):
    with pytest.raises(ValueError, match=f"{bound} has 0 values for 3 actions; .* not known"):
        replace(ARM, **{bound: ()})


@pytest.mark.parametrize(
    "low", [(-1.0, 1.5, 0.0), (-1.0, float("nan"), 0.0), (-1.0, float("-inf"), 0.0)], ids=["above high", "nan", "inf"]
)
def test_bounds_must_be_finite_and_in_order(low):
    with pytest.raises(ValueError, match=r"'dy' is bounded by .* and 1\.0"):
        replace(ARM, action_low=low)


def test_a_bound_may_hold_an_action_at_one_value():
    assert replace(ARM, action_low=(1.0, -1.0, 0.0)).action_low[0] == 1.0


@pytest.mark.parametrize("field", ["cameras", "state", "actions"])
def test_names_must_differ(field):
    names = getattr(ARM, field)
    with pytest.raises(ValueError, match=f"{field} has {names[0]} more than once"):
        replace(ARM, **{field: (names[0], *names[:-1])})


def test_json_with_an_unknown_gripper_action_is_refused_with_the_allowed_ones():
    with pytest.raises(ValueError, match=r"'1 open', must be one of \('1 opens', '1 closes', 'none', 'unknown'\)"):
        Embodiment.from_json(ARM.to_json() | {"gripper_action": "1 open"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", 3),
        ("cameras", "front"),
        ("state", ["x", 1]),
        ("control_rate_hz", "12"),
        ("action_low", [True, 0.0, 0.0]),
        ("action_high", None),
    ],
)
def test_json_with_a_value_of_another_type_is_refused_with_its_key(key, value):
    with pytest.raises(ValueError, match=f"embodiment: {key} is .*, expected"):
        Embodiment.from_json(ARM.to_json() | {key: value})


def test_whole_numbers_in_json_count_as_numbers():
    data = ARM.to_json() | {"control_rate_hz": 20, "action_high": [1, 1, 1]}
    robot = Embodiment.from_json(data)
    assert (robot.control_rate_hz, robot.action_high) == (20.0, (1.0, 1.0, 1.0))
