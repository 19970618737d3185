"""WidowX of the Bridge data: what SimplerEnv measures and accepts, and what open-pi-zero's policies are trained on.

Source: open-pi-zero, src/agent/env_adapter/simpler.py (`BridgeSimplerAdapter`) and doc/convention.md.
"""

import numpy as np
from jaxtyping import Float

from pizero.embodiment import Embodiment
from pizero.robot.rotation import euler_to_axis_angle, matrix_to_euler, quaternion_to_matrix

BRIDGE = Embodiment(
    name="bridge",
    cameras=("image_primary",),
    state=("hand_x", "hand_y", "hand_z", "hand_roll", "hand_pitch", "hand_yaw", "gripper_openness"),
    actions=("hand_dx", "hand_dy", "hand_dz", "hand_droll", "hand_dpitch", "hand_dyaw", "gripper"),
    control_rate_hz=5.0,
    action_low=(),
    action_high=(),
    gripper_action="1 opens",
)
"""Metres and radians in the frame of the arm's base: x ahead, y left, z up. The hand's rotation is relative to
`TOP_DOWN`. State and action of the gripper: 0 closed, 1 open."""

TOP_DOWN = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
"""Rotation of a hand that looks straight down; the Bridge robot's controller gives poses relative to it
(rail-berkeley/bridge_data_robot, widowx_controller.py)."""

OPEN_ABOVE = 0.5
"""A gripper action above it opens."""


def proprioception(pose: Float[np.ndarray, "*batch 8"]) -> Float[np.ndarray, "*batch 7"]:
    """The state of `BRIDGE` from the simulator's pose: position, quaternion wxyz, openness of the gripper."""
    pose = np.asarray(pose, np.float64)
    euler = matrix_to_euler(quaternion_to_matrix(pose[..., 3:7]) @ TOP_DOWN.T)
    return np.concatenate([pose[..., :3], euler, pose[..., 7:]], -1)


def to_simulator(actions: Float[np.ndarray, "*batch 7"]) -> Float[np.ndarray, "*batch 7"]:
    """What SimplerEnv takes for actions of `BRIDGE`: the shift, axis times angle, and -1 to close or 1 to open."""
    actions = np.asarray(actions, np.float64)
    axis, angle = euler_to_axis_angle(actions[..., 3:6])
    gripper = np.where(actions[..., 6:] > OPEN_ABOVE, 1.0, -1.0)
    return np.concatenate([actions[..., :3], axis * angle[..., None], gripper], -1)
