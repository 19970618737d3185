import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pizero.robot.bridge import TOP_DOWN, proprioception
from pizero.robot.rotation import euler_to_matrix, quaternion_to_matrix
from pizero.sim.assets import VARIABLE
from pizero.sim.env import Env, eval_seed, make_env, train_seed
from pizero.sim.simpler.env import SimplerEnv

ASSETS = Path(__file__).parents[3] / "../shared/assets"
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mani_skill") is None or not ASSETS.is_dir(), reason="ManiSkill3 or its assets are missing"
)

CARROT, EGGPLANT = "simpler/carrot-on-plate", "simpler/eggplant-in-basket"
STILL = np.array([0, 0, 0, 0, 0, 0, 1], np.float32)


@pytest.fixture(scope="module", autouse=True)
def assets() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(ASSETS))
        yield


def make(task: str) -> SimplerEnv:
    env = make_env(task)
    assert isinstance(env, SimplerEnv)
    return env


@pytest.fixture(scope="module")
def carrot(assets: None) -> Iterator[SimplerEnv]:
    env = make(CARROT)
    yield env
    env.close()


@pytest.fixture(scope="module")
def eggplant(assets: None) -> Iterator[SimplerEnv]:
    env = make(EGGPLANT)
    yield env
    env.close()


def numbers(env: SimplerEnv) -> np.ndarray:
    """All that moves: joints, objects, the controller's aim."""
    seen = env._scene.situation()
    poses = [np.concatenate([pose.p, pose.q]) for pose in env._scene.object_poses()]
    return np.concatenate([env._scene.joints(), *poses, seen.aim.position, seen.aim.rotation.ravel()])


def place(env: SimplerEnv, offset: tuple[float, float, float]) -> None:
    """Put the source at the target's place, shifted; nothing moves before the next step."""
    import sapien

    source, target = env._scene._bodies
    pose = target.entity.pose
    source.entity.set_pose(sapien.Pose(pose.p + np.array(offset), source.entity.pose.q))


def drop(env: SimplerEnv, offset: tuple[float, float, float], steps: int = 5) -> bool:
    place(env, offset)
    return [env.step(STILL) for _ in range(steps)][-1].success


def test_it_is_an_env(carrot: SimplerEnv) -> None:
    assert isinstance(carrot, Env)
    assert len(carrot.noise_scale) == len(carrot.embodiment.actions) == 7
    assert carrot.noise_scale[6] == 0


def test_objects_start_where_simplerenv_has_them(carrot: SimplerEnv) -> None:
    # open-pi-zero, src/agent/env_adapter/simpler.py prints them for episode 5 of the carrot
    carrot.reset(0, 5)
    seen = carrot._scene.situation()
    np.testing.assert_allclose(seen.source.position, [0.381995, 0.104536, 0.0175282], atol=5e-5)
    assert seen.target.position[2] == pytest.approx(-0.000468373, abs=1e-6)


@pytest.mark.parametrize("state", [1, 8, 12, 23])
def test_an_episode_starts_when_everything_has_come_to_rest(eggplant: SimplerEnv, state: int) -> None:
    eggplant.reset(0, state)
    before = eggplant._scene.situation()
    assert before.still
    eggplant.step(STILL)
    after = eggplant._scene.situation()
    np.testing.assert_allclose(after.source.position, before.source.position, atol=1e-3)
    np.testing.assert_allclose(after.target.position, before.target.position, atol=1e-3)


def test_the_robot_starts_the_same_in_every_episode(carrot: SimplerEnv, eggplant: SimplerEnv) -> None:
    for env, place in ((carrot, [0.2921, -0.0061, 0.1353]), (eggplant, [0.2497, -0.0675, 0.2276])):
        env.reset(0, 3)
        first = env._scene.hand_pose()
        np.testing.assert_allclose(first[:3], place, atol=1e-4)
        assert first[7] == pytest.approx(1)
        for _ in range(8):
            env.step(env.expert_action())
        env.reset(7)
        np.testing.assert_array_equal(env._scene.hand_pose(), first)


@pytest.mark.parametrize(
    "turn", [(0.3, 0.0, 0.0), (0.0, -0.2, 0.0), (0.0, 0.0, 0.4), (0.3, -0.2, 0.4)], ids=["roll", "pitch", "yaw", "all"]
)
def test_an_action_shifts_and_turns_the_aim_in_the_frame_of_the_base(
    carrot: SimplerEnv, turn: tuple[float, float, float]
) -> None:
    carrot.reset(0, 3)
    before = carrot._scene.situation().aim
    carrot.step(np.array([0.01, 0.02, -0.03, *turn, 1], np.float32))
    after = carrot._scene.situation().aim
    np.testing.assert_allclose(after.position - before.position, [0.01, 0.02, -0.03], atol=1e-6)
    np.testing.assert_allclose(after.rotation, euler_to_matrix(np.array(turn)) @ before.rotation, atol=1e-5)


