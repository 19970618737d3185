"""The Panda hand as the experts see it: where it is, how far it is open, what it touches, and how much room it takes.

Its frame is that of robosuite's grip site: z out of the palm, x from one finger to the other. Lengths are read off
robosuite's model of the gripper (models/assets/grippers/panda_gripper.xml), in metres.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pizero.sim.libero.world import World

TIP = 0.011
"""How far the fingers reach beyond the grip site."""
PALM = 0.031
"""How far the palm lies behind the grip site; nothing that is grasped can be taller than this between the fingers."""
MAX_OPENING = 0.077
"""Gap between the open fingers."""
FINGER_HALF_WIDTH = 0.011
FINGER_THICKNESS = 0.027
PALM_HALF_LENGTH = 0.105
"""Along x, in which the hand is longest."""
PALM_HALF_WIDTH = 0.034
RISING = 0.25
"""How far up the hand and the wrist behind it go on, which descend upon what is grasped."""
OPEN = 0.065
"""A gap from which on the gripper counts as open."""
RESTING = 0.03
"""Metres per second; fingers slower than this have come to rest."""

_FINGERS = (
    *("gripper0_leftfinger", "gripper0_finger_joint1_tip"),
    *("gripper0_rightfinger", "gripper0_finger_joint2_tip"),
)
"""Bodies of the left finger and its pad, and of the right ones."""

REST = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
"""Rotation of a hand that points straight down, unturned as at the start of an episode: x is the world's y."""


@dataclass(frozen=True)
class Hand:
    """The hand at one moment."""

    position: Float[np.ndarray, " 3"]
    """Of the grip site in the world, metres."""
    rotation: Float[np.ndarray, "3 3"]
    """Columns are the axes of its frame in the world."""
    gap: float
    """Metres between the fingers; 0 is closed."""
    closing_speed: float
    """Metres per second at which the gap falls."""
    foot: Float[np.ndarray, " 2"]
    """Where the arm stands, horizontally."""

    @property
    def is_open(self) -> bool:
        """Whether the fingers are (nearly) as far apart as they can be."""
        return self.gap > OPEN


def read_hand(world: World) -> Hand:
    """The hand as it is now."""
    position, rotation = world.hand_pose()
    fingers = world.fingers()
    speeds = world.sim.data.qvel[world.env.robots[0]._ref_gripper_joint_vel_indexes]
    return Hand(position, rotation, float(fingers[0] - fingers[1]), float(speeds[1] - speeds[0]), arm_foot(world))


def arm_foot(world: World) -> Float[np.ndarray, " 2"]:
    """Where the arm stands, horizontally."""
    foot: Float[np.ndarray, " 2"] = world.sim.data.get_body_xpos("robot0_base")[:2].copy()
    return foot


def closed(hand: Hand) -> bool:
    """Whether the fingers have moved together and come to rest, on something or on each other."""
    return not hand.is_open and abs(hand.closing_speed) < RESTING


def touching_fingers(world: World, name: str) -> int:
    """How many of the two fingers touch the object `name`: 0, 1 or 2. Two hold it."""
    model, data = world.sim.model, world.sim.data
    body = world.env.obj_body_id[name]
    fingers = [world.sim.model.body_name2id(name) for name in _FINGERS]
    pairs = model.geom_bodyid[data._data.contact.geom]
    pairs = pairs[(pairs == body).any(1)]
    return sum(bool(np.isin(pairs, [finger, pad]).any()) for finger, pad in (fingers[:2], fingers[2:]))
