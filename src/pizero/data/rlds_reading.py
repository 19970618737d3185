"""Which features of an RLDS data set are its cameras, prompt, state and actions, and how they are made alike."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from pizero.data.rlds_features import Feature
from pizero.data.rlds_gripper import absolute_gripper, binary_gripper, reached_movements
from pizero.embodiment import Embodiment
from pizero.robot.bridge import BRIDGE
from pizero.robot.fractal import FRACTAL

OBSERVATION = "observation/"
PROMPTS = ("language_instruction", "observation/natural_language_instruction", "observation/language_instruction")
STATES = ("observation/state", "observation/proprio")
ACTION = "action"
COLOURS = 3

Steps = Mapping[str, np.ndarray]
"""Feature name -> (n, width) float32, the steps of one episode."""


@dataclass(frozen=True)
class Reading:
    """How episodes of one data set are read."""

    cameras: Mapping[str, str]
    """Camera name -> feature."""
    prompt: str
    """The feature that holds the instruction."""
    numbers: Mapping[str, int]
    """Feature -> its width; what `convert` takes."""
    convert: Callable[[Steps], tuple[np.ndarray, np.ndarray]]
    """State (m, s) and actions (m, a), float32, of the first m steps of an episode; m may be below n."""
    robot: Embodiment | None
    """The robot, if it is known here."""


def bridge(features: Mapping[str, Feature]) -> Reading:
    """BridgeData V2 (`bridge_dataset`): actions are the movements that were reached, the gripper is 0 or 1.

    Source: open-pi-zero, src/data/oxe/oxe_standardization_transforms.py, `bridge_dataset_transform`.
    """

    def convert(steps: Steps) -> tuple[np.ndarray, np.ndarray]:
        return reached_movements(steps["observation/state"], binary_gripper(steps[ACTION][:, 6]))

    cameras = {"image_primary": "observation/image_0"}
    return Reading(cameras, "language_instruction", {"observation/state": 7, ACTION: 7}, convert, BRIDGE)


def fractal(features: Mapping[str, Feature]) -> Reading:
    """RT-1 (`fractal20220817_data`): the gripper's commands become its wanted openness.

    Source: open-pi-zero, src/data/oxe/oxe_standardization_transforms.py, `rt1_dataset_transform`.
    """
    pose, closed = "observation/base_pose_tool_reached", "observation/gripper_closed"
    move, turn, close = "action/world_vector", "action/rotation_delta", "action/gripper_closedness_action"

    def convert(steps: Steps) -> tuple[np.ndarray, np.ndarray]:
        gripper = absolute_gripper(steps[close][:, 0])
        state = np.concatenate([steps[pose], steps[closed]], 1)
        return state, np.concatenate([steps[move], steps[turn], gripper[:, None]], 1)

    numbers = {pose: 7, closed: 1, move: 3, turn: 3, close: 1}
    cameras = {"image_primary": "observation/image"}
    return Reading(cameras, "observation/natural_language_instruction", numbers, convert, FRACTAL)


def general(features: Mapping[str, Feature]) -> Reading:
    """Any other: every colour picture is a camera, actions are one vector, taken as they are.

    Raises ValueError that says what is missing, and what there is.
    """
    cameras = {
        name.removeprefix(OBSERVATION): name
        for name, feature in features.items()
        if feature.kind == "picture" and feature.dtype == "uint8" and feature.shape[-1:] == (COLOURS,)
    }
    if not cameras:
        raise ValueError(f"no feature of a step is a colour picture of bytes; there are {sorted(features)}")
    state, action = _one(features, "numbers", STATES, "state"), _one(features, "numbers", (ACTION,), "actions")

    def convert(steps: Steps) -> tuple[np.ndarray, np.ndarray]:
        return steps[state], steps[action]

    prompt = _one(features, "text", PROMPTS, "instruction")
    return Reading(cameras, prompt, {name: features[name].width for name in (state, action)}, convert, None)


def choose_reading(name: str, features: Mapping[str, Feature]) -> Reading:
    """How the data set of that name is read. Raises ValueError when it lacks a feature that this needs."""
    reading = READINGS.get(name, general)(features)
    for wanted, kind in (
        *((feature, "picture") for feature in reading.cameras.values()),
        *((feature, "numbers") for feature in reading.numbers),
        (reading.prompt, "text"),
    ):
        _one(features, kind, (wanted,), f"feature of {name}")
    for feature, width in reading.numbers.items():
        if features[feature].width != width or width < 1:
            raise ValueError(f"{feature!r} has shape {features[feature].shape}, expected {width} numbers")
    return reading


READINGS: Mapping[str, Callable[[Mapping[str, Feature]], Reading]] = {
    "bridge_dataset": bridge,
    "fractal20220817_data": fractal,
}
"""Data sets whose numbers are made alike; by the name in dataset_info.json."""


def _one(features: Mapping[str, Feature], kind: str, names: tuple[str, ...], what: str) -> str:
    for name in names:
        if name in features and features[name].kind == kind:
            return name
    same = sorted(name for name, feature in features.items() if feature.kind == kind)
    raise ValueError(f"no {what} {' or '.join(map(repr, names))} ({kind}) in a step; of this kind there are {same}")