def test_the_hand_goes_where_it_aims_and_the_state_says_so(carrot: SimplerEnv) -> None:
    carrot.reset(0, 3)
    for _ in range(5):
        carrot.step(np.array([0.01, 0.01, 0, 0, 0, 0.1, 1], np.float32))
    for _ in range(10):
        carrot.step(STILL)
    seen = carrot._scene.situation()
    np.testing.assert_allclose(seen.hand.position, seen.aim.position, atol=1e-3)
    np.testing.assert_allclose(seen.hand.position, [0.2921 + 0.05, -0.0061 + 0.05, 0.1353], atol=2e-3)
    state = proprioception(carrot._scene.hand_pose())
    np.testing.assert_allclose(state[:3], seen.hand.position)
    np.testing.assert_allclose(euler_to_matrix(state[3:6]) @ TOP_DOWN, seen.hand.rotation, atol=1e-9)
    assert state[5] == pytest.approx(0.5, abs=0.05)


def test_one_opens_the_gripper_and_zero_closes_it(carrot: SimplerEnv) -> None:
    carrot.reset(0, 3)
    for action, openness in ((0.4, 0.0), (0.6, 1.0)):
        for _ in range(8):
            carrot.step(np.array([0, 0, 0, 0, 0, 0, action], np.float32))
        assert carrot._scene.hand_pose()[7] == pytest.approx(openness, abs=0.02)


def test_the_carrot_counts_when_it_touches_nothing_but_plate_and_robot(carrot: SimplerEnv) -> None:
    carrot.reset(0, 3)
    assert not carrot._scene.success()
    assert drop(carrot, (0.0, 0.0, 0.028))
    assert not drop(carrot, (0.05, 0.05, 0.028))  # over the rim: it touches the table, too
    assert "scene-0_arena" in {name for name, impulse in carrot._scene._touches() if impulse > 0}
    assert not drop(carrot, (0.12, 0.0, 0.02))


def test_the_carrot_counts_in_the_hand_when_it_is_low_over_the_plate(carrot: SimplerEnv) -> None:
    carrot.reset(0, 3)
    while not carrot.step(carrot.expert_action()).success:
        pass
    assert {name for name, _ in carrot._scene._touches()} == {"left_finger_link", "right_finger_link"}


def test_eggplant_counts_within_six_centimetres_above_the_basket(eggplant: SimplerEnv) -> None:
    eggplant.reset(0, 3)
    assert not eggplant._scene.success()
    half_height = eggplant._scene._extents[0][2] / 2 + eggplant._scene._extents[1][2] / 2
    place(eggplant, (0.0, 0.0, half_height + 0.055))
    assert eggplant._scene.success()
    place(eggplant, (0.0, 0.0, half_height + 0.065))
    assert not eggplant._scene.success()
    place(eggplant, (0.0, 0.1, half_height + 0.03))
    assert not eggplant._scene.success()
    place(eggplant, (0.0, 0.0, -0.01))
    assert not eggplant._scene.success()


def test_an_episode_lasts_until_max_steps_and_may_go_on(carrot: SimplerEnv) -> None:
    carrot.reset(train_seed(0))
    place(carrot, (0.0, 0.0, 0.028))
    steps = [carrot.step(STILL) for _ in range(carrot.task.max_steps + 2)]
    assert [step.done for step in steps] == [False] * (carrot.task.max_steps - 1) + [True] * 3
    assert steps[-1].success


@pytest.mark.parametrize("action", [np.zeros(6, np.float32), np.array([0, np.nan, 0, 0, 0, 0, 0], np.float32)])
def test_an_action_that_is_none_is_refused(carrot: SimplerEnv, action: np.ndarray) -> None:
    carrot.reset(0, 0)
    with pytest.raises(ValueError, match="simpler/carrot-on-plate takes 7 finite numbers"):
        carrot.step(action)


@pytest.mark.parametrize("state", [-1, 24])
def test_a_state_that_is_not_prescribed_is_refused(carrot: SimplerEnv, state: int) -> None:
    with pytest.raises(ValueError, match=rf"has states 0 \.\.\. 23; state is {state}"):
        carrot.reset(0, state)


