import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pizero.data.images import resize_squashed
from pizero.robot.bridge import BRIDGE
from pizero.robot.rotation import quaternion_to_matrix
from pizero.sim.assets import VARIABLE
from pizero.sim.env import make_env, train_seed
from pizero.sim.simpler.env import FRAME_SIZE, SimplerEnv

ASSETS = Path(__file__).parents[3] / "../shared/assets"
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mani_skill") is None or not ASSETS.is_dir(), reason="ManiSkill3 or its assets are missing"
)
PHOTOGRAPHS = ASSETS / "maniskill3/data/tasks/bridge_v2_real2sim_dataset/real_inpainting"


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
def cubes(assets: None) -> Iterator[SimplerEnv]:
    env = make("simpler/stack-cube")
    yield env
    env.close()


@pytest.fixture(scope="module")
def eggplant(assets: None) -> Iterator[SimplerEnv]:
    env = make("simpler/eggplant-in-basket")
    yield env
    env.close()


def view(env: SimplerEnv) -> np.ndarray:
    """The camera's 480 x 640 picture."""
    env.picture(8)  # makes the renderer
    assert env._pictures is not None
    return env._pictures.draw(env._scene)


def photograph(name: str) -> np.ndarray:
    return np.asarray(Image.open(PHOTOGRAPHS / name).convert("RGB"))


CAMERA = (np.array([0.0, -0.16, 0.36]), np.array([0.8992917, -0.09263245, 0.35892478, 0.23209205]))
"""Of the table scenes, in the base's frame: position and quaternion; x looks into the picture, z up (SimplerEnv)."""


def pixel(position: np.ndarray) -> tuple[int, int]:
    """(row, column) at which a point in the base's frame is seen; focal length and middle are SimplerEnv's."""
    ahead, left, up = quaternion_to_matrix(CAMERA[1]).T @ (position - CAMERA[0])
    return round(239.545 - 623.588 * up / ahead), round(319.501 - 623.588 * left / ahead)


def test_things_are_seen_where_they_are_and_follow_the_hand(cubes: SimplerEnv) -> None:
    cubes.reset(0, 4)
    for moved in (0, 11):
        for _ in range(moved):
            cubes.step(cubes.expert_action())
        seen = cubes._scene.situation()
        picture = view(cubes)
        green, yellow = (
            picture[pixel(seen.source.position)].astype(int),
            picture[pixel(seen.target.position)].astype(int),
        )
        assert green[1] > green[0] + 10
        fingers = [cubes._scene._links[f"{side}_finger_link"]._objs[0].entity.pose for side in ("left", "right")]
        for finger in fingers:
            place = pixel((cubes._scene.base_pose().inv() * finger).p)
            assert (picture[place] != photograph("bridge_real_eval_1.png")[place]).any()
            assert picture[place].max() < 100
        assert yellow[0] > 200
        assert yellow[0] > yellow[2] + 40
    assert seen.source.position[2] > 0.05


def test_around_robot_and_things_there_is_the_photograph(cubes: SimplerEnv, eggplant: SimplerEnv) -> None:
    for env, name, least in ((cubes, "bridge_real_eval_1.png", 0.85), (eggplant, "bridge_sink.png", 0.85)):
        env.reset(0, 4)
        same = (view(env) == photograph(name)).all(-1)
        assert least < same.mean() < 0.99
        assert same[:, :100].all()  # table's edge, or basket and rim of the sink: only drawn things differ
        assert same[400:].all()


def test_the_robot_has_light_and_shade(cubes: SimplerEnv) -> None:
    cubes.reset(0, 4)
    picture, behind = view(cubes), photograph("bridge_real_eval_1.png")
    robot = (picture != behind).any(-1) & (picture.max(-1) < 120)
    assert robot.sum() > 5000
    grey = picture[robot].mean(-1)
    assert len(np.unique(grey)) > 30
    assert grey.std() > 4


def test_the_sink_hides_what_is_behind_its_wall_and_is_not_drawn_itself(eggplant: SimplerEnv) -> None:
    eggplant.reset(0, 4)
    assert (view(eggplant) != photograph("bridge_sink.png")).any(-1)[240:].sum() > 1000  # the eggplant
    eggplant.step(np.array([0, 0, 0, 0, 0, 0, 1], np.float32))
    import sapien

    body = eggplant._scene._bodies[0].entity
    body.set_pose(sapien.Pose([-0.16, 0.13, 0.80], body.pose.q))  # below the sink
    assert (view(eggplant) != photograph("bridge_sink.png")).any(-1)[240:].sum() == 0


def test_a_frame_is_the_view_squashed_with_state_and_instruction(cubes: SimplerEnv) -> None:
    cubes.reset(0, 4)
    frame = cubes.frame()
    (camera,) = BRIDGE.cameras
    assert set(frame.images) == {camera}
    np.testing.assert_array_equal(frame.images[camera], resize_squashed(view(cubes), (224, 224)))
    assert frame.images[camera].shape == (FRAME_SIZE, FRAME_SIZE, 3)
    assert frame.state.shape == (7,)
    assert frame.state.dtype == np.float32
    assert frame.prompt == "stack the green block on the yellow block"
    assert cubes.picture(100).shape == (100, 100, 3)


def test_scenes_of_one_process_do_not_mix(cubes: SimplerEnv, eggplant: SimplerEnv) -> None:
    cubes.reset(0, 4)
    before = cubes.picture(100)
    carrot = make("simpler/carrot-on-plate")
    carrot.reset(0, 4)
    carrot.picture(100)
    eggplant.reset(0, 4)
    eggplant.picture(100)
    np.testing.assert_array_equal(cubes.picture(100), before)
    carrot.close()
    cubes.close()
    np.testing.assert_array_equal(cubes.picture(100), before)


def test_looking_changes_nothing(cubes: SimplerEnv) -> None:
    ends = []
    for look in (True, False):
        cubes.reset(train_seed(4))
        for _ in range(10):
            if look:
                cubes.frame()
            cubes.step(cubes.expert_action())
        ends.append(np.concatenate([cubes._scene.joints(), *(pose.p for pose in cubes._scene.object_poses())]))
    np.testing.assert_array_equal(*ends)
