"""Panda arm of LIBERO: what the simulator measures and accepts, and what openpi's policies are trained on.

Source: openpi, examples/libero/main.py and src/openpi/policies/libero_policy.py; robosuite's controller OSC_POSE
(controllers/config/osc_pose.json).
"""

import numpy as np
from jaxtyping import Float, UInt8

from pizero.embodiment import Embodiment
from pizero.robot.rotation import quaternion_to_axis_angle, to_wxyz

LIBERO = Embodiment(
    name="libero",
    cameras=("image", "wrist_image"),
    state=(
        *("hand_x", "hand_y", "hand_z"),
        *("hand_axis_angle_x", "hand_axis_angle_y", "hand_axis_angle_z"),
        *("finger_left", "finger_right"),
    ),
    actions=(
        *("hand_dx_5_centimetres", "hand_dy_5_centimetres", "hand_dz_5_centimetres"),
        *("hand_turn_x_half_radians", "hand_turn_y_half_radians", "hand_turn_z_half_radians"),
        "gripper",
    ),
    control_rate_hz=20.0,
    action_low=(-1.0,) * 7,
    action_high=(1.0,) * 7,
    gripper_action="1 closes",
)
"""Metres and radians in the frame of the world. `finger_*` are positions of the finger joints in metres, of opposite
sign. Actions are shares of what the controller moves in one step, at most 5 cm and 0.5 radians (axis times angle); the
gripper's is -1 open, 1 close. Cameras are the simulator's `agentview` and `robot0_eye_in_hand`, turned upright."""

IDLE_STEPS = 10
"""Steps at the start of an episode in which objects fall into place; the action is `IDLE`."""
IDLE = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
"""Stand still with the gripper open."""


def proprioception(
    position: Float[np.ndarray, "*batch 3"],
    quaternion_xyzw: Float[np.ndarray, "*batch 4"],
    fingers: Float[np.ndarray, "*batch 2"],
) -> Float[np.ndarray, "*batch 8"]:
    """The state of `LIBERO` from robosuite's `robot0_eef_pos`, `robot0_eef_quat` and `robot0_gripper_qpos`."""
    axis, angle = quaternion_to_axis_angle(to_wxyz(quaternion_xyzw))
    return np.concatenate([position, axis * angle[..., None], fingers], -1)


def upright(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """A camera's picture as policies are trained on it: turned by 180 degrees, since robosuite gives it upside down."""
    return np.ascontiguousarray(image[::-1, ::-1])
