"""WidowX and Google robot: gripper signs and ranges, quaternion orders, the top-down pose, the sticky gripper."""

import numpy as np
import pytest

from pizero.robot import bridge, fractal
from pizero.robot.bridge import BRIDGE
from pizero.robot.fractal import FRACTAL, STICKY_STEPS, StickyGripper

POSE = np.array([0.3, -0.1, 0.2, 0.5, -0.5, 0.5, 0.5, 0.75])
"""Position, quaternion wxyz, openness."""


def test_a_hand_that_looks_straight_down_has_no_rotation_on_bridge():
    down = np.array([0.1, 0.2, 0.3, np.sqrt(0.5), 0, np.sqrt(0.5), 0, 1.0])  # a quarter turn about y: x ahead to z down
    np.testing.assert_allclose(bridge.proprioception(down), [0.1, 0.2, 0.3, 0, 0, 0, 1], atol=1e-15)


def test_a_hand_that_looks_ahead_is_pitched_up_by_a_quarter_on_bridge():
    ahead = np.array([0, 0, 0, 1.0, 0, 0, 0, 0.0])
    np.testing.assert_allclose(bridge.proprioception(ahead), [0, 0, 0, 0, -np.pi / 2, 0, 0], atol=1e-7)


def test_a_hand_turned_about_the_vertical_is_yawed_on_bridge():
    half = 0.2
    yawed = np.array([np.cos(half), 0, 0, np.sin(half)])
    down = np.array([np.sqrt(0.5), 0, np.sqrt(0.5), 0])
    w = yawed[0] * down - np.array([yawed[3] * down[3], yawed[3] * down[2], -yawed[3] * down[1], -yawed[3] * down[0]])
    state = bridge.proprioception(np.concatenate([[0, 0, 0], w, [0.4]]))
    np.testing.assert_allclose(state, [0, 0, 0, 0, 0, 2 * half, 0.4], atol=1e-15)


def test_bridge_opens_above_one_half_and_only_there():
    actions = np.zeros((4, 7))
    actions[:, 6] = [0, 0.5, 0.500001, 1]
    np.testing.assert_array_equal(bridge.to_simulator(actions)[:, 6], [-1, -1, 1, 1])


def test_actions_turn_euler_angles_into_axis_times_angle():
    action = np.array([0.01, -0.02, 0.03, 0.2, 0, 0, 0.1])
    np.testing.assert_allclose(bridge.to_simulator(action)[:6], action[:6], atol=1e-15)
    both = np.array([0, 0, 0, np.pi / 2, 0, np.pi / 2, 0])  # roll, then yaw: a third of a turn about (1, 1, 1)
    expected = np.full(3, 2 * np.pi / 3 / np.sqrt(3))
    np.testing.assert_allclose(bridge.to_simulator(both)[3:6], expected, atol=1e-15)
    np.testing.assert_allclose(fractal.to_simulator(both[None], StickyGripper())[0, 3:6], expected, atol=1e-15)


def test_fractal_has_the_scalar_part_last_and_the_gripper_closedness():
    np.testing.assert_array_equal(fractal.proprioception(POSE), [0.3, -0.1, 0.2, -0.5, 0.5, 0.5, 0.5, 0.25])


def test_states_fit_the_embodiments():
    assert bridge.proprioception(POSE).shape == (len(BRIDGE.state),)
    assert fractal.proprioception(POSE).shape == (len(FRACTAL.state),)
    assert BRIDGE.gripper_action == FRACTAL.gripper_action == "1 opens"


def test_fractal_closes_with_1_and_opens_with_minus_1():
    assert StickyGripper().step(0.0) == 1
    assert StickyGripper().step(1.0) == -1
    assert StickyGripper().step(0.4) == pytest.approx(0.2)


def test_a_clear_wish_is_held_for_its_steps_and_then_let_go():
    gripper = StickyGripper()
    commands = [gripper.step(action) for action in [0.25, 0.1] + [1.0] * (STICKY_STEPS - 1) + [0.4]]
    assert commands[0] == 0.5  # not above one half: not held
    assert commands[1:-1] == [0.8] * STICKY_STEPS
    assert commands[-1] == pytest.approx(0.2)


def test_a_reset_lets_go():
    gripper = StickyGripper()
    gripper.step(0.0)
    gripper.reset()
    assert gripper.step(0.5) == 0
    assert (gripper.is_held, gripper.num_held, gripper.held) == (False, 0, 0.0)


def test_the_gripper_goes_on_from_one_chunk_to_the_next():
    gripper = StickyGripper()
    chunk = np.zeros((2, 7))
    chunk[:, 6] = [0.0, 1.0]
    np.testing.assert_array_equal(fractal.to_simulator(chunk, gripper)[:, 6], [1, 1])
    np.testing.assert_array_equal(fractal.to_simulator(chunk[1:], gripper)[:, 6], [1])
    assert fractal.to_simulator(chunk[:0], gripper).shape == (0, 7)
