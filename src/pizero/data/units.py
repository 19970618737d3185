"""The units that are normalised: a robot's own, or those in which a checkpoint family wants joints and actions."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from jaxtyping import Float, Int

from pizero.data.choice import JointUnits
from pizero.embodiment import Embodiment
from pizero.robot import aloha

ALOHA_DIMS = len(aloha.ALOHA.actions)
"""Width of an ALOHA's state and of its actions."""


@dataclass(frozen=True)
class Units:
    """What happens to real units before they are normalised: joint units first, then actions relative to the state."""

    joint_units: JointUnits = "robot"
    """ "pi-aloha": state and actions pass openpi's ALOHA conversion (`robot.aloha`)."""
    delta: tuple[int, ...] = ()
    """Indices of the action dimensions that are given relative to the state dimension of the same index."""

    @classmethod
    def of(cls, robot: Embodiment, joint_units: JointUnits, delta_actions: Sequence[str]) -> "Units":
        """For one robot. Raises ValueError for a dimension or a conversion that the robot does not have."""
        check_joint_units(joint_units)
        if joint_units == "pi-aloha" and (len(robot.state), len(robot.actions)) != (ALOHA_DIMS, ALOHA_DIMS):
            raise ValueError(
                f"joint_units is 'pi-aloha', but {robot.name} has {len(robot.state)} state and {len(robot.actions)} "
                f"action dimensions; an ALOHA has {ALOHA_DIMS} of each"
            )
        check_names("delta action", delta_actions, robot.actions)
        for name in delta_actions:
            if robot.actions.index(name) >= len(robot.state):
                raise ValueError(
                    f"delta action {name!r} is dimension {robot.actions.index(name)}, the state of {robot.name} has "
                    f"only {len(robot.state)}: {robot.state}"
                )
        return cls(joint_units, tuple(robot.actions.index(name) for name in delta_actions))

    def state(self, state: Float[np.ndarray, "*b s"]) -> Float[np.ndarray, "*b s"]:
        """From the robot's units."""
        return aloha.state_to_pi(state) if self.joint_units == "pi-aloha" else state

    def absolute_actions(self, actions: Float[np.ndarray, "*b a"]) -> Float[np.ndarray, "*b a"]:
        """From the robot's units, before they are made relative to a state."""
        return aloha.actions_to_pi(actions) if self.joint_units == "pi-aloha" else actions

    def actions(
        self, actions: Float[np.ndarray, "*b t a"], state: Float[np.ndarray, "*b s"]
    ) -> Float[np.ndarray, "*b t a"]:
        """From the robot's units. `state`, in the robot's units too, is that of the instant the chunk starts at."""
        return self._shift(self.absolute_actions(actions), self.state(state), -1)

    def invert_actions(
        self, actions: Float[np.ndarray, "*b t a"], state: Float[np.ndarray, "*b s"]
    ) -> Float[np.ndarray, "*b t a"]:
        """Back to the robot's units: the inverse of `actions`."""
        absolute = self._shift(actions, self.state(state), 1)
        return aloha.actions_from_pi(absolute) if self.joint_units == "pi-aloha" else absolute

    def _shift(self, actions: np.ndarray, state: np.ndarray, sign: int) -> np.ndarray:
        if not self.delta:
            return actions
        dims: Int[np.ndarray, " d"] = np.array(self.delta)
        shifted = np.array(actions)
        shifted[..., dims] += sign * state[..., None, dims]
        return shifted


def check_joint_units(joint_units: str) -> None:
    """Raises ValueError for joint units that do not exist."""
    if joint_units not in get_args(JointUnits):
        raise ValueError(f"joint_units {joint_units!r} is unknown; choose one of {get_args(JointUnits)}")


def check_names(what: str, chosen: Sequence[str], names: Sequence[str]) -> None:
    """Raises ValueError for a chosen dimension that the robot does not have, with the nearest one."""
    for name in chosen:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1) or [", ".join(names) or "none"]
            raise ValueError(f"{what} {name!r} is unknown; nearest: {near[0]}; the robot has {tuple(names)}")
