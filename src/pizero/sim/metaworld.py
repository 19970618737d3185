"""Meta-World: 50 tasks of a Sawyer arm at a table, in MuJoCo, with a scripted expert each.

What a policy sees is one camera and four numbers; nothing of the simulator's state. Three things differ from
Meta-World:

- The camera is `corner2`, moved closer as lerobot does, and turned upright (Meta-World mounts it upside down).
- Meta-World draws the goal of a task as a coloured ball. Tasks such as faucet-open and faucet-close share a scene and
  differ in the instruction alone, so a ball at the goal would tell them apart without it. All balls are hidden, except
  in the tasks whose goal is a free point in space which nothing else in the picture shows (`_MARKERS`: reach, push,
  pick-place and the like); there the ball has one colour and size in all of them, since Meta-World's colours (red for
  reach, green for push, blue for pick-place) would tell these apart too. stick-push, stick-pull and plate-slide-side
  have a free point as well, but it moves by less than the tolerance of their success: no ball there.
- After its reset it leaves things that were moved last where they were drawn before; here they are brought up to date,
  so that the first picture shows what is there.

How it is drawn is in mujoco_renderer.py; docs/metaworld.md has numbers.
"""

import copy
import sys
import warnings
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from pizero.embodiment import Embodiment
from pizero.frame import Frame
from pizero.sim.env import SimulatorUnavailableError, Step, Task
from pizero.sim.mujoco_renderer import Renderer, choose_egl, egl_missing

CAMERA = "corner2"
CAMERA_POSITION = (0.75, 0.075, 0.7)
"""Metres; where lerobot puts the camera (lerobot/envs/metaworld.py)."""
FRAME_SIZE = 96
"""Pixels of a frame's picture, both ways."""

EMBODIMENT = Embodiment(
    name="metaworld_sawyer",
    cameras=(CAMERA,),
    state=("hand_x", "hand_y", "hand_z", "gripper_opening_decimetres"),
    actions=("hand_dx_centimetres", "hand_dy_centimetres", "hand_dz_centimetres", "gripper"),
    control_rate_hz=80.0,
    action_low=(-1.0, -1.0, -1.0, -1.0),
    action_high=(1.0, 1.0, 1.0, 1.0),
    gripper_action="1 closes",
)
"""Actions move the target of the hand by up to 1 cm (Meta-World's action_scale). As the arm sees it, x is right, y is
ahead, z is up."""


def _task(name: str, prompt: str, max_steps: int) -> Task:
    return Task("metaworld/" + name, prompt, max_steps)


