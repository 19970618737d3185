"""Open a drawer: the skill behind the goal Open, and what comes first where something is to go into a closed drawer."""

import numpy as np
from jaxtyping import Float32

from pizero.sim.libero.expert_hand import closed, read_hand
from pizero.sim.libero.expert_motion import CLOSE, OPEN, UP, Vector, by_way_of, toward
from pizero.sim.libero.expert_shape import OBJECT_SPACING, body_shape
from pizero.sim.libero.world import World

_AT, _STILL_AT = 0.01, 0.02
"""Metres; hands this near to the handle close, and go on doing so."""
_HANDLE = 0.01
"""Metres; what reaches out farthest, to within this, is the handle. It is 16 mm thick (wooden_cabinet.xml)."""
_APPROACH = 0.1
"""Metres in front of the handle at which the hand has taken its height and has turned."""
_WITHDRAWN = 0.06
_LEAD = 0.08
"""Metres ahead of the handle that the hand pulls towards."""
_ENOUGH = 0.1
"""Metres that a drawer must be open to put something in."""


class Drawer:
    """A drawer as it is now."""

    def __init__(self, world: World, region: str) -> None:
        """region: the room in the drawer, as goals name it."""
        self._world = world
        model = world.sim.model
        self._joint = model.joint_name2id(world.env.object_sites_dict[region].joints[0])
        self._shape = body_shape(world, int(model.jnt_bodyid[self._joint]), OBJECT_SPACING)

    def width(self) -> float:
        """Metres that it is open."""
        model = self._world.sim.model
        return float(abs(self._world.sim.data.qpos[model.jnt_qposadr[self._joint]]))

    def out(self) -> Vector:
        """The direction in which it opens: towards the far end of the joint's range."""
        low, high = self._world.sim.model.jnt_range[self._joint]
        axis: Vector = self._world.sim.data.xaxis[self._joint].copy()
        return axis if high > -low else -axis

    def handle(self) -> Vector:
        """The middle of the handle."""
        points = self._shape.where(self._world)
        ahead = points @ self.out()
        bar = points[ahead > ahead.max() - _HANDLE]
        middle: Vector = (bar.min(0) + bar.max(0)) / 2
        return middle


class OpenDrawer:
    """Take hold of a handle from in front, with one finger above and one below, and pull."""

    def __init__(self, world: World, region: str, wide: bool = True) -> None:
        """wide: open it as far as the goal Open wants; else far enough to put something in."""
        self._world = world
        self._region = region
        self._wide = wide
        self._drawer = Drawer(world, region)

    def solved(self) -> bool:
        """Whether the drawer is open."""
        if self._wide:
            return self._world.holds(["open", self._region])
        return self._drawer.width() > _ENOUGH

    def done(self) -> bool:
        """Whether it is open and the hand off the handle."""
        hand, drawer = read_hand(self._world), self._drawer
        return bool(self.solved() and hand.is_open and (hand.position - drawer.handle()) @ drawer.out() > _WITHDRAWN)

    def action(self) -> Float32[np.ndarray, " 7"]:
        """What to do now."""
        hand = read_hand(self._world)
        out, handle = self._drawer.out(), self._drawer.handle()
        rotation = np.stack([-UP, np.cross(out, UP), -out], 1)
        if self.solved():
            away = handle + 1.4 * _WITHDRAWN * out
            return toward(hand, away if hand.is_open else hand.position, rotation, OPEN)
        if np.linalg.norm(handle - hand.position) < (_AT if hand.is_open else _STILL_AT):
            pull = _LEAD * out if closed(hand) else 0.0
            return toward(hand, handle + pull, rotation, CLOSE)
        goal = by_way_of(hand, handle, rotation, (handle + _APPROACH * out) @ out, _AT / 2, back=out)
        return toward(hand, goal, rotation, OPEN)
