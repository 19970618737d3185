"""Turn a knob: the skill behind the goal Turnon."""

import numpy as np
from jaxtyping import Float32

from pizero.sim.libero.expert_grasp import Grasp, find_grasps, turned, upright_turn
from pizero.sim.libero.expert_hand import arm_foot, closed, read_hand
from pizero.sim.libero.expert_motion import CLOSE, OPEN, UP, by_way_of, toward
from pizero.sim.libero.expert_shape import OBJECT_SPACING, OBSTACLE_SPACING, body_shape, shape_of
from pizero.sim.libero.world import World

_AT, _STILL_AT = 0.012, 0.03
"""Metres; hands this near to their grasp close, and go on doing so."""
_LEAD = 0.6
"""Radians by which the hand's goal is ahead of the knob."""
_TRAVEL = 0.1
"""Metres above the knob at which the hand comes along."""


class TurnKnob:
    """Take hold of a knob from above and turn it the way its joint goes."""

    def __init__(self, world: World, fixture: str) -> None:
        self._world = world
        self._goal = ["turnon", fixture]
        model = world.sim.model
        self._joint = model.joint_name2id(world.env.fixtures_dict[fixture].joints[0])
        self._body = int(model.jnt_bodyid[self._joint])
        self._shape = body_shape(world, self._body, OBJECT_SPACING)
        self._others = [shape_of(world, name, OBSTACLE_SPACING) for name in world.env.obj_body_id if name != fixture]
        self._grasp: Grasp | None = None

    def solved(self) -> bool:
        """Whether the goal's predicate holds."""
        return self._world.holds(self._goal)

    def done(self) -> bool:
        """Whether it holds and the hand is open and above the knob."""
        hand = read_hand(self._world)
        top = self._shape.where(self._world)[:, 2].max()
        return bool(self.solved() and hand.is_open and hand.position[2] > top + _TRAVEL / 2)

    def action(self) -> Float32[np.ndarray, " 7"]:
        """What to do now."""
        data = self._world.sim.data
        hand = read_hand(self._world)
        origin, axes = data.body_xpos[self._body], data.body_xmat[self._body].reshape(3, 3)
        grasp = self._choose()
        place = origin + axes @ grasp.position
        turn = upright_turn(axes @ grasp.rotation)
        near = np.linalg.norm(place - hand.position)
        if self.solved():
            up = place + 1.2 * _TRAVEL * UP
            return toward(hand, up if hand.is_open else hand.position, hand.rotation, OPEN)
        if near < (_AT if hand.is_open else _STILL_AT):
            ahead = turn + (_LEAD if closed(hand) else 0.0)
            return toward(hand, place, turned(ahead), CLOSE)
        rotation = turned(turn)
        goal = by_way_of(hand, place, rotation, place[2] + _TRAVEL, _AT / 2)
        return toward(hand, goal, rotation, OPEN)

    def _choose(self) -> Grasp:
        if self._grasp is None:
            data = self._world.sim.data
            others = np.concatenate([other.where(self._world) for other in self._others])
            axes = data.body_xmat[self._body].reshape(3, 3)
            feet = arm_foot(self._world)[None]
            points = self._shape.where(self._world)
            self._grasp = next(find_grasps(points, others, data.body_xpos[self._body], axes, feet), None)
        assert self._grasp is not None, "there is no way to take hold of the knob"
        return self._grasp