TASKS = {
    task.name: task
    # max_steps: twice what the slowest of ten expert episodes takes, in fifties, at most Meta-World's own 500
    for task in (
        _task("assembly", "pick up the round nut and put it over the peg", 200),
        _task("basketball", "drop the ball through the basketball hoop", 250),
        _task("bin-picking", "move the block from one bin into the other", 450),
        _task("box-close", "put the lid on the box", 300),
        _task("button-press", "push the button on the front of the box", 150),
        _task("button-press-topdown", "press the button on top of the box", 150),
        _task("button-press-topdown-wall", "reach over the wall and press the button on top of the box", 150),
        _task("button-press-wall", "reach around the wall and push the button on the front of the box", 150),
        _task("coffee-button", "press the button of the coffee machine", 100),
        _task("coffee-pull", "pull the mug from the coffee machine to the green ball", 200),
        _task("coffee-push", "push the mug under the coffee machine", 150),
        _task("dial-turn", "turn the dial", 200),
        _task("disassemble", "lift the round nut off the peg", 400),
        _task("door-close", "close the door", 200),
        _task("door-lock", "turn the latch down to lock the door", 250),
        _task("door-open", "open the door by its handle", 250),
        _task("door-unlock", "turn the latch aside to unlock the door", 100),
        _task("drawer-close", "close the drawer", 200),
        _task("drawer-open", "open the drawer", 200),
        _task("faucet-close", "close the faucet", 150),
        _task("faucet-open", "open the faucet", 150),
        _task("hammer", "hammer the nail into the box", 150),
        _task("hand-insert", "put the block into the hole in the table", 150),
        _task("handle-press", "press the handle down", 100),
        _task("handle-press-side", "press the handle at the side down", 150),
        _task("handle-pull", "pull the handle up", 300),
        _task("handle-pull-side", "pull the handle at the side up", 250),
        _task("lever-pull", "pull the lever up", 200),
        _task("peg-insert-side", "insert the peg into the side of the box", 500),
        _task("peg-unplug-side", "pull the peg out of the box", 300),
        _task("pick-out-of-hole", "take the puck out of the hole and hold it at the green ball", 300),
        _task("pick-place", "pick up the puck and hold it at the green ball", 150),
        _task("pick-place-wall", "lift the puck over the wall and hold it at the green ball", 250),
        _task("plate-slide", "slide the puck forward into the goal", 150),
        _task("plate-slide-back", "slide the puck back out of the goal to the green ball", 200),
        _task("plate-slide-back-side", "slide the puck sideways out of the goal to the green ball", 150),
        _task("plate-slide-side", "slide the puck sideways into the goal", 150),
        _task("push", "push the puck to the green ball", 150),
        _task("push-back", "pull the block back to the green ball", 500),
        _task("push-wall", "push the puck around the wall to the green ball", 200),
        _task("reach", "move the gripper to the green ball", 150),
        _task("reach-wall", "move the gripper over the wall to the green ball", 150),
        _task("shelf-place", "put the block on the shelf", 250),
        _task("soccer", "push the football into the goal", 250),
        _task("stick-pull", "pick up the stick and pull the thermos with it", 350),
        _task("stick-push", "pick up the stick and push the thermos with it", 200),
        _task("sweep", "sweep the block off the table", 250),
        _task("sweep-into", "sweep the block into the hole", 150),
        _task("window-close", "close the window", 200),
        _task("window-open", "open the window", 200),
    )
}
"""All tasks by name; Meta-World's own name is ours without "metaworld/" and with "-v3"."""

_MARKERS = {
    "metaworld/coffee-pull": "mug_goal",
    "metaworld/pick-out-of-hole": "goal",
    "metaworld/pick-place": "goal",
    "metaworld/pick-place-wall": "goal",
    "metaworld/plate-slide-back": "goal",
    "metaworld/plate-slide-back-side": "goal",
    "metaworld/push": "goal",
    "metaworld/push-back": "goal",
    "metaworld/push-wall": "goal",
    "metaworld/reach": "goal",
    "metaworld/reach-wall": "goal",
}
"""Tasks whose goal only a ball can show, with the name of its MuJoCo site."""
_MARKER_RGBA = (0.0, 0.8, 0.0, 1.0)
_MARKER_RADIUS = 0.02
_HIDDEN_GROUP = 5
"""A group of sites that MuJoCo does not draw unless asked."""

_CELL = 0.004
"""Metres; vertices of a mesh in one cube of this size become one in the picture. A frame's pixel covers about 1 cm."""
_GEOM_GROUPS = (0, 1, 2)
"""The groups of geoms that MuJoCo draws unless told otherwise."""


