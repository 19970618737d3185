"""Rotations: orders, signs, and the places where formulas break."""

import numpy as np
import pytest

from pizero.robot.rotation import (
    euler_to_axis_angle,
    euler_to_matrix,
    euler_to_quaternion,
    matrix_to_euler,
    matrix_to_quaternion,
    quaternion_to_axis_angle,
    quaternion_to_matrix,
    to_wxyz,
    to_xyzw,
)

QUARTER = np.sqrt(0.5)
SPECIAL = np.array(
    [
        [0, 0, 0],
        [1e-9, 0, 0],
        [1e-9, -1e-9, 1e-9],
        [np.pi, 0, 0],
        [0, np.pi / 2, 0],
        [0.3, np.pi / 2, 0.2],
        [0.3, -np.pi / 2, 0.2],
        [0.3, np.pi / 2 - 1e-8, -1.2],
        [0.3, np.pi / 2 - 1e-15, -1.2],
        [0, 0, np.pi],
        [np.pi, np.pi / 2, np.pi],
        [np.pi - 1e-9, 0, 0],
    ]
)


def _many() -> np.ndarray:
    return np.concatenate([SPECIAL, np.random.default_rng(0).uniform(-np.pi, np.pi, (200, 3))])


def test_a_quarter_turn_about_each_axis_turns_the_next_axis_into_the_third():
    x, y, z = np.eye(3)
    np.testing.assert_allclose(euler_to_matrix(np.array([np.pi / 2, 0, 0])) @ y, z, atol=1e-15)
    np.testing.assert_allclose(euler_to_matrix(np.array([0, np.pi / 2, 0])) @ z, x, atol=1e-15)
    np.testing.assert_allclose(euler_to_matrix(np.array([0, 0, np.pi / 2])) @ x, y, atol=1e-15)


def test_euler_angles_turn_about_fixed_axes_roll_first():
    roll, pitch, yaw = (euler_to_matrix(v) for v in np.diag([0.3, -0.5, 1.1]))
    np.testing.assert_allclose(euler_to_matrix(np.array([0.3, -0.5, 1.1])), yaw @ pitch @ roll, atol=1e-15)


def test_the_scalar_part_comes_first_and_can_be_moved():
    np.testing.assert_array_equal(to_xyzw(np.array([4.0, 1.0, 2.0, 3.0])), [1, 2, 3, 4])
    np.testing.assert_array_equal(to_wxyz(np.array([1.0, 2.0, 3.0, 4.0])), [4, 1, 2, 3])
    quarter_about_z = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(quaternion_to_matrix(np.array([QUARTER, 0, 0, QUARTER])), quarter_about_z, atol=1e-15)


def test_the_length_and_the_sign_of_a_quaternion_do_not_matter_to_the_matrix():
    q = np.array([0.1, -0.4, 0.7, 0.2])
    for factor in (-1.0, 5.0, 1e-6):
        np.testing.assert_allclose(quaternion_to_matrix(factor * q), quaternion_to_matrix(q), atol=1e-15)


@pytest.mark.parametrize("bad", [[0.0, 0, 0, 0], [np.nan, 0, 0, 1], [np.inf, 0, 0, 0]])
def test_what_is_no_quaternion_is_refused(bad):
    with pytest.raises(ValueError, match="no rotation"):
        quaternion_to_matrix(np.array([[1.0, 0, 0, 0], bad]))


def test_matrix_to_euler_gives_the_matrix_back_also_at_gimbal_lock():
    matrices = euler_to_matrix(_many())
    euler = matrix_to_euler(matrices)
    np.testing.assert_allclose(euler_to_matrix(euler), matrices, atol=2e-15)
    assert (np.abs(euler[:, 1]) <= np.pi / 2).all()


def test_at_gimbal_lock_all_counts_as_roll():
    up, down = matrix_to_euler(euler_to_matrix(np.array([[0.3, np.pi / 2, 0.2], [0.3, -np.pi / 2, 0.2]])))
    np.testing.assert_allclose(up, [0.1, np.pi / 2, 0], atol=1e-7)
    np.testing.assert_allclose(down, [0.5, -np.pi / 2, 0], atol=1e-7)


def test_matrix_to_quaternion_gives_the_same_rotation_with_w_not_negative():
    matrices = euler_to_matrix(_many())
    q = matrix_to_quaternion(matrices)
    np.testing.assert_allclose(quaternion_to_matrix(q), matrices, atol=1e-14)
    np.testing.assert_allclose(np.linalg.norm(q, axis=-1), 1, atol=1e-15)
    assert (q[..., 0] >= 0).all()


def test_axis_and_angle_are_the_quaternion():
    q = euler_to_quaternion(_many())
    axis, angle = quaternion_to_axis_angle(q)
    again = np.concatenate([np.cos(angle / 2)[:, None], np.sin(angle / 2)[:, None] * axis], -1)
    np.testing.assert_allclose(again, q, atol=1e-15)


def test_no_rotation_has_the_axis_x_and_the_angle_0():
    for q in ([1.0, 0, 0, 0], [-1.0, 0, 0, 0], [3.0, 0, 0, 0]):
        axis, angle = quaternion_to_axis_angle(np.array(q))
        np.testing.assert_array_equal(axis, [1, 0, 0])
        assert angle == 0


def test_a_tiny_rotation_keeps_its_angle():
    axis, angle = euler_to_axis_angle(np.array([0, -1e-9, 0]))
    np.testing.assert_allclose(axis, [0, -1, 0], atol=1e-15)
    assert angle == pytest.approx(1e-9, rel=1e-12)


def test_an_angle_above_pi_stays_above_pi():
    axis, angle = quaternion_to_axis_angle(np.array([-QUARTER, QUARTER, 0, 0]))
    assert angle == pytest.approx(1.5 * np.pi)
    np.testing.assert_allclose(axis, [1, 0, 0], atol=1e-15)


def test_leading_axes_are_kept():
    euler = _many()[:6].reshape(2, 3, 3)
    np.testing.assert_array_equal(
        matrix_to_euler(euler_to_matrix(euler))[1, 2], matrix_to_euler(euler_to_matrix(euler[1, 2]))
    )
    axis, angle = euler_to_axis_angle(euler)
    assert (axis.shape, angle.shape) == ((2, 3, 3), (2, 3))
    assert matrix_to_quaternion(euler_to_matrix(euler)).shape == (2, 3, 4)
