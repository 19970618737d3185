"""What a robot executes instead of its expert's actions while they are recorded.

Recorded is always what the expert would do, so the data shows how to come back: to the path it was pushed off, to the
thing it has lost (DART, Laskey et al., CoRL 2017). Two processes, with random streams of their own:

- Noise that lasts over several steps, in every episode. How much differs from episode to episode.
- Disturbances, in some episodes, once: the robot is pushed the same way for a few steps, or its hand is opened for a
  moment after the expert has closed it, so that it drops what it holds.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float32

from pizero.embodiment import Embodiment

Disturbance = Literal["none", "push", "open hand"]

NOISE_MEMORY = 0.8
"""How much of a step's noise is left in the next: 1/e after 4.5 steps."""
NOISE_KICK = 0.6
"""Fresh noise per step. With the memory above this makes the noise's deviation equal the episode's scale."""
PUSH_SIZE = 1.5
"""Largest push in each action, in the environment's noise scale: beyond most noise (its deviation is at most about
1)."""
PUSH_STEPS = (3, 8)
"""Fewest and most steps of a push. In steps and not in seconds, since actions say how far to move in a step."""
PUSH_BEFORE = 0.5
"""A push begins in this part of the task's steps; experts are done in about as many."""
OPEN_S = 0.5
"""Seconds for which a hand is opened: enough for the fingers to let go."""
OPEN_AFTER_S = (0.4, 3.0)
"""Seconds after the hand was closed when it is opened, fewest and most: on the way from grasping to letting go."""


class Perturbation:
    """The perturbation of one episode; the same for the same arguments."""

    noise: float
    """Deviation of the episode's noise, in the environment's noise scale."""
    disturbance: Disturbance
    """What has been done to the robot so far: an episode may end before its disturbance would have begun."""

    def __init__(
        self,
        robot: Embodiment,
        noise_scale: Sequence[float],
        max_steps: int,
        seed: int,
        noise: float,
        disturbances: float,
    ) -> None:
        """noise: largest deviation that an episode may draw. disturbances: chance that one is planned."""
        self._robot = robot
        self._generator = np.random.default_rng([seed, 1])  # not the stream that may have laid out the scene
        self.noise = float(self._generator.uniform(0, noise))
        self.disturbance = "none"
        self._scale = np.array(noise_scale)
        self._drift = np.zeros(len(noise_scale))
        self._steps = self._steps_closed = 0
        self._left: int | None = None  # steps of the disturbance that are left, from its first on
        self._plan(np.random.default_rng([seed, 2]), max_steps, disturbances)

    def executed(self, action: Float32[np.ndarray, " a"]) -> Float32[np.ndarray, " a"]:
        """What the robot does in the next step, where the expert would do `action`; within the robot's bounds."""
        self._drift = NOISE_MEMORY * self._drift + NOISE_KICK * self._generator.standard_normal(len(self._scale))
        changed = action + self.noise * self._scale * self._drift
        self._steps_closed = self._steps_closed + 1 if self._closes(action) else 0
        if self._is_disturbed():
            if self._planned == "push":
                changed = changed + self._push
            else:
                changed[self._grippers] = self._opened()
        self._steps += 1
        robot = self._robot
        if robot.action_low:
            changed = np.clip(changed, np.array(robot.action_low, np.float32), np.array(robot.action_high, np.float32))
        return changed.astype(np.float32)

    def _plan(self, generator: np.random.Generator, max_steps: int, disturbances: float) -> None:
        robot = self._robot
        self._grippers = self._scale == 0  # `Env.noise_scale` says so
        can_open = robot.gripper_action in ("1 opens", "1 closes") and self._grippers.any()
        is_planned, opens = generator.uniform() < disturbances, can_open and generator.uniform() < 0.5
        self._planned: Disturbance = "none" if not is_planned else "open hand" if opens else "push"
        self._push = generator.uniform(-PUSH_SIZE, PUSH_SIZE, len(self._scale)) * self._scale
        if opens:
            rate = robot.control_rate_hz or 1 / OPEN_S
            self._first = max(2, round(generator.uniform(*OPEN_AFTER_S) * rate))
            self._length = max(2, round(OPEN_S * rate))
        else:
            self._first = int(generator.integers(0, max(1, int(PUSH_BEFORE * max_steps))))
            self._length = int(generator.integers(PUSH_STEPS[0], PUSH_STEPS[1] + 1))

    def _is_disturbed(self) -> bool:
        """Whether this step is; a disturbance comes once."""
        waited = self._steps_closed if self._planned == "open hand" else self._steps
        if self._planned != "none" and self._left is None and waited >= self._first:
            self._left, self.disturbance = self._length, self._planned
        if not self._left:
            return False
        self._left -= 1
        return True

    def _opened(self) -> float:
        return 1.0 if self._robot.gripper_action == "1 opens" else self._smallest()

    def _closes(self, action: Float32[np.ndarray, " a"]) -> bool:
        if not self._grippers.any():
            return False
        above = bool((action[self._grippers] > (1.0 + self._smallest()) / 2).any())
        return above if self._robot.gripper_action == "1 closes" else not above

    def _smallest(self) -> float:
        """The gripper's smallest action; 0 where the robot has no bounds, as on SimplerEnv's robots."""
        low = self._robot.action_low
        return float(np.array(low)[self._grippers].min()) if low else 0.0
