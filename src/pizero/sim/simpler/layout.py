"""Where things lie when an episode starts: SimplerEnv's prescribed states, and drawn ones that are never these."""

import itertools
from dataclasses import dataclass
from math import pi, radians

import numpy as np

Point = tuple[float, float]
"""x and y in the frame of the world, in metres. The robot stands at about (0.14, 0.04) and looks along -x."""

SAME_METRES = 0.002
SAME_RADIANS = radians(2)
"""A layout counts as prescribed when both objects are this close to where a prescribed one has them."""


@dataclass(frozen=True)
class Layout:
    """One initial state: where the objects are let fall, before they settle."""

    source: Point
    source_yaw: float
    """Turn about the vertical, in radians."""
    target: Point
    target_yaw: float = 0.0

    def is_close_to(self, other: "Layout") -> bool:
        """Whether both objects are within `SAME_METRES` and `SAME_RADIANS`."""
        return (
            _distance(self.source, other.source) <= SAME_METRES
            and _distance(self.target, other.target) <= SAME_METRES
            and _angle(self.source_yaw, other.source_yaw) <= SAME_RADIANS
            and _angle(self.target_yaw, other.target_yaw) <= SAME_RADIANS
        )


@dataclass(frozen=True)
class Region:
    """Layouts from which a seed draws uniformly."""

    source_low: Point
    source_high: Point
    source_yaw: tuple[float, float]
    """Least and largest."""
    target_low: Point
    target_high: Point
    target_yaw: tuple[float, float]
    least_distance: float
    """Metres between the objects, so that they neither touch nor block the gripper."""

    def draw(self, generator: np.random.Generator) -> Layout:
        """A layout whose objects are far enough apart."""
        while True:
            low = (*self.source_low, *self.target_low, self.source_yaw[0], self.target_yaw[0])
            high = (*self.source_high, *self.target_high, self.source_yaw[1], self.target_yaw[1])
            x, y, target_x, target_y, yaw, target_yaw = generator.uniform(low, high).tolist()
            layout = Layout((x, y), yaw, (target_x, target_y), target_yaw)
            if _distance(layout.source, layout.target) >= self.least_distance:
                return layout


def prescribed(task: str, state: int) -> Layout:
    """SimplerEnv's episode `state` (its `episode_id`) of a task.

    Source: ManiSkill2_real2sim, envs/custom_scenes/put_on_in_scene.py. The order of places and of turns is its own.
    """
    return _PRESCRIBED[task][state]


def draw(task: str, seed: int) -> Layout:
    """The initial state that `seed` names: uniform over the task's region, and none of the prescribed ones."""
    generator = np.random.default_rng(seed)
    while True:
        layout = REGIONS[task].draw(generator)
        if not any(layout.is_close_to(other) for other in _PRESCRIBED[task]):
            return layout


_CENTRE = (-0.16, 0.0)
_MARGIN = 0.02
"""Metres by which drawn layouts reach beyond the prescribed ones."""
_TURN = radians(20)
"""The same for the source's turn."""
_TARGET_TURN = radians(10)
"""The target lies straight in all prescribed layouts."""


def _square(half_edge: float) -> list[Point]:
    return [
        (_CENTRE[0] + x * half_edge, _CENTRE[1] + y * half_edge) for x, y in itertools.product((-1.0, 1.0), repeat=2)
    ]


def _pairs(half_edge: float) -> list[tuple[Point, Point]]:
    return list(itertools.permutations(_square(half_edge), 2))


def _layouts(places: list[tuple[Point, Point]], yaws: tuple[float, ...]) -> tuple[Layout, ...]:
    return tuple(Layout(source, yaw, target) for source, target in places for yaw in yaws)


_BASKET = (-0.125, 0.025)
_SINK = [(x, y) for x in (-0.115, -0.095) for y in (0.191, 0.201, 0.211, 0.221)]

_PRESCRIBED = {
    "simpler/carrot-on-plate": _layouts(_pairs(0.075), (pi, -pi / 2)),
    "simpler/spoon-on-towel": _layouts(_pairs(0.075), (0.0, pi / 2)),
    "simpler/stack-cube": _layouts(_pairs(0.05) + _pairs(0.1), (0.0,)),
    "simpler/eggplant-in-basket": _layouts([(place, _BASKET) for place in _SINK], (0.0, pi / 4, -pi / 4)),
}


def _table(half_edge: float, yaw: tuple[float, float], target_turn: float, least_distance: float) -> Region:
    low, high = _square(half_edge + _MARGIN)[0], _square(half_edge + _MARGIN)[-1]
    return Region(low, high, (yaw[0] - _TURN, yaw[1] + _TURN), low, high, (-target_turn, target_turn), least_distance)


REGIONS = {
    # half the carrot's length is 5.8 cm, the plate's radius 5.5 cm; it is round
    "simpler/carrot-on-plate": _table(0.075, (-pi, -pi / 2), 0.0, 0.12),
    # half the spoon's length is 7 cm, half the towel's diagonal as well
    "simpler/spoon-on-towel": _table(0.075, (0.0, pi / 2), _TARGET_TURN, 0.14),
    # cubes of 3 cm; the open fingers need 5 cm to the side
    "simpler/stack-cube": _table(0.1, (0.0, 0.0), _TARGET_TURN, 0.075),
    "simpler/eggplant-in-basket": Region(
        (_SINK[0][0] - _MARGIN, _SINK[0][1] - _MARGIN),
        (_SINK[-1][0] + _MARGIN, _SINK[-1][1] + _MARGIN),
        (-pi / 4 - _TURN, pi / 4 + _TURN),
        _BASKET,
        _BASKET,
        (0.0, 0.0),
        0.0,
    ),
}
"""Where drawn layouts come from, by task: the prescribed ones and all between them, and a little beyond."""


def _distance(a: Point, b: Point) -> float:
    return float(np.hypot(a[0] - b[0], a[1] - b[1]))


def _angle(a: float, b: float) -> float:
    """The smaller angle between two directions, in radians."""
    return abs((a - b + pi) % (2 * pi) - pi)