def trajectory(env: SimplerEnv, seed: int, state: int | None, steps: int = 12) -> np.ndarray:
    env.reset(seed, state)
    rows = [numbers(env)]
    for _ in range(steps):
        env.step(env.expert_action())
        rows.append(numbers(env))
    return np.array(rows)


@pytest.mark.parametrize("task", [CARROT, EGGPLANT])
def test_an_episode_is_the_same_whatever_ran_before_and_in_every_process(
    task: str, carrot: SimplerEnv, eggplant: SimplerEnv
) -> None:
    env = carrot if task == CARROT else eggplant
    first = trajectory(env, eval_seed(3), None)
    trajectory(env, train_seed(5), None)  # ends with the thing in the hand
    for action in ([0.03, 0, -0.03, 0.2, 0, 0, 0], [-0.03, 0.03, -0.03, 0, 0.2, 0, 0]):  # and is thrown about
        for _ in range(6):
            env.step(np.array(action, np.float32))
    np.random.seed(0)
    np.testing.assert_array_equal(trajectory(env, eval_seed(3), None), first)
    assert not np.array_equal(trajectory(env, eval_seed(4), None), first)
    elsewhere = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, task, str(Path(__file__).parent)],
        capture_output=True,
        timeout=120,
        check=True,
    )
    np.testing.assert_array_equal(np.frombuffer(elsewhere.stdout).reshape(first.shape), first)


ELSEWHERE = """
import sys
sys.path.insert(0, sys.argv[2])
from test_simpler_env import eval_seed, make, trajectory
sys.stdout.buffer.write(trajectory(make(sys.argv[1]), eval_seed(3), None).tobytes())
"""


@pytest.mark.parametrize("task", ["simpler/carrot-on-plate", "simpler/spoon-on-towel", "simpler/stack-cube", EGGPLANT])
def test_the_expert_puts_it_there_lets_go_and_stands_still(task: str) -> None:
    env = make(task)
    for start in ({"seed": train_seed(1)}, {"seed": 0, "state": 13}):
        env.reset(**start)
        steps = 0
        while not env.expert_done():
            env.step(env.expert_action())
            steps += 1
            assert steps <= 40
        assert env._scene.success()
        np.testing.assert_array_equal(env.expert_action(), STILL)
        seen = env._scene.situation()
        assert seen.openness > 0.8
        assert seen.hand.position[2] > seen.source.position[2] + 0.05
        for _ in range(5):
            assert env.step(env.expert_action()).success


def test_what_is_dropped_is_grasped_again(carrot: SimplerEnv) -> None:
    carrot.reset(train_seed(2))
    steps = 0
    while not carrot._scene.situation().source.position[2] > 0.06:
        carrot.step(carrot.expert_action())
        steps += 1
    for _ in range(3):
        carrot.step(STILL)  # opens in mid-air
    assert carrot._scene.situation().source.position[2] < 0.03
    while not carrot.expert_done():
        carrot.step(carrot.expert_action())
        steps += 1
        assert steps < 60


def test_the_state_in_a_frame_is_of_the_hand_link_in_the_base(carrot: SimplerEnv) -> None:
    carrot.reset(0, 3)
    pose = carrot._scene.hand_pose()
    hand = carrot._scene._links["ee_gripper_link"]._objs[0].entity.pose
    base = carrot._scene.base_pose()
    in_world = base.to_transformation_matrix() @ np.array([*pose[:3], 1])
    np.testing.assert_allclose(in_world[:3], hand.p, atol=1e-6)
    turn = quaternion_to_matrix(base.q) @ quaternion_to_matrix(pose[3:7])
    np.testing.assert_allclose(turn, quaternion_to_matrix(hand.q), atol=1e-6)


def python(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **variables}, timeout=120
    )


FIRST_PICTURE = """
from pizero.sim.env import make_env
env = make_env("simpler/carrot-on-plate")
env.reset(0)
try:
    env.frame()
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"VK_ICD_FILENAMES": "/nowhere.json"}, "Vulkan cannot render here"),
        ({"PIZERO_RENDER": "gpu", "VK_ICD_FILENAMES": "/nowhere.json"}, "Vulkan cannot render here"),
    ],
    ids=["no driver", "no gpu"],
)
def test_without_a_driver_the_physics_runs_and_the_first_picture_says_what_is_missing(
    variables: dict[str, str], words: str
) -> None:
    ended = python(FIRST_PICTURE, **{"VK_DRIVER_FILES": "", **variables})
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("\n") == 1
    assert words in ended.stdout
    assert "apt-get install -y chromium-common" in ended.stdout
