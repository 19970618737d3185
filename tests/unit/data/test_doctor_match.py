"""A data set beside a checkpoint: each difference found, and nothing where there is none."""

from dataclasses import replace

import numpy as np
import pytest

from pizero.data.doctor_match import (
    match_cameras,
    match_convention,
    match_gripper,
    match_names,
    match_quaternions,
    match_rate,
    match_stats,
    match_units,
)
from pizero.data.stats import Stats
from pizero.embodiment import Embodiment

NAMES = ("x", "joint", "gripper")
ROBOT = Embodiment("toy", ("top", "left_wrist", "right_wrist"), NAMES, NAMES, 10.0, (), (), "1 opens")


def values(seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    grip = (random.uniform(size=500) < 0.8).astype(float)
    return np.stack([random.normal(0.3, 0.1, 500), random.uniform(-1, 1, 500), grip], 1)


def levels(findings: list) -> list[tuple[str, str]]:
    return [(finding.level, finding.topic) for finding in findings]


def test_data_of_the_same_robot_have_no_finding() -> None:
    data, trained = Stats.of(values(0)), Stats.of(values(1))
    assert match_cameras(ROBOT, ROBOT) == []
    assert match_convention(ROBOT, ROBOT) == []
    assert match_rate(10.0, ROBOT) == []
    assert match_names("state", NAMES, NAMES, 32) == []
    assert match_gripper("action", NAMES, data, NAMES, trained, ()) == []
    assert match_units("state", NAMES, data, trained) == []
    assert match_stats("state", NAMES, data, trained, values(0)) == []


def test_cameras_in_another_order_are_an_error() -> None:
    turned = replace(ROBOT, cameras=("left_wrist", "top", "right_wrist"))
    assert levels(match_cameras(turned, ROBOT)) == [("error", "cameras")]


def test_cameras_of_other_names_are_told_with_the_nearest_and_their_place() -> None:
    (finding,) = match_cameras(replace(ROBOT, cameras=("top", "wrist_left")), ROBOT)
    assert finding.level == "warning"
    assert "the checkpoint has 3 cameras, the data 2" in finding.text
    assert "'left_wrist' (nearest: 'wrist_left')" in finding.text
    assert "'wrist_left' as 'left_wrist'" in finding.advice
    (more,) = match_cameras(replace(ROBOT, cameras=(*ROBOT.cameras, "side")), ROBOT)
    assert "it does not know side" in more.text


def test_dimensions_are_compared_by_number_name_and_order() -> None:
    assert levels(match_names("state", ("joint", "x", "gripper"), NAMES, 32)) == [("error", "state names")]
    assert levels(match_names("state", NAMES[:2], NAMES, 32)) == [("warning", "state names")]
    assert levels(match_names("action", NAMES, NAMES[:2], 2)) == [("error", "action names")]
    (finding,) = match_names("state", ("x", "joint_1", "gripper"), NAMES, 32)
    assert "1 of 3 state dimensions" in finding.text
    assert "joint_1 for joint" in finding.text


def test_rates_and_conventions_are_compared() -> None:
    assert levels(match_rate(50.0, ROBOT)) == [("warning", "rate")]
    assert match_rate(50.0, replace(ROBOT, control_rate_hz=None)) == []
    assert levels(match_convention(replace(ROBOT, gripper_action="1 closes"), ROBOT)) == [("error", "gripper")]
    assert levels(match_convention(replace(ROBOT, gripper_action="none"), ROBOT)) == [("warning", "gripper")]
    assert match_convention(replace(ROBOT, gripper_action="unknown"), ROBOT) == []


def test_a_gripper_turned_round_is_seen_by_its_mean() -> None:
    turned = values()
    turned[:, 2] = 1 - turned[:, 2]
    (finding,) = match_gripper("action", NAMES, Stats.of(turned), NAMES, Stats.of(values()), ())
    assert finding.level == "warning"
    assert "the means are at 23 % and 77 % of the range" in finding.text


@pytest.mark.parametrize(("raw", "level"), [((), "warning"), (("gripper",), "error")])
def test_a_gripper_of_another_scale_is_worse_where_it_is_not_normalised(raw: tuple[str, ...], level: str) -> None:
    wide = values()
    wide[:, 2] = wide[:, 2] * 2 - 1
    (finding,) = match_gripper("action", NAMES, Stats.of(wide), NAMES, Stats.of(values()), raw)
    assert finding.level == level
    assert "-1 to 1, the checkpoint's 0 to 1" in finding.text


def test_degrees_and_radians_are_told_by_the_spread() -> None:
    data = values()
    data[:, 1] *= 180 / np.pi
    (finding,) = match_units("state", NAMES, Stats.of(data), Stats.of(values()))
    assert (finding.level, finding.dims) == ("error", ("state joint",))
    assert "degrees and radians" in finding.text
    assert "57.3 times" in finding.text
    data[:, 0] *= 1000
    assert len(match_units("state", NAMES, Stats.of(data), Stats.of(values()))[0].dims) == 2


def test_statistics_far_away_and_values_outside_are_told() -> None:
    data = values()
    data[:, 0] += 0.6
    (finding,) = match_stats("state", NAMES, Stats.of(data), Stats.of(values(1)), data)
    assert finding.dims == ("state x",)
    q99 = np.quantile(values(1)[:, 0], 0.99)
    distance = np.abs(data[:, 0].mean() - values(1)[:, 0].mean()) / values(1)[:, 0].std()
    assert f"x ({distance:.4g} deviations" in finding.text
    outside = f"{100 * (data[:, 0] > q99).mean():.0f} % outside"
    assert outside in finding.text
    shifted = values()
    shifted[:, 1] *= 3
    assert match_stats("state", NAMES, Stats.of(shifted), Stats.of(values(1)), None) == []  # means alone agree
    assert len(match_stats("state", NAMES, Stats.of(shifted), Stats.of(values(1)), shifted)) == 1


def test_a_quaternion_in_another_order_is_seen_by_name_or_by_mean_squares() -> None:
    half = np.linspace(0.0, 0.8, 200)[:, None]
    wxyz = np.concatenate([np.cos(half), np.sin(half) * np.array([0.48, 0.6, 0.64])], 1)
    xyzw, plain = np.roll(wxyz, -1, axis=1), ("s0", "s1", "s2", "s3")
    assert levels(match_quaternions("state", plain, xyzw, plain, Stats.of(wxyz))) == [("error", "quaternion")]
    assert match_quaternions("state", plain, -wxyz, plain, Stats.of(wxyz)) == []
    first, last = ("q_w", "q_x", "q_y", "q_z"), ("q_x", "q_y", "q_z", "q_w")
    (finding,) = match_quaternions("state", last, xyzw, first, Stats.of(wxyz))
    assert "w last against w first" in finding.text
    assert match_quaternions("state", first, wxyz, first, Stats.of(wxyz)) == []
