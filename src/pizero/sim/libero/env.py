"""A LIBERO task as an `Env`: what the policies of its users see and do."""

from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from pizero.frame import Frame
from pizero.robot.libero import LIBERO, upright
from pizero.sim.env import Step, Task
from pizero.sim.libero.world import World
from pizero.sim.mujoco_renderer import Renderer

FRAME_SIZE = 256
"""Pixels of a frame's pictures, both ways; what openpi renders (examples/libero/main.py)."""

_AGENT_CAMERA = "agentview"
_WRIST_CAMERA = "robot0_eye_in_hand"
_CELL = 0.003
"""Metres; vertices of a mesh in one cube of this size become one in the picture. Coarser ones smear the labels of
boxes in the wrist camera; finer ones take longer than the physics."""
_VISUAL_GEOMS = (1,)
"""robosuite's group of geoms that are seen; group 0 collides."""


class LiberoEnv:
    """One LIBERO task as an `Env`. An episode begins after the objects have fallen into place."""

    noise_scale: tuple[float, ...] = (0.3, 0.3, 0.3, 0.1, 0.1, 0.1, 0.0)

    def __init__(self, task: Task) -> None:
        self.task = task
        self.embodiment = LIBERO
        self._world = World(task)
        self._steps: int | None = None
        self._renderer: Renderer | None = None
        self._expert: Any = None

    def reset(self, seed: int, state: int | None = None) -> None:
        """Start an episode from one of the benchmark's 50 states, or from one that `seed` draws, which is none of them.

        Where fixtures stand is no part of a prescribed state; `seed` draws that in both cases.
        """
        if state is not None and not 0 <= state < self.task.num_states:
            raise ValueError(f"{self.task.name} has initial states 0 ... {self.task.num_states - 1}, got {state}")
        self._world.reset(seed, state)
        self._steps = 0
        self._expert = None

    def frame(self) -> Frame:
        """What the robot sees now."""
        images = {"image": self.picture(FRAME_SIZE), "wrist_image": self._render(_WRIST_CAMERA, FRAME_SIZE)}
        return Frame(images, self._world.state().astype(np.float32), self.task.prompt)

    def step(self, action: Float32[np.ndarray, " a"]) -> Step:
        """Execute one action; robosuite's controller clips it to [-1, 1].

        Raises ValueError when it is not seven finite numbers.
        """
        assert self._steps is not None, "reset the environment first"
        if action.shape != (7,) or not np.isfinite(action).all():
            raise ValueError(f"{self.task.name} takes 7 finite numbers as action, got {action}")
        self._world.step(action.astype(np.float64))
        self._steps += 1
        success = self._world.success()
        return Step(success, success or self._steps >= self.task.max_steps)

    def expert_action(self) -> Float32[np.ndarray, " a"]:
        """What the scripted expert does now; its rules are in expert.py."""
        return self._started_expert().action()

    def expert_done(self) -> bool:
        """Whether the goal holds and the hand is open and away."""
        return self._started_expert().done()

    def picture(self, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """The agent camera's view at `size` pixels both ways."""
        return self._render(_AGENT_CAMERA, size)

    def close(self) -> None:
        """Give the memory back, the renderer's and the simulation's. The environment cannot be used thereafter."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        self._world.close()

    def _started_expert(self) -> Any:
        # Begun when it is asked for: evaluation needs none, also in tasks that it cannot do.
        if self._expert is None:
            from pizero.sim.libero.expert import Expert

            self._expert = Expert(self._world)
            self._expert.reset()
        return self._expert

    def _render(self, camera: str, size: int) -> UInt8[np.ndarray, "size size 3"]:
        assert self._steps is not None, "reset the environment first"
        sim = self._world.sim
        if self._renderer is None:
            self._renderer = Renderer(self._world.mujoco, sim.model._model, FRAME_SIZE, _CELL, _VISUAL_GEOMS)
        picture = self._renderer.render(self._world.seen, camera, size)
        return upright(picture[::-1])  # robosuite gives the lowest row first
