"""Scripted experts for LIBERO's tasks: the goal of the task says which skills they need."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from pizero.sim.libero.expert_drawer import OpenDrawer
from pizero.sim.libero.expert_knob import TurnKnob
from pizero.sim.libero.expert_place import Place
from pizero.sim.libero.world import World

_ORDER = ("open", "turnon", "on", "in")
"""Predicates in the order in which they are brought about."""

_APART = 0.1
"""Metres between the middles of things that share a target; moka pots are 9 cm wide, the stove's plate 15 cm."""


@runtime_checkable
class Skill(Protocol):
    """One part of a task. It looks at the world alone, so it can be asked at any time."""

    def solved(self) -> bool:
        """Whether what it is for holds."""
        ...

    def done(self) -> bool:
        """Whether it holds and the hand is open and out of the way."""
        ...

    def action(self) -> Float32[np.ndarray, " 7"]:
        """What to do now."""
        ...


class Expert:
    """Solves the task of one world, whose state it reads. `reset` comes before everything else in an episode."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._skills: list[Skill] = []
        self._current = 0

    def reset(self) -> None:
        """An episode has begun. Raises ValueError when the task needs something that no skill can do."""
        for goal in self._world.task_goal:
            if goal[0] not in _ORDER:
                raise ValueError(f"there is no expert for the goal {' '.join(goal)}; there are for {', '.join(_ORDER)}")
        goals = sorted(self._world.task_goal, key=lambda goal: _ORDER.index(goal[0]))
        self._skills = [skill for goal in goals for skill in _skills(self._world, goal)]
        self._current = 0

    def action(self) -> Float32[np.ndarray, " 7"]:
        """What to do now: a share of 5 cm and of 0.5 radians each, and the gripper, -1 open, 1 close."""
        self._move_on()
        return self._skills[min(self._current, len(self._skills) - 1)].action()

    def done(self) -> bool:
        """Whether the task is solved and the hand open and out of the way."""
        self._move_on()
        return self._current == len(self._skills) and self._world.success()

    def _move_on(self) -> None:
        """Find the first skill that has something left to do, or whose work has come undone."""
        undone = (number for number, skill in enumerate(self._skills[: self._current]) if not skill.solved())
        self._current = next(undone, self._current)
        while self._current < len(self._skills) and self._skills[self._current].done():
            self._current += 1


def _skills(world: World, goal: list[str]) -> list[Skill]:
    """What brings one goal about, in order."""
    match goal:
        case ["open", region]:
            return [OpenDrawer(world, region)]
        case ["turnon", fixture]:
            return [TurnKnob(world, fixture)]
        case ["in", _, region] if world.env.object_sites_dict[region].joints:
            return [OpenDrawer(world, region, wide=False), Place(world, goal)]
        case ["on", _, target]:
            sharing = [other for other in world.task_goal if other[0] == "on" and other[2] == target]
            return [Place(world, goal, _APART * (sharing.index(goal) - (len(sharing) - 1) / 2))]
    return [Place(world, goal)]
