"""SimplerEnv's Bridge tasks (visual matching) as `Env`s: WidowX arm, one camera, ManiSkill3's physics.

docs/simpler.md says what is SimplerEnv's and where it differs.
"""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, UInt8

from pizero.data.images import resize_squashed
from pizero.frame import Frame
from pizero.robot import bridge
from pizero.sim.env import SimulatorUnavailableError, Step, Task
from pizero.sim.simpler import asset, expert, layout, render

if TYPE_CHECKING:  # they import SAPIEN, which reads environment variables that are set when an environment is made
    from pizero.sim.simpler.picture import PictureMaker
    from pizero.sim.simpler.scene import Scene

FRAME_SIZE = 224
"""Pixels of a frame's picture, both ways; the camera's 640 x 480 are squashed to it, as open-pi-zero does."""


class SimplerEnv:
    """One Bridge task as an `Env`."""

    noise_scale: tuple[float, ...] = (0.015, 0.015, 0.01, 0.08, 0.08, 0.08, 0.0)

    def __init__(self, task: Task) -> None:
        self.task = task
        self.embodiment = bridge.BRIDGE
        asset.use(task.name)
        self._renderer = render.choose()
        self._scene = _build(task.name)
        self._pictures: PictureMaker | None = None
        self._steps: int | None = None

    def reset(self, seed: int, state: int | None = None) -> None:
        """Start the episode that `seed` draws, or SimplerEnv's episode number `state`."""
        if state is None:
            start = layout.draw(self.task.name, seed)
        elif 0 <= state < self.task.num_states:
            start = layout.prescribed(self.task.name, state)
        else:
            raise ValueError(f"{self.task.name} has states 0 ... {self.task.num_states - 1}; state is {state}")
        self._scene.reset(start)
        self._steps = 0

    def frame(self) -> Frame:
        """What the robot sees now: the camera's picture and the hand's pose with the gripper's openness."""
        state = bridge.proprioception(self._scene.hand_pose()).astype(np.float32)
        return Frame({self.embodiment.cameras[0]: self.picture(FRAME_SIZE)}, state, self.task.prompt)

    def step(self, action: Float32[np.ndarray, " a"]) -> Step:
        """Execute one action of `BRIDGE`. Done only after `max_steps`, as in SimplerEnv: a success can be lost again.

        Raises ValueError when it is not seven finite numbers.
        """
        if action.shape != (7,) or not np.isfinite(action).all():
            raise ValueError(f"{self.task.name} takes 7 finite numbers as action, got {action}")
        assert self._steps is not None, "reset the environment first"
        self._scene.step(bridge.to_simulator(action))
        self._steps += 1
        return Step(self._scene.success(), self._steps >= self.task.max_steps)

    def expert_action(self) -> Float32[np.ndarray, " a"]:
        """What the scripted expert does now."""
        return expert.action(self._scene.situation(), self.task.name)

    def expert_done(self) -> bool:
        """Whether the thing lies where it shall, let go, and the hand is out of the way."""
        return expert.is_done(self._scene.situation())

    def picture(self, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """The camera's view, squashed to `size` pixels both ways."""
        assert self._steps is not None, "reset the environment first"
        if self._pictures is None:
            from pizero.sim.simpler.picture import PictureMaker

            with render.quiet():
                self._pictures = PictureMaker(self.task.name, self._renderer)
        return resize_squashed(self._pictures.draw(self._scene), (size, size))

    def close(self) -> None:
        """Give the renderer's memory back."""
        if self._pictures is not None:
            self._pictures.close()
            self._pictures = None


def _build(task: str) -> "Scene":
    """The scene; SimulatorUnavailableError when ManiSkill3 is not installed."""
    with render.quiet():
        try:
            from pizero.sim.simpler.scene import Scene
        except ModuleNotFoundError as error:
            message = f"ManiSkill3 is not installed ({error}); install it: pip install 'pizero[simpler]'"
            raise SimulatorUnavailableError(message) from error
        return Scene(task)
