"""A simulator small enough for tests: a point on a line that must reach a mark. Importable by worker processes."""

import os
import time

import numpy as np

from pizero.embodiment import Embodiment
from pizero.frame import Frame
from pizero.sim.env import SimulatorUnavailableError, Step, Task, find_task

TOY = Embodiment(
    name="toy",
    cameras=("above",),
    state=("x", "renders", "gripper"),
    actions=("dx", "gripper"),
    control_rate_hz=80.0,
    action_low=(-0.5, -1.0),
    action_high=(0.5, 1.0),
    gripper_action="1 closes",
)
MAX_STEPS = 30
STATES = (2.25, -2.5, 3.1)
"""Marks that the toy's benchmark prescribes."""


class ToyEnv:
    """The mark is drawn from the seed; `step` raises, dies, hangs or hides success where the task's name says so.

    "once": until there is the file that the environment variable TOY_DIED names.
    """

    noise_scale = (0.5, 0.0)

    def __init__(self, name: str) -> None:
        self.embodiment = TOY
        self.task = find_toy(name)

    def reset(self, seed: int, state: int | None = None) -> None:
        self.seed, self.x, self.steps, self.renders = seed, 0.0, 0, 0
        self.gripper, self.solved = 0.0, False
        self.mark = float(np.random.default_rng(seed).uniform(2, 4)) * (-1 if seed % 2 else 1)
        if state is not None:
            self.mark = STATES[state]

    def frame(self) -> Frame:
        self.renders += 1
        state = np.array([self.x, self.renders, self.gripper], np.float32)
        return Frame({"above": self.picture(8)}, state, self.task.prompt)

    def step(self, action: np.ndarray) -> Step:
        if self.task.name == "toy/raises" and self.seed % 2:
            raise RuntimeError("the simulator broke")
        if self.task.name == "toy/dies" and self.seed % 2:
            os._exit(3)
        if self.task.name == "toy/hangs" and self.seed % 2:
            time.sleep(1000)
        if self.task.name.endswith("-once") and not os.path.exists(os.environ["TOY_DIED"]):
            open(os.environ["TOY_DIED"], "w").close()
            if self.task.name == "toy/dies-once":
                os._exit(3)
            if self.task.name == "toy/hangs-once":
                time.sleep(1000)
            raise RuntimeError(f"process {os.getpid()} broke")
        self.x += float(action[0])
        self.gripper = float(action[1])
        self.steps += 1
        hidden = self.task.name == "toy/impossible" or (self.task.name == "toy/hard" and self.seed % 3 == 0)
        success = abs(self.x - self.mark) < 0.3 and not hidden
        self.solved = success
        ends = success and self.task.name != "toy/lasts"  # where the last state counts
        return Step(success, ends or self.steps >= MAX_STEPS)

    def expert_action(self) -> np.ndarray:
        return np.array([np.clip(self.mark - self.x, -0.25, 0.25), 0.5], np.float32)

    def expert_done(self) -> bool:
        return self.solved

    def picture(self, size: int) -> np.ndarray:
        picture = np.full((size, size, 3), 60, np.uint8)
        picture[:, int((self.x + 5) / 10 * size) % size] = 255
        return picture

    def close(self) -> None:
        pass


def make_toy(name: str) -> ToyEnv:
    if name == "toy/none":
        raise SimulatorUnavailableError("the toy is not in its box; buy one")
    return ToyEnv(name)


def find_toy(name: str) -> Task:
    """Every name is that of a toy, but those of real simulators."""
    return Task(name, "go to the mark of " + name, MAX_STEPS, len(STATES)) if name[:4] == "toy/" else find_task(name)
