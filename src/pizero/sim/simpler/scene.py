"""One scene at work: physics on the CPU, started and judged as in SimplerEnv, and what is read from it."""

from typing import Any

import numpy as np
import sapien
from jaxtyping import Float

from pizero.robot.rotation import quaternion_to_matrix
from pizero.sim.simpler import maniskill
from pizero.sim.simpler.layout import Layout
from pizero.sim.simpler.situation import Pose, Situation

DROP_HEIGHT = 1.37
"""Metres; half a metre above the table, from where objects fall at reset."""
FINGER_RANGE = (0.015, 0.037)
"""Metres of a finger's joint, closed and open; SimplerEnv's limits."""
DAMPING = 0.1
"""Of the objects' velocities, SimplerEnv's."""

_TABLE_START = (
    (0.147, 0.028, 0.870),
    (-0.01840777, 0.0398835, 0.22242722, -0.00460194, 1.36524296, 0.00153398, 0.037, 0.037),
)
_SINK_START = (
    (0.127, 0.060, 0.85),
    (-0.2600599, -0.12875618, 0.04461369, -0.00652761, 1.7033415, -0.26983038, 0.037, 0.037),
)
"""Where the robot's base stands and its joints at the start (SimplerEnv); it is turned by 180 degrees."""

_TOUCHING = 1e-6
"""Newton seconds in one substep, above which SimplerEnv counts a touch."""
_PRESSING = 1e-3
"""The same for a finger that holds: 0.5 N, as in `is_grasping` of ManiSkill3 and SimplerEnv."""
_FINGERS = ("left_finger_link", "right_finger_link")
_STILL_METRES = 0.01
_STILL_RADIANS = 0.2
"""Speeds per second below which a thing is at rest."""


