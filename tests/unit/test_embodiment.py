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


@pytest.mark.parametrize("rate", [0.0, -1.0])
def test_a_robot_needs_a_rate_above_zero(rate):
    with pytest.raises(ValueError, match="control_rate_hz"):
        replace(ARM, control_rate_hz=rate)
