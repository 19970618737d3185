"""A simulator small enough for tests: a point on a line that must reach a mark. Importable by worker processes."""

import os

import numpy as np

from pizero.embodiment import Embodiment
from pizero.frame import Frame
from pizero.sim.env import SimulatorUnavailableError, Step, Task

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
STATES = (2.25, -2.5, 3.0)
"""Marks that the toy's benchmark prescribes."""


class ToyEnv:
    """The mark is drawn from the seed; `step` raises, dies or hides success where the task's name says so."""

    noise_scale = (0.5, 0.0)

    def __init__(self, name: str) -> None:
        self.embodiment = TOY
        self.task = Task(name, "go to the mark of " + name, MAX_STEPS, len(STATES))

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
        if self.task.name == "toy/dies-once" and not os.path.exists(os.environ["TOY_DIED"]):
            open(os.environ["TOY_DIED"], "w").close()
            os._exit(3)
        self.x += float(action[0])
        self.gripper = float(action[1])
        self.steps += 1
        hidden = self.task.name == "toy/impossible" or (self.task.name == "toy/hard" and self.seed % 3 == 0)
        success = abs(self.x - self.mark) < 0.3 and not hidden
        self.solved = success
        return Step(success, success or self.steps >= MAX_STEPS)

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
