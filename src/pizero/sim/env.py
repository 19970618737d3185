"""What a simulator looks like to the rest of the house, which tasks there are, and which seeds are whose."""

import difflib
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from pizero.embodiment import Embodiment
from pizero.frame import Frame

NUM_SEEDS = 2**30
"""How many training seeds there are, and how many evaluation seeds. NumPy takes seeds below 2**32."""


class SimulatorUnavailableError(OSError):
    """One line that says what this machine lacks to run a simulator, and the command that installs it."""


@dataclass(frozen=True)
class Task:
    """Something a simulator can ask for."""

    name: str
    """Simulator and task, for example "metaworld/faucet-open"."""
    prompt: str
    """The instruction, as a person would say it."""
    max_steps: int
    """Control steps after which an episode without success ends."""


@dataclass(frozen=True)
class Step:
    """What one control step led to."""

    success: bool
    """The task is solved in this state."""
    done: bool
    """The episode is over: solved, or the task's `max_steps` are used up."""


@runtime_checkable
class Env(Protocol):
    """One task in one simulator. Everything is in real units; nothing a camera cannot see is in a frame."""

    embodiment: Embodiment
    """The robot."""
    task: Task
    """What it is asked to do."""

    def reset(self, seed: int) -> None:
        """Start the episode that `seed` names: the same in every process, whatever ran before."""
        ...

    def frame(self) -> Frame:
        """What the robot sees now. Renders, which costs far more than a step: call it when a policy needs it."""
        ...

    def step(self, action: Float32[np.ndarray, " a"]) -> Step:
        """Execute one action (clipped to the embodiment's bounds). Going on after `done` is allowed."""
        ...

    def expert_action(self) -> Float32[np.ndarray, " a"]:
        """What the scripted expert does now. It reads the simulator's state: for demonstrations only."""
        ...

    def picture(self, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """The first camera's view at another size, for people to watch."""
        ...

    def close(self) -> None:
        """Give the renderer's memory back."""
        ...


def train_seed(index: int) -> int:
    """Seed of training episode `index`; no evaluation episode has it."""
    return _seed(index, 0)


def eval_seed(index: int) -> int:
    """Seed of evaluation episode `index`; no training episode has it."""
    return _seed(index, NUM_SEEDS)


def _seed(index: int, first: int) -> int:
    if not 0 <= index < NUM_SEEDS:
        raise ValueError(f"episode index {index} is outside 0 ... {NUM_SEEDS - 1}")
    return first + index


def list_tasks() -> list[str]:
    """Names of all tasks of all simulators. Imports no simulator."""
    return sorted(_tasks())


def find_task(name: str) -> Task:
    """The task of that name; ValueError with the nearest names when there is none. Imports no simulator."""
    tasks = _tasks()
    if name not in tasks:
        near = difflib.get_close_matches(name, tasks, n=3, cutoff=0.4) or sorted(tasks)[:3]
        raise ValueError(f"there is no task {name!r}; the nearest of {len(tasks)} are {', '.join(near)}")
    return tasks[name]


def make_env(name: str) -> Env:
    """An environment for the task of that name.

    Raises ValueError for an unknown name, SimulatorUnavailableError when this machine cannot run the simulator.
    """
    task = find_task(name)
    if name.startswith("metaworld/"):
        from pizero.sim.metaworld import MetaWorldEnv

        return MetaWorldEnv(task)
    raise AssertionError(f"{name} is listed but has no simulator")


def _tasks() -> dict[str, Task]:
    from pizero.sim.metaworld import TASKS  # a table; the simulator itself is imported when an environment is made

    return TASKS
