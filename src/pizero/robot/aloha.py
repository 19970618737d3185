"""Two ViperX arms of ALOHA, and the joint angles and gripper units in which pi0 was pretrained on them.

openpi calls the conversion `adapt_to_pi`. Two joints of each arm turn the other way. ALOHA measures how far apart the
fingers are, and commands the angle of the motor that moves them, each as a share of its range; pi0 takes the motor's
angle from 0.5476 radians on, in the state as a share of 1.082 radians, in actions in radians.

Source: openpi, src/openpi/policies/aloha_policy.py; the ranges are those of tonyzhaozh/act, constants.py, and the
linkage that of Interbotix' gripper.
"""

import numpy as np
from jaxtyping import Float

from pizero.embodiment import Embodiment

_ARM = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
JOINTS = tuple(f"{side}_{joint}" for side in ("left", "right") for joint in _ARM)
"""The twelve joints that have no gripper."""

ALOHA = Embodiment(
    name="aloha",
    cameras=("cam_high", "cam_left_wrist", "cam_right_wrist"),
    state=(*JOINTS[:6], "left_gripper_distance", *JOINTS[6:], "right_gripper_distance"),
    actions=(*JOINTS[:6], "left_gripper_angle", *JOINTS[6:], "right_gripper_angle"),
    control_rate_hz=50.0,
    action_low=(),
    action_high=(),
    gripper_action="1 opens",
)
"""Joints in radians; their targets are actions. Grippers are 0 closed, 1 open: in the state the distance of the
fingers, in actions the angle of the motor, as shares of their ranges."""

SIGNS = np.array([1, -1, -1, 1, 1, 1, 1] * 2, np.float64)
"""Shoulder and elbow turn the other way in pi0's angles."""
GRIPPERS = (6, 13)
"""Their places in state and actions."""
DISTANCE = (0.01844, 0.05800)
"""Metres of a finger from the middle, closed and open (PUPPET_GRIPPER_POSITION_CLOSE, _OPEN)."""
ANGLE = (-0.6213, 1.4910)
"""Radians of the gripper's motor, closed and open (PUPPET_GRIPPER_JOINT_CLOSE, _OPEN)."""
PI_ANGLE = (0.5476, 1.6296)
"""Radians that are 0 and 1 to pi0: counts 2405 and 3110 of an encoder with 4096 counts a turn and its zero at 2048."""
ARM_LENGTH, HORN_RADIUS = 0.036, 0.022
"""Metres of the gripper's rod and of the motor's horn, which move a finger on a straight line."""


def state_to_pi(state: Float[np.ndarray, "*batch 14"]) -> Float[np.ndarray, "*batch 14"]:
    """pi0's state, float64, from that of `ALOHA`. openpi has no way back; beyond open there is none."""
    distance = _spread(_grippers(state), DISTANCE)
    cosine = (HORN_RADIUS**2 + distance**2 - ARM_LENGTH**2) / (2 * HORN_RADIUS * distance)
    angle = np.arcsin(np.clip(cosine, -1, 1))
    return _with_grippers(state, (angle - PI_ANGLE[0]) / (PI_ANGLE[1] - PI_ANGLE[0]))


def actions_from_pi(actions: Float[np.ndarray, "*batch 14"]) -> Float[np.ndarray, "*batch 14"]:
    """Actions of `ALOHA`, float64, from pi0's, which must be absolute."""
    angle = _grippers(actions) + PI_ANGLE[0]
    return _with_grippers(actions, (angle - ANGLE[0]) / (ANGLE[1] - ANGLE[0]))


def actions_to_pi(actions: Float[np.ndarray, "*batch 14"]) -> Float[np.ndarray, "*batch 14"]:
    """pi0's actions, float64, from those of `ALOHA`: the exact inverse of `actions_from_pi`."""
    return _with_grippers(actions, _spread(_grippers(actions), ANGLE) - PI_ANGLE[0])


def _grippers(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float64)[..., GRIPPERS]


def _spread(share: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    return share * (ends[1] - ends[0]) + ends[0]


def _with_grippers(values: np.ndarray, grippers: np.ndarray) -> np.ndarray:
    """Joints turned round, and the grippers replaced."""
    turned = np.asarray(values, np.float64) * SIGNS
    turned[..., GRIPPERS] = grippers
    return turned