class MetaWorldEnv:
    """One Meta-World task as an `Env`."""

    noise_scale: tuple[float, ...] = (1.0, 1.0, 1.0, 0.0)

    def __init__(self, task: Task) -> None:
        self.task = task
        self.embodiment = EMBODIMENT
        self._mujoco, envs, experts = _import_simulator()
        name = task.name.removeprefix("metaworld/") + "-v3"
        env = envs.ALL_V3_ENVIRONMENTS[name]()
        assert round(1 / env.dt, 6) == EMBODIMENT.control_rate_hz
        env._set_task_called = True  # otherwise it wants one of the fixed layouts of its benchmark
        env._freeze_rand_vec = False  # draw a layout at each reset
        env.seeded_rand_vec = True  # from its own generator, not NumPy's global one
        env._partially_observable = False  # the expert is told the goal; frames are not
        del env.sawyer_observation_space  # cached bounds that would clip the goal to zero
        env.max_path_length = sys.maxsize  # `step` counts for itself
        env.model.cam_pos[env.model.camera(CAMERA).id] = CAMERA_POSITION
        self._env = env
        self._new_expert = experts.ENV_POLICY_MAP[name]
        self._expert = self._new_expert()
        self._observation: np.ndarray | None = None
        self._steps = 0
        self._solved = False
        self._renderer: Renderer | None = None

    def reset(self, seed: int, state: int | None = None) -> None:
        """Start the episode that `seed` names; Meta-World prescribes no states."""
        if state is not None:
            raise ValueError(f"{self.task.name} has no prescribed initial states; state is {state}")
        env = self._env
        env.seed(seed)
        env.reset()
        # Many tasks move things in the last lines of their reset: work out where everything is now.
        self._mujoco.mj_forward(env.model, env.data)
        env._prev_obs = env._get_curr_obs_combined_no_goal()
        self._observation = env._get_obs()
        self._expert = self._new_expert()
        self._steps = 0
        self._solved = False

    def frame(self) -> Frame:
        """What the robot sees now; the state is the first four numbers of Meta-World's observation."""
        return Frame({CAMERA: self.picture(FRAME_SIZE)}, self._observed()[:4].astype(np.float32), self.task.prompt)

    def step(self, action: Float32[np.ndarray, " a"]) -> Step:
        """Execute one action (Meta-World clips it to [-1, 1]). Raises ValueError when it is not four finite numbers."""
        if action.shape != (4,) or not np.isfinite(action).all():
            raise ValueError(f"{self.task.name} takes 4 finite numbers as action, got {action}")
        self._observed()
        self._observation, _, _, _, info = self._env.step(action)
        self._steps += 1
        success = self._solved = bool(info["success"])
        return Step(success, success or self._steps >= self.task.max_steps)

    def expert_action(self) -> Float32[np.ndarray, " a"]:
        """What Meta-World's scripted policy does now, clipped to [-1, 1]."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Constant")  # it warns that its actions will be clipped
            action = self._expert.get_action(self._observed())
        return np.clip(action, -1, 1).astype(np.float32)

    def expert_done(self) -> bool:
        """Whether the task is solved: Meta-World's experts have nothing to tidy up."""
        return self._solved

    def picture(self, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """The camera's view at `size` pixels both ways, upright."""
        self._observed()
        if self._renderer is None:
            model = _picture_model(self._env.model, _MARKERS.get(self.task.name))
            self._renderer = Renderer(self._mujoco, model, FRAME_SIZE, _CELL, _GEOM_GROUPS)
        picture = self._renderer.render(self._env.data, CAMERA, size)
        return np.ascontiguousarray(picture[::-1, ::-1])  # the camera is mounted upside down

    def close(self) -> None:
        """Give the renderer's memory back."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _observed(self) -> np.ndarray:
        assert self._observation is not None, "reset the environment first"
        return self._observation


def _picture_model(model: Any, marker: str | None) -> Any:
    """A copy of the model for drawing only: no sites but the marker."""
    model = copy.deepcopy(model)
    model.site_group[:] = _HIDDEN_GROUP
    if marker is not None:
        site = model.site(marker).id
        model.site_group[site] = 0
        model.site_rgba[site] = _MARKER_RGBA
        model.site_size[site] = _MARKER_RADIUS
    return model


def _import_simulator() -> tuple[ModuleType, ModuleType, ModuleType]:
    """The modules mujoco, metaworld.env_dict and metaworld.policies; SimulatorUnavailableError when one is missing."""
    choose_egl()
    try:
        import mujoco
        from metaworld import env_dict, policies
    except ModuleNotFoundError as error:
        message = f"Meta-World is not installed ({error}); install it: pip install 'pizero[metaworld]'"
        raise SimulatorUnavailableError(message) from error
    except (ImportError, AttributeError, OSError) as error:
        raise egl_missing(error) from error
    return mujoco, env_dict, policies
