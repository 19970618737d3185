"""From where the hand should be to an action: straight lines, up before sideways and sideways before down."""

import numpy as np
from jaxtyping import Float, Float32

from pizero.robot.rotation import matrix_to_quaternion, quaternion_to_axis_angle, quaternion_to_matrix
from pizero.sim.libero.expert_hand import Hand

MOVE = 0.05
"""Metres that an action of 1 stands for (LIBERO)."""
TURN = 0.5
"""Radians that an action of 1 stands for (LIBERO)."""
GAIN = 2.0
"""Share of the way to go that is asked for per step. The controller covers about 0.3 of what is asked for in a step, so
the hand closes half the distance per step; more makes it overshoot."""
FASTEST = 0.9
"""Length of the largest translation, in actions; leaves room for a policy's corrections within [-1, 1]."""
FASTEST_TURN = 0.4
"""The same for rotations; the largest turn of 90 degrees takes about a second."""

OPEN, CLOSE = -1.0, 1.0
"""The gripper's action."""

_UPRIGHT = 0.7
"""Metres from the foot of the arm within which the hand points straight down."""
_LEAN, _MAX_LEAN = 3.0, 0.35
"""Radians of tilt per metre beyond, and the largest."""
_DOWN = -0.7
"""Hands whose z axis points less far down than this have their tilt from what they do."""

UP = np.array([0.0, 0.0, 1.0])

_SLOPE = 3.0
"""Steepness of the funnel."""
_PER_RADIAN = 0.05
"""Metres of distance that a radian of missing turn counts for; 0.12 radians are within all tolerances."""
_BAND = 0.04
"""Metres of missing height over which sideways motion fades out."""
_SLACK = 0.015
"""Missing height that does not matter."""

Vector = Float[np.ndarray, " 3"]


def toward(
    hand: Hand, position: Vector, rotation: Float[np.ndarray, "3 3"], gripper: float, fastest: float = FASTEST
) -> Float32[np.ndarray, " 7"]:
    """An action that brings the hand nearer to a pose in the world; the nearer it is, the slower."""
    move = _limited(GAIN * (position - hand.position) / MOVE, fastest)
    axis, angle = quaternion_to_axis_angle(matrix_to_quaternion(leaning(hand, rotation) @ hand.rotation.T))
    turn = _limited(GAIN * axis * angle / TURN, FASTEST_TURN)
    return np.array([*move, *turn, gripper], np.float32)


def by_way_of(
    hand: Hand,
    position: Vector,
    rotation: Float[np.ndarray, "3 3"],
    travel: float,
    tolerance: float,
    back: Vector = UP,
) -> Vector:
    """Where to go now in order to arrive at a pose from the side that `back` (a unit vector) points to: from above.

    The height that is asked for, along `back`, falls with the distance to the side, from `travel` (a coordinate of the
    hand) far away to the goal's own within `tolerance` metres of the line through it: a funnel. A wrist that is not yet
    turned counts as distance. A hand below the funnel goes up first.
    """
    way = position - hand.position
    aside = way - (way @ back) * back
    distance = float(np.linalg.norm(aside)) + _PER_RADIAN * angle_between(hand.rotation, leaning(hand, rotation))
    goal = position @ back
    height = min(goal + _SLOPE * max(distance - tolerance, 0.0), max(travel, goal))
    missing = height - _SLACK - hand.position @ back
    freedom = float(np.clip(1 - missing / _BAND, 0.0, 1.0))
    return hand.position + freedom * aside + (height - hand.position @ back) * back


def leaning(hand: Hand, rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """The rotation for a hand that points down, tilted so that far from the foot of the arm the fingers reach out.

    A hand that points straight down at 0.78 m needs a straight elbow, out of which the controller does not find back.
    """
    way = hand.position[:2] - hand.foot
    reach = float(np.linalg.norm(way))
    angle = min(_LEAN * max(reach - _UPRIGHT, 0.0), _MAX_LEAN)
    if angle == 0 or rotation[2, 2] > _DOWN:
        return rotation
    x, y = way / reach
    axis = np.array([y, -x, 0.0])  # about which down turns to outwards
    half = angle / 2
    return quaternion_to_matrix(np.append(np.cos(half), np.sin(half) * axis)) @ rotation


def angle_between(one: Float[np.ndarray, "3 3"], other: Float[np.ndarray, "3 3"]) -> float:
    """Radians by which two rotations differ."""
    return float(np.arccos(np.clip((np.sum(one * other) - 1) / 2, -1, 1)))


def highest(
    points: Float[np.ndarray, "n 3"],
    start: Float[np.ndarray, " 2"],
    end: Float[np.ndarray, " 2"],
    radius: float,
    none: float = -np.inf,
) -> float:
    """Height of the highest point within `radius` metres, seen from above, of the line from `start` to `end`."""
    near = (points[:, :2] > np.minimum(start, end) - radius) & (points[:, :2] < np.maximum(start, end) + radius)
    points = points[near[:, 0] & near[:, 1]]
    line = end - start
    share = np.clip((points[:, :2] - start) @ line / max(float(line @ line), 1e-9), 0, 1)
    distance = points[:, :2] - start - share[:, None] * line
    heights = points[np.hypot(distance[:, 0], distance[:, 1]) < radius, 2]
    return float(heights.max()) if len(heights) else none


def _limited(vector: Vector, longest: float) -> Vector:
    length = float(np.linalg.norm(vector))
    return vector if length <= longest else vector * (longest / length)
