"""One LIBERO task as a physical world: the one place that knows robosuite. No pictures, no limits, no instruction."""

import contextlib
import gc
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from pizero.robot import libero
from pizero.sim.env import Task
from pizero.sim.libero.assets import find_assets, task_files
from pizero.sim.libero.package import import_libero
from pizero.sim.libero.states import load_states

Pose = tuple[Float64[np.ndarray, " 3"], Float64[np.ndarray, "3 3"]]
"""Position in metres and rotation matrix (its columns are the thing's own axes), both in the frame of the world."""

JOINT_NOISE = 0.02
"""Radians; standard deviation of the arm's joints at the start of a drawn state: robosuite's default (robots/robot.py),
with which the prescribed states were drawn."""
NEAR = 0.002
"""Metres; a drawn state with every object this near to its place in one prescribed state is drawn anew."""

_BUILD_SEED = 0


class World:
    """A Panda arm, LIBERO's objects and the goal of one task. `reset` comes before everything else.

    Metres and radians in the frame of the world: x ahead of the arm, y to its left, z up.
    """

    mujoco: Any
    """The module mujoco."""
    env: Any
    """LIBERO's robosuite environment; `env.objects_dict` and `env.fixtures_dict` have its things by name."""
    task_goal: list[list[str]]
    """What must hold at the end, all of it: ["on", "akita_black_bowl_1", "plate_1"], ["turnon", "flat_stove_1"], ...
    (libero/libero/envs/predicates). The names are those that `pose` takes."""
    states: Float64[np.ndarray, "n d"]
    """The prescribed initial states, each one time, joint positions and joint velocities of MuJoCo."""
    seen: Any
    """An MjData with positions as robosuite's sensors and cameras last saw them. By its clock that is the last but one
    of the 25 physics steps that make a control step, which users' policies are used to. Everything else is of now."""

    def __init__(self, task: Task) -> None:
        """Takes 2 to 4 s. Raises SimulatorUnavailableError when packages or assets are missing."""
        bddl, states = task_files(task)
        self.mujoco, robosuite, domain = import_libero(find_assets())
        self.states = load_states(states)
        self._no_room = robosuite.utils.errors.RandomizationError
        problem = domain.BDDLUtils.get_problem_info(str(bddl))["problem_name"]
        # Building draws placements too, which nobody sees.
        with _numpy_seeded(_BUILD_SEED), contextlib.redirect_stdout(sys.stderr):
            self.env = domain.TASK_MAPPING[problem](
                str(bddl),
                robots=["Panda"],
                controller_configs=robosuite.load_controller_config(default_controller="OSC_POSE"),
                initialization_noise=None,
                use_camera_obs=False,
                has_offscreen_renderer=False,
                control_freq=libero.LIBERO.control_rate_hz,
                ignore_done=True,
                hard_reset=False,
            )
        self.task_goal = self.env.parsed_problem["goal_state"]
        self._robot = self.env.robots[0]
        self.seen = self.mujoco.MjData(self.sim.model._model)
        self._watch(robosuite.utils.observables)
        self._fixtures = [_built_place(self.env, fixture) for fixture in self.env.fixtures_dict.values()]
        self._places = _free_joint_places(self.env)

    @property
    def sim(self) -> Any:
        """robosuite's MjSim: `sim.model` and `sim.data` wrap MuJoCo's own, which are their `_model` and `_data`."""
        return self.env.sim

    def reset(self, seed: int, state: int | None = None) -> None:
        """Start from a prescribed state, or from one that `seed` draws; then let things fall into place.

        A prescribed state says nothing of fixtures (cabinet, stove, ...): `seed` draws their places in both cases,
        within the centimetre or two that the task leaves them, as LIBERO's own evaluation does.
        """
        with _numpy_seeded(seed):
            self._draw()
            while state is None and self.near_prescribed():
                self._draw()
        if state is not None:
            self.sim.set_state_from_flattened(self.states[state])
        self.sim.forward()
        self.env._post_process()
        self.env._update_observables(force=True)
        for _ in range(libero.IDLE_STEPS):
            self.step(np.array(libero.IDLE))

    def step(self, action: Float[np.ndarray, " 7"]) -> None:
        """One control step of 50 ms. The action is the embodiment's; robosuite's controller clips it to [-1, 1]."""
        self.env.step(action)

    def success(self) -> bool:
        """Whether the task's goal holds now."""
        return bool(self.env._check_success())

    def holds(self, predicate: list[str]) -> bool:
        """Whether a predicate of LIBERO's holds now, for example ["on", "akita_black_bowl_1", "plate_1"]."""
        return bool(self.env._eval_predicate(predicate))

    def state(self) -> Float64[np.ndarray, " 8"]:
        """Proprioception as the embodiment has it, equal to what robosuite observes."""
        position = self.seen.site_xpos[self._robot.eef_site_id]
        # robosuite reports the place of the grasp site, but the rotation of the hand it is mounted on
        quaternion = self.seen.xquat[self.sim.model.body_name2id(self._robot.robot_model.eef_name)][[1, 2, 3, 0]]
        fingers = self.seen.qpos[self._robot._ref_gripper_joint_pos_indexes]
        return libero.proprioception(position, quaternion, fingers)

    def hand_pose(self) -> Pose:
        """Where the grasp site is now, between the fingers. Its z axis points out of the hand, where the tips end 11 mm
        further; the fingers close along its x axis. The controller moves and turns this site, along the axes of the
        world.
        """
        site = self._robot.eef_site_id
        return self.sim.data.site_xpos[site].copy(), self.sim.data.site_xmat[site].reshape(3, 3).copy()

    def pose(self, name: str) -> Pose:
        """Where an object, a fixture or a region (its middle) of the task is. Raises ValueError for an unknown name."""
        data = self.sim.data
        if name in self.env.obj_body_id:
            body = self.env.obj_body_id[name]
            return data.body_xpos[body].copy(), data.body_xmat[body].reshape(3, 3).copy()
        if name in self.env.object_sites_dict:
            return data.get_site_xpos(name).copy(), data.get_site_xmat(name).copy()
        names = [*self.env.obj_body_id, *self.env.object_sites_dict]
        raise ValueError(f"there is no {name!r} in this world; there are {', '.join(names)}")

    def fingers(self) -> Float64[np.ndarray, " 2"]:
        """Positions of the finger joints in metres, of opposite sign: about (0.04, -0.04) is open, (0, 0) closed."""
        return self.sim.data.qpos[self._robot._ref_gripper_joint_pos_indexes].copy()

    def near_prescribed(self) -> bool:
        """Whether every object is within `NEAR` of its place in one and the same prescribed state."""
        now = self.sim.data.qpos[self._places]
        prescribed = self.states[:, 1:][:, self._places]  # the first number is the time
        distance = np.linalg.norm(prescribed - now, axis=-1)
        return bool((distance < NEAR).all(-1).any())

    def close(self) -> None:
        """Give the memory back. The world cannot be used thereafter; closing twice is fine."""
        if self.env is None:
            return
        self.env.close()
        self.env = self._robot = self.seen = None
        gc.collect()  # robosuite's objects refer to each other

    def _watch(self, observables: Any) -> None:
        """Let robosuite's clock of sensors keep `seen` up to date, and switch off its own, which take time."""
        for name in self.env.observation_names:
            self.env.modify_observable(name, "enabled", False)

        seen, data = self.seen, self.sim.data._data
        arrays = (
            *((seen.qpos, data.qpos), (seen.xpos, data.xpos), (seen.xquat, data.xquat), (seen.xmat, data.xmat)),
            *((seen.geom_xpos, data.geom_xpos), (seen.geom_xmat, data.geom_xmat)),
            *((seen.site_xpos, data.site_xpos), (seen.site_xmat, data.site_xmat)),
            *((seen.cam_xpos, data.cam_xpos), (seen.cam_xmat, data.cam_xmat)),
            *((seen.light_xpos, data.light_xpos), (seen.light_xdir, data.light_xdir)),
        )

        @observables.sensor(modality="pizero")  # type: ignore[untyped-decorator]
        def look(_: Any) -> float:
            for copy, original in arrays:
                copy[:] = original
            return 0.0

        rate = libero.LIBERO.control_rate_hz
        self.env.add_observable(observables.Observable("seen", look, sampling_rate=rate))

    def _draw(self) -> None:
        """Draw the places of things and the arm's joints from NumPy's global generator."""
        model = self.sim.model
        while True:
            # A reset moves fixtures in the model itself, after it has worked out the places of things in and on them
            # from where they were built. robosuite would build a new model; this is quicker.
            for body, position, quaternion in self._fixtures:
                model.body_pos[body], model.body_quat[body] = position, quaternion
            try:
                self.env.reset()
                break
            except self._no_room:  # something found no free place
                continue
        self._robot.gripper.current_action[:] = 0
        joints = self._robot._ref_joint_pos_indexes
        self.sim.data.qpos[joints] += JOINT_NOISE * np.random.randn(len(joints))


def _built_place(env: Any, fixture: Any) -> tuple[int, np.ndarray, np.ndarray]:
    """A fixture's body, and its position and quaternion (wxyz) in the model as it is built, before any reset."""
    body = next(body for body in env.model.worldbody.iter("body") if body.get("name") == fixture.root_body)
    position = np.array(body.get("pos", "0 0 0").split(), float)
    quaternion = np.array(body.get("quat", "1 0 0 0").split(), float)
    return env.sim.model.body_name2id(fixture.root_body), position, quaternion


def _free_joint_places(env: Any) -> np.ndarray:
    """Where the positions of the objects are among the joint positions, (objects, 3)."""
    starts = [env.sim.model.get_joint_qpos_addr(thing.joints[-1])[0] for thing in env.objects_dict.values()]
    return np.array(starts)[:, None] + np.arange(3)


@contextlib.contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """NumPy's global generator, from which LIBERO draws, seeded; afterwards it goes on as if nothing had been."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
