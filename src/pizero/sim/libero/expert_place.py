"""Pick a thing up and put it somewhere: the skill behind the goals On and In.

It keeps no clock. Where thing and hand are decides what to do: come down on the thing, close the fingers, carry it over
the target, lower it, let go, withdraw. What was missed or dropped is therefore approached again.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from pizero.sim.libero import expert_hand
from pizero.sim.libero.expert_grasp import Grasp, find_grasps, turned, upright_turn
from pizero.sim.libero.expert_hand import Hand, closed, read_hand, touching_fingers
from pizero.sim.libero.expert_motion import CLOSE, OPEN, by_way_of, highest, toward
from pizero.sim.libero.expert_shape import OBJECT_SPACING, OBSTACLE_SPACING, shape_of
from pizero.sim.libero.world import World

CLEARANCE = 0.02
"""Metres between what is carried, or the finger tips, and what is passed over."""
DROP = 0.006
"""Metres above its support at which a thing is let go."""

_AT = 0.012
"""Metres; a hand this near to its grasp closes."""
_STILL_AT = 0.025
"""A hand whose fingers are closing already goes on while it is this near."""
_EMPTY = 0.004
"""Metres; a smaller gap has nothing between the fingers. Of a thin wall MuJoCo reports contact with one finger only."""
_FALLING = 0.05
"""Metres per second; a thing that moves faster has not come to rest."""
_OVER, _STILL_OVER = 0.01, 0.025
"""Metres between thing and target, horizontally, at which it is let go; the second once the fingers have loosened."""
_LOW, _STILL_LOW = 0.01, 0.03
"""Metres above its place at which it is let go, likewise."""
_IN_HAND = 0.05
"""Metres; a hand this near to its grasp has the thing between its fingers."""
_LOOSE, _FREE = 0.008, 0.02
"""Metres by which the gap exceeds what is held: fingers that let go, and fingers that have let go."""
_SUPPORT_RADIUS = 0.03
"""What lies within this many metres of the target's middle carries the thing."""
_WITHDRAWN = 0.05
"""Metres above the thing at which the hand is out of its way."""


@dataclass(frozen=True)
class _Scene:
    """Everything that one decision looks at."""

    hand: Hand
    thing: Float[np.ndarray, "n 3"]
    others: Float[np.ndarray, "m 3"]
    position: Float[np.ndarray, " 3"]
    axes: Float[np.ndarray, "3 3"]
    target: Float[np.ndarray, " 3"]
    fingers: int
    speed: float

    @property
    def way(self) -> Float[np.ndarray, " 2"]:
        """From the thing to the target, horizontally."""
        return (self.target - self.position)[:2]

    @property
    def over(self) -> float:
        return float(np.linalg.norm(self.way))

    @property
    def below(self) -> float:
        """How far the thing reaches below the grip site."""
        return float(self.hand.position[2] - self.thing[:, 2].min())


