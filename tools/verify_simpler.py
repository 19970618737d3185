"""What we return for the golden case `data/simpler_env_adapter`: both robots' conversions, normalised and not.

`Normalizer` does the states; open-pi-zero inverts without the epsilon that it
adds on the way in, and does not clip there, so the inverses are written out.
"""

from collections.abc import Mapping

import numpy as np

from pizero.data.normalize import Normalizer
from pizero.data.stats import Stats
from pizero.embodiment import Embodiment
from pizero.robot import bridge, fractal
from pizero.robot.bridge import BRIDGE
from pizero.robot.fractal import FRACTAL, StickyGripper
from pizero.robot.rotation import (
    euler_to_axis_angle,
    euler_to_quaternion,
    matrix_to_euler,
    quaternion_to_matrix,
)

EPS = 1e-8
"""open-pi-zero, src/agent/env_adapter/base.py."""
RESET_BEFORE = 70
"""The step of the gripper's sequence before which the case resets the adapter."""


def outputs(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every array of `expected.npz` by its name, from the arrays of `inputs.npz`."""
    axis, angle = euler_to_axis_angle(inputs["euler"])
    matrices = quaternion_to_matrix(inputs["eef_pos"][:, 3:7])
    rotations = {
        "euler_axis": axis,
        "euler_angle": angle,
        "euler_quat": euler_to_quaternion(inputs["euler"]),
        "quat_matrix": matrices,
        "quat_euler": matrix_to_euler(matrices),
    }
    return rotations | _bridge(inputs) | _fractal(inputs) | _gripper(inputs["gripper_sequence"])


def _bridge(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    bound, gaussian = _from_bounds(inputs, "bridge"), _from_gaussian(inputs, "bridge")
    return _states(inputs, BRIDGE, bridge.proprioception(inputs["eef_pos"])) | {
        "bridge_denormalized": bound,
        "bridge_env_actions": bridge.to_simulator(bound),
        "bridge_env_actions_gaussian": bridge.to_simulator(gaussian),
    }


def _fractal(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    bound, gaussian = _from_bounds(inputs, "fractal"), _from_gaussian(inputs, "fractal")
    return _states(inputs, FRACTAL, fractal.proprioception(inputs["eef_pos"])) | {
        "fractal_denormalized": bound,
        "fractal_env_actions": fractal.to_simulator(bound, StickyGripper()),
        "fractal_env_actions_gaussian": fractal.to_simulator(gaussian, StickyGripper()),
    }


def _gripper(sequence: np.ndarray) -> dict[str, np.ndarray]:
    gripper, commands, states = StickyGripper(), [], []
    for step, action in enumerate(sequence):
        if step == RESET_BEFORE:
            gripper.reset()
        commands.append(gripper.step(float(action)))
        states.append((float(gripper.is_held), float(gripper.num_held), gripper.held))
    return {"fractal_gripper": np.array(commands), "fractal_gripper_state": np.array(states)}


def _states(inputs: Mapping[str, np.ndarray], robot: Embodiment, raw: np.ndarray) -> dict[str, np.ndarray]:
    low, high, mean, std = (inputs[f"{robot.name}_proprio_{key}"] for key in ("p01", "p99", "mean", "std"))
    stats = Stats(mean=mean, std=std, min=low, max=high, q01=low, q99=high, count=1)
    return {
        f"{robot.name}_proprio_raw": raw,
        f"{robot.name}_proprio": Normalizer("bounds", stats, robot.state).normalize(raw),
        f"{robot.name}_proprio_gaussian": (raw - mean) / (std + EPS),
    }


def _from_bounds(inputs: Mapping[str, np.ndarray], robot: str) -> np.ndarray:
    low, high = inputs[f"{robot}_action_p01"], inputs[f"{robot}_action_p99"]
    share = (inputs["actions"] + 1) / 2  # in the float32 of the actions, as the reference
    return _keep_gripper(inputs["actions"], share * (high - low) + low)


def _from_gaussian(inputs: Mapping[str, np.ndarray], robot: str) -> np.ndarray:
    mean, std = inputs[f"{robot}_action_mean"], inputs[f"{robot}_action_std"]
    return _keep_gripper(inputs["actions"], np.float64(inputs["actions"]) * std + mean)


def _keep_gripper(actions: np.ndarray, real: np.ndarray) -> np.ndarray:
    return np.concatenate([real[:, :-1], np.float64(actions[:, -1:])], -1)
