"""What the scripted expert knows of a scene, and SimplerEnv's rule for success reads: poses and touches."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Pose:
    """Where something is, in the frame of the robot's base: x ahead, y left, z up."""

    position: Float[np.ndarray, "3"]
    """Metres."""
    rotation: Float[np.ndarray, "3 3"]
    """Turns vectors of the thing's own frame into the base's."""


@dataclass(frozen=True)
class Situation:
    """One instant of a scene."""

    hand: Pose
    """Of the link `ee_gripper_link`: its x points out of the gripper, its y from finger to finger."""
    aim: Pose
    """Where the controller is moving the hand; an action shifts and turns it."""
    openness: float
    """Of the gripper: 0 closed, 1 open."""
    source: Pose
    """The thing to move."""
    target: Pose
    """The thing to put it on."""
    held: bool
    """Both fingers press on the source."""
    success: bool
    """SimplerEnv's rule is met."""
    still: bool
    """The source is at rest."""
