"""What a simulator looks like to the rest of the house, which tasks there are, and which seeds are whose."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from pizero.embodiment import Embodiment
from pizero.frame import Frame

NUM_SEEDS = 2**30
"""How many training seeds there are, and how many evaluation seeds. NumPy takes seeds below 2**32."""


class SimulatorUnavailableError(OSError):
    """One line that says what this machine lacks to run a simulator (package, driver, assets), and the command that
    brings it."""


@dataclass(frozen=True)
class Task:
    """Something a simulator can ask for."""

    name: str
    """Simulator and task, for example "metaworld/faucet-open"."""
    prompt: str
    """The instruction, as a person would say it."""
    max_steps: int
    """Control steps after which an episode ends."""
    num_states: int = 0
    """Initial states that the task's benchmark prescribes for evaluation; 0: none, then a seed draws one."""


@dataclass(frozen=True)
class Step:
    """What one control step led to."""

    success: bool
    """The task is solved in this state."""
    done: bool
    """The episode is over by the rules of its benchmark: solved (where the first success counts), or the task's
    `max_steps` are used up. Its outcome is `success` of this step."""


@runtime_checkable
class Env(Protocol):
    """One task in one simulator. Everything is in real units; nothing a camera cannot see is in a frame."""

    embodiment: Embodiment
    """The robot."""
    task: Task
    """What it is asked to do."""
    noise_scale: tuple[float, ...]
    """For each action, in its unit: how far exploration noise of size 1 moves it. 0 for a gripper."""

    def reset(self, seed: int, state: int | None = None) -> None:
        """Start an episode: the same for the same arguments in every process, whatever ran before.

        state: number of one of the task's `num_states`, the benchmark's own initial states, which are for evaluation;
        None: an initial state that `seed` draws, from a continuous distribution, never one of the benchmark's.
        """
        ...

    def frame(self) -> Frame:
        """What the robot sees now. Renders, which costs far more than a step: call it when a policy needs it."""
        ...

    def step(self, action: Float32[np.ndarray, " a"]) -> Step:
        """Execute one action (clipped to the embodiment's bounds, where it has some). Going on after `done` is allowed.

        Raises ValueError when the action is not as many finite numbers as the embodiment has actions.
        """
        ...

    def expert_action(self) -> Float32[np.ndarray, " a"]:
        """What the scripted expert does now. It reads the simulator's state: for demonstrations only.

        It looks at where things are, not at a clock: pushed off its path it comes back, and what slipped is grasped
        again. When it is done it stands still.
        """
        ...

    def expert_done(self) -> bool:
        """Whether the task is solved and the expert has nothing left to do (hand opened and withdrawn)."""
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


def expand_tasks(names: Sequence[str]) -> list[str]:
    """Names of single tasks, where a name before "/" stands for all its tasks ("simpler", "libero-object").

    In order, none twice. Raises ValueError as `find_task`.
    """
    found = []
    for name in names:
        group = [task for task in _tasks() if task.startswith(name + "/")]
        found += group or [find_task(name).name]
    return list(dict.fromkeys(found))


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
    if name.startswith("simpler/"):
        from pizero.sim.simpler.env import SimplerEnv

        return SimplerEnv(task)
    if name.startswith("libero-"):
        from pizero.sim.libero.env import LiberoEnv

        return LiberoEnv(task)
    raise AssertionError(f"{name} is listed but has no simulator")


def _tasks() -> dict[str, Task]:
    # tables; a simulator itself is imported when an environment is made
    from pizero.sim import metaworld
    from pizero.sim.libero import task as libero
    from pizero.sim.simpler import task as simpler

    return metaworld.TASKS | simpler.TASKS | libero.TASKS
