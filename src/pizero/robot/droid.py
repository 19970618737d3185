"""Panda arm of DROID, driven by joint velocities as openpi's policies do.

Source: openpi, src/openpi/policies/droid_policy.py and examples/droid/main.py; droid, robot_ik/robot_ik_solver.py.
"""

import numpy as np
from jaxtyping import Float

from pizero.embodiment import Embodiment

DROID = Embodiment(
    name="droid",
    cameras=("exterior_image_1_left", "wrist_image_left"),
    state=(*(f"joint_{i}" for i in range(1, 8)), "gripper_closedness"),
    actions=(*(f"joint_{i}_velocity_3_radians_per_second" for i in range(1, 8)), "gripper"),
    control_rate_hz=15.0,
    action_low=(-1.0,) * 7 + (0.0,),
    action_high=(1.0,) * 8,
    gripper_action="1 closes",
)
"""Joints in radians. A velocity of 1 moves a joint by 0.2 radians in a control step. The gripper is 0 open, 1 closed in
state and action. Of each stereo camera the policies know the left picture; one of the outer cameras is used."""

CLOSED_ABOVE = 0.5
"""A gripper action above it closes."""


def to_robot(actions: Float[np.ndarray, "*batch 8"]) -> Float[np.ndarray, "*batch 8"]:
    """What openpi's example sends to the arm: the gripper all open or all closed, velocities clipped to [-1, 1]."""
    actions = np.asarray(actions, np.float64)
    gripper = np.where(actions[..., 7:] > CLOSED_ABOVE, 1.0, 0.0)
    return np.concatenate([np.clip(actions[..., :7], -1, 1), gripper], -1)
