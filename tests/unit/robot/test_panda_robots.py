"""LIBERO and DROID: gripper signs and ranges, what the simulator's numbers become."""

import numpy as np

from pizero.robot import droid, libero
from pizero.robot.droid import DROID
from pizero.robot.libero import IDLE, LIBERO


def test_libero_closes_with_1_and_idles_with_an_open_gripper():
    assert LIBERO.gripper_action == "1 closes"
    assert (LIBERO.action_low, LIBERO.action_high) == ((-1.0,) * 7, (1.0,) * 7)
    assert IDLE[-1] == LIBERO.action_low[-1]


def test_the_state_of_libero_takes_a_quaternion_with_the_scalar_part_last():
    quarter_about_z = np.array([0, 0, np.sqrt(0.5), np.sqrt(0.5)])
    state = libero.proprioception(np.array([1.0, 2.0, 3.0]), quarter_about_z, np.array([0.04, -0.04]))
    np.testing.assert_allclose(state, [1, 2, 3, 0, 0, np.pi / 2, 0.04, -0.04], atol=1e-15)
    assert len(state) == len(LIBERO.state)


def test_the_state_of_libero_without_rotation_is_0_for_either_sign_of_the_quaternion():
    for w in (1.0, -1.0):
        state = libero.proprioception(np.zeros(3), np.array([0, 0, 0, w]), np.zeros(2))
        np.testing.assert_array_equal(state, np.zeros(8))


def test_pictures_of_libero_are_turned_by_180_degrees_not_mirrored():
    image = np.zeros((2, 3, 3), np.uint8)
    image[0, 1] = 7
    image[1, 2] = 9
    turned = libero.upright(image)
    assert (turned[1, 1, 0], turned[0, 0, 0]) == (7, 9)
    assert turned.flags.c_contiguous


def test_droid_closes_above_one_half_and_clips_velocities():
    action = np.array([[2.0, -2.0, 0.5, 0, 0, 0, 0, 0.5], [0, 0, 0, 0, 0, 0, 0, 0.51]])
    sent = droid.to_robot(action)
    np.testing.assert_array_equal(sent[0], [1, -1, 0.5, 0, 0, 0, 0, 0])
    assert sent[1, 7] == 1
    assert (sent >= DROID.action_low).all()
    assert (sent <= DROID.action_high).all()
    assert DROID.gripper_action == "1 closes"
