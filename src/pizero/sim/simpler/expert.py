"""A scripted expert for the Bridge tasks: grasp from above, carry over, put down, let go, withdraw.

Each call decides from where things are, with no memory: pushed off its path the hand comes back to it, and what was
missed or dropped is grasped again. Heights follow from distances (far from its goal the hand is high, close to it low),
so that the action changes little from a situation to a similar one.
"""

from dataclasses import dataclass
from math import pi

import numpy as np
from jaxtyping import Float, Float32

from pizero.robot.bridge import TOP_DOWN
from pizero.robot.rotation import (
    euler_to_matrix,
    matrix_to_euler,
    matrix_to_quaternion,
    quaternion_to_axis_angle,
    quaternion_to_matrix,
)
from pizero.sim.simpler.situation import Pose, Situation

STEP_METRES = 0.03
"""Longest shift in one step; within what the Bridge data has."""
STEP_RADIANS = 0.2
"""Largest turn in one step."""
OPEN = 0.8
"""Openness above which the gripper counts as open, clear of what it held."""
LEAST_WITHDRAWN = 0.05
"""Metres above what it has put down from where on the hand is out of the way."""
WITHDRAWN = 0.07
"""The same where it comes to rest."""
RELEASE_TOLERANCE = 0.008
"""Metres above the height of release at which it is let go."""
FINGER_REACH = 0.05
"""Metres from the middle of the open hand to the outside of a finger, which a turn moves."""
SLOPE = 2.0
"""How much the hand rises, or shall have risen, for each metre that is left to the side."""
CLOSE_WITHIN = (0.015, 0.015)
"""Metres to the side and in height from the grasp at which the gripper closes."""
STAY_CLOSED_WITHIN = (0.03, 0.02)
"""The same at which it goes on closing when it is no longer open."""
ON_COURSE = 0.008
"""Metres to the side from which on the way down to the grasp is free."""


@dataclass(frozen=True)
class Handling:
    """How to take and put one kind of thing. Lengths are in metres."""

    along: float
    """Where it is grasped: this far from its middle along its own x, its long axis. The gap between the fingers runs
    along x too."""
    turns: float
    """The thing is grasped as well when the hand is turned by this angle."""
    yaw: float
    """Of those turns the one nearest to this yaw of the hand is taken: the middle of what occurs."""
    lowest: float
    """Height below which the hand must not go, since the fingers would touch the ground."""
    hover: float
    """How far above the grasp the hand arrives."""
    carry: float
    """How far above the target the thing is carried."""
    release: float
    """Height of the thing above the target at which it is let go."""
    near: float
    """Distance to the side between the middles of thing and target at which it is let go."""


HANDLINGS = {
    "simpler/carrot-on-plate": Handling(
        along=0.0, turns=pi, yaw=pi / 4, lowest=0.015, hover=0.06, carry=0.09, release=0.035, near=0.015
    ),
    "simpler/spoon-on-towel": Handling(
        along=0.02, turns=pi, yaw=pi / 4, lowest=0.018, hover=0.06, carry=0.09, release=0.035, near=0.015
    ),
    "simpler/stack-cube": Handling(
        along=0.0, turns=pi / 2, yaw=0.0, lowest=0.015, hover=0.06, carry=0.09, release=0.034, near=0.01
    ),
    # in the sink: its ground is higher, and there is a wall to carry over
    "simpler/eggplant-in-basket": Handling(
        along=0.0, turns=pi, yaw=0.0, lowest=0.098, hover=0.08, carry=0.14, release=0.08, near=0.015
    ),
}


def action(situation: Situation, task: str) -> Float32[np.ndarray, "7"]:
    """What the expert does now, as an action of `BRIDGE`. When it is done: stand still with an open gripper."""
    if is_done(situation):
        return _action(np.zeros(3), np.eye(3), opened=True)
    if situation.success and not situation.held:
        return _withdraw(situation)
    if situation.held:
        return _carry(situation, HANDLINGS[task])
    return _approach(situation, HANDLINGS[task])


def is_done(situation: Situation) -> bool:
    """Whether the thing lies where it shall, let go and at rest, and the hand is at least 5 cm above it."""
    clear = bool(situation.hand.position[2] >= situation.source.position[2] + LEAST_WITHDRAWN)
    return situation.success and not situation.held and clear and situation.still and situation.openness > OPEN