class Place:
    """Bring one thing to one place."""

    def __init__(self, world: World, goal: list[str], aside: float = 0.0) -> None:
        """goal: On or In, the thing and the target. aside: metres along the world's y off the target's middle, for a
        target that several things share."""
        self._world = world
        self._goal = goal
        self._aside = np.array([0.0, aside, 0.0])
        _, self._name, self._target = goal
        self._shape = shape_of(world, self._name, OBJECT_SPACING)
        others = [name for name in world.env.obj_body_id if name != self._name]
        self._others = [shape_of(world, name, OBSTACLE_SPACING) for name in others]
        self._grasps: Iterator[Grasp] = iter(())
        self._grasp: Grasp | None = None
        self._turn = expert_hand.REST

    def solved(self) -> bool:
        """Whether the goal's predicate holds."""
        return self._world.holds(self._goal)

    def done(self) -> bool:
        """Whether it holds and the hand is open and out of the way."""
        if not self.solved():
            return False
        hand = read_hand(self._world)
        return bool(hand.is_open and hand.position[2] >= self._shape.where(self._world)[:, 2].max() + _WITHDRAWN)

    def action(self) -> Float32[np.ndarray, " 7"]:
        """What to do now."""
        scene = self._scene()
        grasp = self._choose(scene)
        if grasp is None:
            return self._withdraw(scene)
        hand = scene.hand
        place = scene.position + scene.axes @ grasp.at(hand.gap)
        if not scene.fingers:  # what is held turns with the hand; following it would never end
            self._turn = turned(upright_turn(scene.axes @ grasp.rotation))
        release = np.append(hand.position[:2] + scene.way, self._release_height(scene))
        in_hand = bool(np.linalg.norm(place - hand.position) < _IN_HAND)
        letting_go = in_hand and _may_let_go(scene, grasp, release[2])
        if letting_go and hand.gap < grasp.width + _FREE and not hand.is_open:
            return toward(hand, release, self._turn, OPEN)
        falling = scene.over < _STILL_OVER and not scene.fingers and scene.speed > _FALLING
        if letting_go or falling or self.solved():
            return self._withdraw(scene)
        between = scene.fingers == 2 or (scene.fingers == 1 and hand.gap > _EMPTY and in_hand)
        if between and closed(hand):
            goal = by_way_of(hand, release, self._turn, self._carry_height(scene), _OVER / 2)
            return toward(hand, goal, self._turn, CLOSE)
        return self._take(scene, place)

    def _take(self, scene: _Scene, place: Float[np.ndarray, " 3"]) -> Float32[np.ndarray, " 7"]:
        """Come down on the thing and close the fingers around it."""
        hand, turn = scene.hand, self._turn
        if np.linalg.norm(place - hand.position) < (_AT if hand.is_open else _STILL_AT):
            if closed(hand):  # on nothing
                self._grasp = None
            return toward(hand, place, turn, CLOSE)
        everything = np.concatenate([scene.others, scene.thing])
        travel = _hand_height(everything, hand, place[:2])
        goal = by_way_of(hand, place, turn, travel, _AT / 2)
        if not hand.is_open:
            goal[2] = max(goal[2], hand.position[2])
        return toward(hand, goal, turn, OPEN)

    def _withdraw(self, scene: _Scene) -> Float32[np.ndarray, " 7"]:
        """Go up, the gripper open, and stand still there."""
        hand = scene.hand
        goal = hand.position.copy()
        goal[2] = max(goal[2], scene.thing[:, 2].max() + 1.4 * _WITHDRAWN)
        if scene.fingers and not hand.is_open:
            goal[2] = hand.position[2]
        return toward(hand, goal, hand.rotation, OPEN)

    def _carry_height(self, scene: _Scene) -> float:
        """Height of the hand at which what it carries passes over all that is on the way."""
        radius = float(np.linalg.norm((scene.thing - scene.position)[:, :2], axis=1).max())
        below = highest(scene.others, scene.position[:2], scene.target[:2], radius + CLEARANCE)
        by_hand = _hand_height(scene.others, scene.hand, scene.hand.position[:2] + scene.way)
        return max(below + scene.below + CLEARANCE, by_hand)

    def _release_height(self, scene: _Scene) -> float:
        """Height of the hand at which to let go: the thing just above its support, the hand in nothing's way."""
        support = highest(scene.others, scene.target[:2], scene.target[:2], _SUPPORT_RADIUS, none=scene.target[2])
        hand = scene.hand
        offset = scene.others[:, :2] - hand.position[:2] - scene.way
        near = np.abs(offset[:, 0]) + np.abs(offset[:, 1]) < 0.2
        others = scene.others[near]
        local = np.abs(offset[near] @ hand.rotation[:2, :2])
        palm = (local[:, 0] < expert_hand.PALM_HALF_LENGTH) & (local[:, 1] < expert_hand.PALM_HALF_WIDTH)
        reach = hand.gap / 2 + expert_hand.FINGER_THICKNESS
        finger = (local[:, 0] < reach) & (local[:, 0] > hand.gap / 2)
        finger &= local[:, 1] < expert_hand.FINGER_HALF_WIDTH + 0.004
        heights = [support + DROP + scene.below]
        heights += [others[palm, 2].max() - expert_hand.PALM + 0.006] if palm.any() else []
        heights += [others[finger, 2].max() + expert_hand.TIP + 0.006] if finger.any() else []
        return float(max(heights))

    def _choose(self, scene: _Scene) -> Grasp | None:
        """The grasp kept so far; another one when it failed or the thing has tipped over. None: there is no way to take
        hold of the thing as it lies."""
        if self._grasp is not None and (scene.axes @ self._grasp.rotation)[2, 2] > -0.9 and scene.fingers == 0:
            self._grasp, self._grasps = None, iter(())
        if self._grasp is None:
            self._grasp = next(self._grasps, None)
        if self._grasp is None:
            feet = np.stack([scene.hand.foot, scene.hand.foot - scene.way])
            self._grasps = find_grasps(scene.thing, scene.others, scene.position, scene.axes, feet)
            self._grasp = next(self._grasps, None)
        return self._grasp

    def _scene(self) -> _Scene:
        world = self._world
        position, axes = world.pose(self._name)
        body = world.env.obj_body_id[self._name]
        return _Scene(
            hand=read_hand(world),
            thing=self._shape.where(world),
            others=np.concatenate([other.where(world) for other in self._others]),
            position=position,
            axes=axes,
            target=world.pose(self._target)[0] + self._aside,
            fingers=touching_fingers(world, self._name),
            speed=float(np.linalg.norm(world.sim.data.cvel[body, 3:])),
        )


def _may_let_go(scene: _Scene, grasp: Grasp, height: float) -> bool:
    """Whether the thing is over its target and low enough; a bit of the way is allowed to fingers that loosen."""
    hand = scene.hand
    if hand.gap > grasp.width + _LOOSE:
        return bool(scene.over < _STILL_OVER and hand.position[2] < height + _STILL_LOW)
    return bool(scene.over < _OVER and hand.position[2] < height + _LOW)


def _hand_height(points: Float[np.ndarray, "n 3"], hand: Hand, end: Float[np.ndarray, " 2"]) -> float:
    """Height of the hand at which fingers and palm pass over the points on the way to `end`."""
    start = hand.position[:2]
    tips = highest(points, start, end, 0.07) + expert_hand.TIP
    palm = highest(points, start, end, 0.12) - expert_hand.PALM
    return max(tips, palm) + CLEARANCE
