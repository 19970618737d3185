"""openpi's joint units of ALOHA: signs, gripper ranges and inverses."""

import numpy as np
import pytest

from pizero.robot.aloha import ALOHA, ANGLE, GRIPPERS, JOINTS, actions_from_pi, actions_to_pi, state_to_pi

FLIPPED = {"left_shoulder", "left_elbow", "right_shoulder", "right_elbow"}


@pytest.mark.parametrize("convert", [state_to_pi, actions_from_pi, actions_to_pi])
def test_shoulders_and_elbows_turn_the_other_way_and_nothing_else(convert):
    values = np.linspace(0.1, 1.4, 14)
    signs = np.delete(np.sign(convert(values)), GRIPPERS)
    names = np.delete(ALOHA.state, GRIPPERS)
    assert {str(name) for name, sign in zip(names, signs, strict=True) if sign < 0} == FLIPPED
    np.testing.assert_array_equal(np.delete(np.abs(convert(values)), GRIPPERS), np.delete(values, GRIPPERS))
    assert tuple(names) == JOINTS


def test_the_state_of_a_gripper_is_the_angle_of_its_motor():
    closed, open_ = state_to_pi(np.zeros(14)), state_to_pi(np.ones(14))
    # the linkage: closed -0.6208 rad (the motor's own limit is given as -0.6213), open a quarter turn
    np.testing.assert_allclose(closed[list(GRIPPERS)], (-0.62081 - 0.5476) / 1.082, atol=1e-5)
    np.testing.assert_allclose(open_[list(GRIPPERS)], (np.pi / 2 - 0.5476) / 1.082, atol=1e-6)
    assert closed[6] == pytest.approx(-1.07986, abs=1e-5)
    assert open_[6] == pytest.approx(0.945654, abs=1e-5)


def test_a_gripper_beyond_open_stays_at_a_quarter_turn():
    np.testing.assert_array_equal(state_to_pi(np.full(14, 1.01))[6], (np.pi / 2 - 0.5476) / (1.6296 - 0.5476))


def test_gripper_actions_are_radians_that_become_a_share_of_the_motors_range():
    actions = np.zeros(14)
    actions[list(GRIPPERS)] = ANGLE[0] - 0.5476, ANGLE[1] - 0.5476
    np.testing.assert_allclose(actions_from_pi(actions)[list(GRIPPERS)], [0, 1], atol=1e-15)
    # 0 to pi0 is 0.5476 rad
    assert actions_from_pi(np.zeros(14))[6] == pytest.approx((0.5476 + 0.6213) / 2.1123)


def test_the_two_conversions_of_actions_are_inverse():
    actions = np.random.default_rng(0).normal(size=(5, 50, 14))
    np.testing.assert_allclose(actions_to_pi(actions_from_pi(actions)), actions, atol=1e-14)
    np.testing.assert_allclose(actions_from_pi(actions_to_pi(actions)), actions, atol=1e-14)


@pytest.mark.parametrize("convert", [state_to_pi, actions_from_pi, actions_to_pi])
def test_the_argument_is_not_changed_and_the_result_is_float64(convert):
    values = np.full((2, 14), 0.5, np.float32)
    assert convert(values).dtype == np.float64
    np.testing.assert_array_equal(values, np.full((2, 14), 0.5, np.float32))
