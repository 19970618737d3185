"""Rotations as quaternions, matrices, Euler angles, and axis with angle; float64, any number of leading axes.

A quaternion is in the order w, x, y, z unless a name says otherwise; it need not have length 1. Euler angles are
"sxyz" (roll, pitch, yaw about the fixed axes x, y, z, in this order), in radians. A matrix turns column vectors.

Formulas: Diebel, "Representing Attitude" (2006), sections 5.6 and 6 for quaternions and matrices; Day, "Extracting
Euler Angles from a Rotation Matrix" (2012) for the angle that is taken last, which fits the first also where pitch is
90 degrees. Conventions of transforms3d, which SimplerEnv and open-pi-zero use.
"""

import numpy as np
from jaxtyping import Float

SMALLEST_COSINE = 4 * np.finfo(np.float64).eps
"""Below this cosine of the pitch, roll and yaw turn about one axis; all of it counts as roll (transforms3d)."""
SMALLEST_SINE = 3 * np.finfo(np.float64).eps
"""Below this sine of half the angle there is no axis; it counts as no rotation about x (transforms3d)."""


def to_wxyz(xyzw: Float[np.ndarray, "*batch 4"]) -> Float[np.ndarray, "*batch 4"]:
    """The scalar part first, from a quaternion that has it last."""
    return np.roll(xyzw, 1, axis=-1)


def to_xyzw(wxyz: Float[np.ndarray, "*batch 4"]) -> Float[np.ndarray, "*batch 4"]:
    """The scalar part last, from a quaternion that has it first."""
    return np.roll(wxyz, -1, axis=-1)


def quaternion_to_matrix(wxyz: Float[np.ndarray, "*batch 4"]) -> Float[np.ndarray, "*batch 3 3"]:
    """The rotation matrix. Raises ValueError for the quaternion 0, which is no rotation."""
    w, x, y, z = np.moveaxis(_unit(wxyz), -1, 0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, -1) for row in rows], -2)


def matrix_to_quaternion(matrix: Float[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch 4"]:
    """The quaternion w, x, y, z of length 1 with w >= 0.

    Each row of 4 q q^T is known from the matrix; the row of the largest component is taken, which is never near 0
    (Shepperd, "Quaternion from Rotation Matrix", 1978).
    """
    m = np.asarray(matrix, np.float64)
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    rows = (
        (1 + xx + yy + zz, wx, wy, wz),
        (wx, 1 + xx - yy - zz, xy, xz),
        (wy, xy, 1 - xx + yy - zz, yz),
        (wz, xz, yz, 1 - xx - yy + zz),
    )
    outer = np.stack([np.stack(row, -1) for row in rows], -2)  # 4 q q^T
    largest = np.argmax(np.diagonal(outer, axis1=-2, axis2=-1), -1)
    q = _unit(np.take_along_axis(outer, largest[..., None, None], -2)[..., 0, :])
    return np.where(q[..., :1] < 0, -q, q)


def euler_to_matrix(euler: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    """The rotation matrix of roll, pitch, yaw."""
    return quaternion_to_matrix(euler_to_quaternion(euler))


def matrix_to_euler(matrix: Float[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch 3"]:
    """Roll, pitch, yaw with pitch in [-pi/2, pi/2]. At its ends roll and yaw turn about one axis, and yaw is 0."""
    m = np.asarray(matrix, np.float64)
    cosine = np.hypot(m[..., 0, 0], m[..., 1, 0])
    pitch = np.arctan2(-m[..., 2, 0], cosine)
    yaw = np.where(cosine > SMALLEST_COSINE, np.arctan2(m[..., 1, 0], m[..., 0, 0]), 0.0)
    s, c = np.sin(yaw), np.cos(yaw)  # what is left after yaw is taken back is pitch and roll alone
    roll = np.arctan2(s * m[..., 0, 2] - c * m[..., 1, 2], c * m[..., 1, 1] - s * m[..., 0, 1])
    return np.stack([roll, pitch, yaw], -1)


def euler_to_quaternion(euler: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 4"]:
    """The quaternion w, x, y, z of length 1: yaw times pitch times roll. w is negative for some angles above pi/2."""
    half = np.asarray(euler, np.float64) / 2
    (cr, cp, cy), (sr, sp, sy) = np.moveaxis(np.cos(half), -1, 0), np.moveaxis(np.sin(half), -1, 0)
    return np.stack(
        [
            cr * cp * cy + sr * sp * sy,
            sr * cp * cy - cr * sp * sy,
            cr * sp * cy + sr * cp * sy,
            cr * cp * sy - sr * sp * cy,
        ],
        -1,
    )


def quaternion_to_axis_angle(
    wxyz: Float[np.ndarray, "*batch 4"],
) -> tuple[Float[np.ndarray, "*batch 3"], Float[np.ndarray, "*batch"]]:
    """Axis of length 1, and angle in [0, 2 pi): above pi where w is negative. No rotation: axis x, angle 0.

    As in transforms3d and robosuite the angle is not brought below pi: policies were trained on it.
    """
    q = _unit(wxyz)
    sine = np.linalg.norm(q[..., 1:], axis=-1)
    turns = sine > SMALLEST_SINE
    axis = np.where(turns[..., None], q[..., 1:] / np.where(turns, sine, 1.0)[..., None], np.array([1.0, 0.0, 0.0]))
    return axis, np.where(turns, 2 * np.arctan2(sine, q[..., 0]), 0.0)


def euler_to_axis_angle(
    euler: Float[np.ndarray, "*batch 3"],
) -> tuple[Float[np.ndarray, "*batch 3"], Float[np.ndarray, "*batch"]]:
    """Axis and angle as of `quaternion_to_axis_angle`."""
    return quaternion_to_axis_angle(euler_to_quaternion(euler))


def _unit(quaternion: np.ndarray) -> np.ndarray:
    q = np.asarray(quaternion, np.float64)
    length = np.linalg.norm(q, axis=-1, keepdims=True)
    if not (np.isfinite(length) & (length > 0)).all():
        raise ValueError(
            f"quaternion of length {length.min()} is no rotation; its numbers must be finite and not all 0"
        )
    return q / length