def _withdraw(situation: Situation) -> Float32[np.ndarray, "7"]:
    """Open, and when open rise straight up."""
    rise = max(0.0, situation.source.position[2] + WITHDRAWN - situation.aim.position[2])
    return _action(np.array([0.0, 0.0, rise if situation.openness > OPEN else 0.0]), np.eye(3), opened=True)


def _carry(situation: Situation, how: Handling) -> Float32[np.ndarray, "7"]:
    """Up, over the target and down, as one slope; let go when the thing is low and near enough."""
    left = situation.target.position - situation.source.position
    away = float(np.hypot(left[0], left[1]))
    if away < how.near and -left[2] < how.release + RELEASE_TOLERANCE:
        return _action(np.zeros(3), np.eye(3), opened=True)
    shift = left - (situation.aim.position - situation.hand.position)  # the hand will follow its aim anyway
    away = max(away, float(np.hypot(shift[0], shift[1])))
    shift[2] += how.release + np.clip(SLOPE * (away - how.near / 2), 0, how.carry - how.release)
    shift[:2] *= _freedom(shift[2])
    return _action(shift, _level(situation, _yaw(situation.aim.rotation)), opened=False)


def _approach(situation: Situation, how: Handling) -> Float32[np.ndarray, "7"]:
    """Over the thing, down around it and close, as one slope."""
    thing = situation.source
    axis = thing.rotation[:, 0]
    grasp = thing.position + how.along * axis
    grasp[2] = max(grasp[2], how.lowest)
    yaw = np.arctan2(axis[1], axis[0])
    yaw -= how.turns * np.round((yaw - how.yaw) / how.turns)

    # the hand follows its aim with a delay, or is held up: what is farther off counts
    aside = max(_aside(pose, grasp, yaw) for pose in (situation.hand, situation.aim))
    depth = abs(situation.hand.position[2] - grasp[2])
    within = CLOSE_WITHIN if situation.openness > OPEN else STAY_CLOSED_WITHIN
    closing = aside < within[0] and depth < within[1]
    shift = grasp - situation.aim.position
    if not closing:
        shift[2] += np.clip(SLOPE * (aside - ON_COURSE), 0, how.hover)
        shift[:2] *= _freedom(shift[2])
    return _action(shift, _level(situation, yaw), opened=not closing)


def _aside(pose: Pose, grasp: Float[np.ndarray, "3"], yaw: float) -> float:
    """Metres to the side between a hand and where it shall grasp; a turn still to be made counts as well."""
    turn = (_yaw(pose.rotation) - yaw + pi) % (2 * pi) - pi
    return float(np.hypot(*(grasp - pose.position)[:2])) + FINGER_REACH * abs(turn)


def _freedom(rise: float) -> float:
    """Share of the shift to the side that is taken when the hand is too low by `rise`: it rises first."""
    return float(np.clip(1 - (rise - 0.01) / 0.03, 0, 1))


def _yaw(rotation: Float[np.ndarray, "3 3"]) -> float:
    """Of a hand that looks down."""
    return float(matrix_to_euler(rotation @ TOP_DOWN.T)[2])


def _level(situation: Situation, yaw: float) -> Float[np.ndarray, "3 3"]:
    """The turn that makes the hand look straight down with this yaw, at most `STEP_RADIANS` of it."""
    wanted = euler_to_matrix(np.array([0.0, 0.0, yaw])) @ TOP_DOWN
    axis, angle = quaternion_to_axis_angle(matrix_to_quaternion(wanted @ situation.aim.rotation.T))
    half = min(float(angle), STEP_RADIANS) / 2
    return quaternion_to_matrix(np.concatenate([[np.cos(half)], np.sin(half) * axis]))


def _action(shift: Float[np.ndarray, "3"], turn: Float[np.ndarray, "3 3"], opened: bool) -> Float32[np.ndarray, "7"]:
    shift = shift * min(1.0, STEP_METRES / max(float(np.linalg.norm(shift)), 1e-9))
    return np.concatenate([shift, matrix_to_euler(turn), [float(opened)]]).astype(np.float32)