class Scene:
    """A task's robot and objects. Call `reset` first."""

    def __init__(self, task: str) -> None:
        self._env = maniskill.build(task, "none")
        self._in_sink = task == "simpler/eggplant-in-basket"
        env = self._env
        self._source, self._target = env.objs[env.source_obj_name], env.objs[env.target_obj_name]
        self._bodies = [thing._bodies[0] for thing in (self._source, self._target)]
        self._links = env.agent.robot.links_map
        self._extents: tuple[np.ndarray, np.ndarray] | None = None

    def reset(self, layout: Layout) -> None:
        """Let the objects fall and settle, then put the robot at its start: SimplerEnv's `_initialize_actors`."""
        env = self._env
        env.reset(seed=0)
        robot = env.agent.robot
        robot.set_pose(sapien.Pose([-10, 0, 0]))
        turns = ((layout.source, layout.source_yaw), (layout.target, layout.target_yaw))
        for body, (place, yaw) in zip(self._bodies, turns, strict=True):
            body.entity.set_pose(sapien.Pose([*place, DROP_HEIGHT], [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]))
            body.set_linear_damping(DAMPING)
            body.set_angular_damping(DAMPING)
            body.set_locked_motion_axes([False, False, False, True, True, False])  # it does not tumble
        self._settle(0.5)
        for body in self._bodies:
            body.set_locked_motion_axes([False] * 6)
            body.entity.set_pose(body.entity.pose)  # wakes it
            body.set_linear_velocity(np.zeros(3))
            body.set_angular_velocity(np.zeros(3))
        self._settle(0.5)
        speeds = np.sum([_speed(body) for body in self._bodies], 0)
        if speeds[0] > 1e-3 or speeds[1] > 1e-2:
            self._settle(1.5)
        base, joints = _SINK_START if self._in_sink else _TABLE_START
        robot.set_pose(sapien.Pose(base, [0, 0, 0, 1]))
        env.agent.reset(init_qpos=np.array(joints, np.float32))
        env.agent.controller.reset()
        self._extents = (self._extent(0), self._extent(1))

    def step(self, action: Float[np.ndarray, "7"]) -> None:
        """Execute an action of SimplerEnv (shift in metres, axis times angle, gripper -1 or 1) for 0.2 s."""
        self._env.step(np.concatenate([action[:3], _xyz_angles(action[3:6]), action[6:]]).astype(np.float32))

    def hand_pose(self) -> Float[np.ndarray, "8"]:
        """Of `ee_gripper_link` in the base's frame: position, quaternion w x y z; then the gripper's openness.

        As the `eef_pos` of the SimplerEnv that open-pi-zero uses.
        """
        pose = self._in_base(self._links["ee_gripper_link"]._objs[0].entity.pose)
        low, high = FINGER_RANGE
        return np.concatenate([pose.p, pose.q, [np.mean((self.joints()[-2:] - low) / (high - low))]]).astype(np.float64)

    def joints(self) -> Float[np.ndarray, "8"]:
        """Angles of the arm's six joints, and positions of the fingers in metres."""
        joints: np.ndarray = self._env.agent.robot._objs[0].get_qpos()
        return joints

    def base_pose(self) -> sapien.Pose:
        """Of the robot, in the world's frame."""
        return self._links["base_link"]._objs[0].entity.pose

    def object_poses(self) -> tuple[sapien.Pose, sapien.Pose]:
        """Of source and target, in the world's frame."""
        return self._bodies[0].entity.pose, self._bodies[1].entity.pose

    def success(self) -> bool:
        """SimplerEnv's rule (`PutOnInSceneEnv.evaluate`): the source's middle is over the target, and about on it.

        Carrot and cube must touch nothing but the target and the robot; they need not be let go.
        """
        assert self._extents is not None, "reset the scene first"
        source, target = ((body.entity.pose * body.cmass_local_pose).p for body in self._bodies)
        half_source, half_target = self._extents[0] / 2, self._extents[1] / 2
        offset = source - target
        gap = offset[2] - half_target[2] - half_source[2]
        if np.linalg.norm(offset[:2]) > np.linalg.norm(half_target[:2]) + 0.003 or offset[2] <= 0:
            return False
        match self._env.source_obj_name:
            case "eggplant":
                return bool(gap <= 0.06)
            case "bridge_spoon_generated_modified":
                return bool(gap <= 0.02)
        allowed = {self._bodies[1].entity.name, *self._links}
        return bool(gap <= 0.02) and all(
            impulse <= _TOUCHING for name, impulse in self._touches() if name not in allowed
        )

    def situation(self) -> Situation:
        """Everything the expert looks at."""
        hand, source, target = self.hand_pose(), *map(self._in_base, self.object_poses())
        aim = self._env.agent.controller.controllers["arm"]._target_pose.raw_pose[0].numpy().astype(np.float64)
        pressed = {name for name, impulse in self._touches() if impulse >= _PRESSING}
        linear, angular = _speed(self._bodies[0])
        return Situation(
            hand=Pose(hand[:3], quaternion_to_matrix(hand[3:7])),
            aim=Pose(aim[:3], quaternion_to_matrix(aim[3:])),
            openness=float(hand[7]),
            source=Pose(source.p.astype(np.float64), quaternion_to_matrix(source.q)),
            target=Pose(target.p.astype(np.float64), quaternion_to_matrix(target.q)),
            held=pressed.issuperset(_FINGERS),
            success=self.success(),
            still=linear < _STILL_METRES and angular < _STILL_RADIANS,
        )

    def close(self) -> None:
        """Give the memory back."""
        self._env.close()

    def _settle(self, seconds: float) -> None:
        for _ in range(round(self._env.sim_freq * seconds)):
            self._env.scene.step()

    def _in_base(self, pose: sapien.Pose) -> sapien.Pose:
        return self.base_pose().inv() * pose

    def _extent(self, which: int) -> Float[np.ndarray, "3"]:
        """The object's box as it lies after settling. SimplerEnv turns its edges like a vector, signs included."""
        name = (self._env.source_obj_name, self._env.target_obj_name)[which]
        box: dict[str, Any] = self._env.model_db[name]["bbox"]
        turn = quaternion_to_matrix(self._bodies[which].entity.pose.q)
        return turn @ (np.array(box["max"]) - np.array(box["min"]))

    def _touches(self) -> list[tuple[str, float]]:
        """What the source touches: name, and impulse of the last substep in newton seconds."""
        source = self._bodies[0]
        touches = []
        for contact in self._env.scene.px.get_contacts():
            if source in contact.bodies:
                other = contact.bodies[1 if contact.bodies[0] == source else 0]
                impulse = np.linalg.norm(sum(point.impulse for point in contact.points))
                touches.append((other.entity.name, float(impulse)))
        return touches


def _speed(body: Any) -> tuple[float, float]:
    """Metres and radians a second."""
    return float(np.linalg.norm(body.linear_velocity)), float(np.linalg.norm(body.angular_velocity))


def _xyz_angles(axis_angle: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    """Angles a, b, c of the same rotation as turns about x, y and z, each about the axes that the last has turned.

    ManiSkill3's controller reads a rotation so (`euler_angles_to_matrix(..., "XYZ")`), where SimplerEnv's takes the
    axis times the angle.
    """
    angle = np.linalg.norm(axis_angle)
    sine = 0.5 * np.sinc(angle / (2 * np.pi))  # of half the angle, divided by the angle
    matrix = quaternion_to_matrix(np.concatenate([[np.cos(angle / 2)], sine * axis_angle]))
    return np.array(
        [
            np.arctan2(-matrix[1, 2], matrix[2, 2]),
            np.arcsin(np.clip(matrix[0, 2], -1, 1)),
            np.arctan2(-matrix[0, 1], matrix[0, 0]),
        ]
    )
