"""Google robot of the Fractal data: what SimplerEnv measures and accepts, and what open-pi-zero's policies learn from.

Source: open-pi-zero, src/agent/env_adapter/simpler.py (`EDRSimplerAdapter`) and doc/convention.md.
"""

import numpy as np
from jaxtyping import Float

from pizero.embodiment import Embodiment
from pizero.robot.rotation import euler_to_axis_angle, to_xyzw

FRACTAL = Embodiment(
    name="fractal",
    cameras=("image_primary",),
    state=(
        *("hand_x", "hand_y", "hand_z"),
        *("hand_quaternion_x", "hand_quaternion_y", "hand_quaternion_z", "hand_quaternion_w"),
        "gripper_closedness",
    ),
    actions=("hand_dx", "hand_dy", "hand_dz", "hand_droll", "hand_dpitch", "hand_dyaw", "gripper"),
    control_rate_hz=3.0,
    action_low=(),
    action_high=(),
    gripper_action="1 opens",
)
"""Metres and radians in the frame of the robot's base: x ahead, y left, z up. The state's gripper is 0 open, 1 closed;
the action's is 0 close, 1 open."""

STICKY_ABOVE = 0.5
"""A wish to open or close is held when it is stronger, on a scale where 1 is full."""
STICKY_STEPS = 15
"""Control steps for which it is held: 5 seconds. The same as Octo's."""


def proprioception(pose: Float[np.ndarray, "*batch 8"]) -> Float[np.ndarray, "*batch 8"]:
    """The state of `FRACTAL` from the simulator's pose: position, quaternion wxyz, openness of the gripper."""
    pose = np.asarray(pose, np.float64)
    return np.concatenate([pose[..., :3], to_xyzw(pose[..., 3:7]), 1 - pose[..., 7:]], -1)


class StickyGripper:
    """The gripper's command to SimplerEnv, which moves it by a share of its way at each step.

    So that it moves all the way, a clear wish is held for `STICKY_STEPS` steps, whatever the policy says meanwhile.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Hold nothing. Call it before an episode."""
        self.is_held = False
        self.num_held = 0
        """Steps for which the wish has been held."""
        self.held = 0.0
        """The command that is held; 0 when none is."""

    def step(self, action: float) -> float:
        """The command, -1 opens and 1 closes, for the policy's action, 0 close and 1 open. Call it once a step."""
        command = 1 - 2 * action
        if not self.is_held and abs(command) > STICKY_ABOVE:
            self.is_held, self.held = True, command
        if self.is_held:
            self.num_held += 1
            command = self.held
        if self.num_held == STICKY_STEPS:
            self.reset()
        return command


def to_simulator(actions: Float[np.ndarray, "t 7"], gripper: StickyGripper) -> Float[np.ndarray, "t 7"]:
    """What SimplerEnv takes for actions of `FRACTAL`: the shift, axis times angle, and -1 to open or 1 to close.

    `gripper` goes on from where it is: give every executed action to it once, in order.
    """
    actions = np.asarray(actions, np.float64)
    axis, angle = euler_to_axis_angle(actions[:, 3:6])
    commands = np.array([gripper.step(float(action)) for action in actions[:, 6]]).reshape(-1, 1)
    return np.concatenate([actions[:, :3], axis * angle[:, None], commands], -1)
