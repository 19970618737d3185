import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from pizero.sim.env import eval_seed, make_env, train_seed
from pizero.sim.metaworld import _CELL, CAMERA, EMBODIMENT, FRAME_SIZE, MetaWorldEnv
from pizero.sim.mujoco_renderer import picture_model

SIZE = 200


@pytest.fixture(scope="module")
def reach() -> Iterator[MetaWorldEnv]:
    env = make_env("metaworld/reach")
    assert isinstance(env, MetaWorldEnv)
    yield env
    env.close()


@pytest.fixture(scope="module")
def faucet() -> Iterator[MetaWorldEnv]:
    env = make_env("metaworld/faucet-open")
    assert isinstance(env, MetaWorldEnv)
    yield env
    env.close()


def where_on_picture(env: MetaWorldEnv, point: np.ndarray) -> np.ndarray:
    """(column, row) at which a person standing upright at the camera would see a point of the world."""
    model, data = env._env.model, env._env.data
    camera = model.camera(CAMERA).id
    forward = -data.cam_xmat[camera].reshape(3, 3)[:, 2]
    right = np.cross(forward, (0, 0, 1))
    right /= np.linalg.norm(right)
    up = np.cross(right, forward)
    offset = point - data.cam_xpos[camera]
    scale = SIZE / 2 / np.tan(np.radians(model.cam_fovy[camera]) / 2) / (offset @ forward)
    return np.array([SIZE / 2 + scale * (offset @ right), SIZE / 2 - scale * (offset @ up)])


def ball(picture: np.ndarray) -> np.ndarray | None:
    """(column, row) of the middle of the green pixels."""
    red, green, blue = np.moveaxis(picture.astype(int), -1, 0)
    rows, columns = np.nonzero((green > 30) & (green > 1.5 * red) & (green > 1.5 * blue))
    return np.array([columns.mean() + 0.5, rows.mean() + 0.5]) if len(rows) else None


@pytest.mark.parametrize("seed", range(5))
def test_pictures_are_upright_and_not_mirrored(reach: MetaWorldEnv, seed: int) -> None:
    reach.reset(seed)
    seen = ball(reach.picture(SIZE))
    expected = where_on_picture(reach, reach._env._target_pos)
    assert seen is not None
    np.testing.assert_allclose(seen, expected, atol=4)  # the camera hangs askew by 3 degrees
    assert expected[0] - SIZE / 2 > 20  # where a mirror would move it


@pytest.mark.parametrize("name", ["coffee-pull", "pick-out-of-hole", "pick-place", "plate-slide-back", "push-back"])
def test_a_goal_that_nothing_else_shows_has_the_same_green_ball_everywhere(name: str) -> None:
    env = make_env("metaworld/" + name)
    assert isinstance(env, MetaWorldEnv)
    env.reset(3)
    seen = ball(env.picture(SIZE))
    assert seen is not None
    np.testing.assert_allclose(seen, where_on_picture(env, env._env._target_pos), atol=5)
    env.close()


@pytest.mark.parametrize("name", ["faucet-open", "window-close", "drawer-close", "button-press-topdown", "coffee-push"])
def test_no_ball_tells_what_to_do_where_the_instruction_must(name: str) -> None:
    env = make_env("metaworld/" + name)
    assert isinstance(env, MetaWorldEnv)
    env.reset(3)
    before = env.picture(SIZE)
    env._env.data.site_xpos += (0.1, 0.1, 0.1)
    np.testing.assert_array_equal(env.picture(SIZE), before)
    env.close()


def test_a_frame_is_one_picture_four_numbers_and_the_instruction(faucet: MetaWorldEnv) -> None:
    faucet.reset(train_seed(0))
    faucet.step(np.array([1, 1, 1, 1], np.float32))
    frame = faucet.frame()
    assert {camera: image.shape for camera, image in frame.images.items()} == {CAMERA: (FRAME_SIZE, FRAME_SIZE, 3)}
    data = faucet._env.data
    opening = np.linalg.norm(data.body("rightclaw").xpos - data.body("leftclaw").xpos) / 0.1
    np.testing.assert_allclose(frame.state, [*data.body("hand").xpos, min(opening, 1)], atol=1e-6)
    assert frame.state.dtype == np.float32
    assert frame.prompt == "open the faucet"


def test_the_camera_hangs_where_lerobot_has_it(faucet: MetaWorldEnv) -> None:
    faucet.reset(0)
    np.testing.assert_allclose(faucet._env.data.camera(CAMERA).xpos, (0.75, 0.075, 0.7))


def test_the_robot_is_described_as_it_is(faucet: MetaWorldEnv) -> None:
    assert 1 / faucet._env.dt == pytest.approx(EMBODIMENT.control_rate_hz)
    assert EMBODIMENT.gripper_action == "1 closes"
    openings = []
    for gripper in (-1.0, 1.0):
        faucet.reset(0)
        for _ in range(30):
            faucet.step(np.array([0, 0, 0, gripper], np.float32))
        openings.append(faucet.frame().state[3])
    assert openings[0] > openings[1] + 0.2
    # an action of 1 moves the hand's target by one centimetre
    faucet.reset(0)
    start = faucet.frame().state
    for _ in range(10):
        faucet.step(np.array([1, 0, 0, 0], np.float32))
    for _ in range(20):
        faucet.step(np.zeros(4, np.float32))
    assert faucet.frame().state[0] - start[0] == pytest.approx(0.1, abs=0.01)


def test_actions_are_clipped_to_the_bounds(faucet: MetaWorldEnv) -> None:
    states = []
    for factor in (1, 100):
        faucet.reset(1)
        for _ in range(5):
            faucet.step(np.array([1, -1, 1, 1], np.float32) * factor)
        states.append(faucet.frame().state)
    np.testing.assert_array_equal(states[0], states[1])


@pytest.mark.parametrize("action", [np.zeros(3, np.float32), np.array([0, np.nan, 0, 0], np.float32)])
def test_an_action_that_is_none_is_refused(faucet: MetaWorldEnv, action: np.ndarray) -> None:
    faucet.reset(0)
    with pytest.raises(ValueError, match="metaworld/faucet-open takes 4 finite numbers"):
        faucet.step(action)


def test_the_expert_knows_the_goal_and_the_frame_does_not(reach: MetaWorldEnv) -> None:
    for seed in range(5):
        reach.reset(seed)
        for _ in range(80):
            step = reach.step(reach.expert_action())
            if step.success:
                break
        assert step.success
        assert step.done


def test_an_episode_ends_at_its_last_step_and_may_go_on(faucet: MetaWorldEnv) -> None:
    faucet.reset(0)
    steps = [faucet.step(np.zeros(4, np.float32)) for _ in range(faucet.task.max_steps + 3)]
    assert [step.done for step in steps] == [False] * (faucet.task.max_steps - 1) + [True] * 4
    assert not any(step.success for step in steps)


def trajectory(env: MetaWorldEnv, seed: int) -> np.ndarray:
    """Everything Meta-World observes along 30 steps of the expert, and the first picture."""
    env.reset(seed)
    rows = [env.frame().images[CAMERA].ravel(), env._observed(), env._env.data.qpos]
    for _ in range(30):
        env.step(env.expert_action())
        rows.append(env._observed())
    return np.concatenate(rows)


@pytest.mark.parametrize("name", ["faucet-close", "window-close", "box-close", "door-lock", "stick-pull"])
def test_a_seed_names_one_episode_whatever_ran_before(name: str) -> None:
    env = make_env("metaworld/" + name)
    assert isinstance(env, MetaWorldEnv)
    first = trajectory(env, 5)
    other = trajectory(env, 6)
    for _ in range(40):  # push things about
        env.step(np.array([1, 1, -1, 1], np.float32))
    np.random.seed(0)  # in case Meta-World used the global generator
    again = trajectory(env, 5)
    env.close()
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_initial_states_differ_between_episodes_and_from_training(faucet: MetaWorldEnv) -> None:
    places = set()
    for seed in [*map(train_seed, range(30)), *map(eval_seed, range(30))]:
        faucet.reset(seed)
        places.add(tuple(faucet._observed()[4:7].round(9)))
    assert len(places) == 60


def test_a_thinned_mesh_is_a_part_of_the_mesh_and_looks_the_same(faucet: MetaWorldEnv) -> None:
    faucet.reset(0)
    picture = faucet.picture(FRAME_SIZE).astype(int)
    whole = faucet._env.model
    thin = picture_model(whole, FRAME_SIZE, _CELL)
    assert thin.mesh_facenum.sum() < 0.5 * whole.mesh_facenum.sum()
    np.testing.assert_array_equal(whole.mesh_vert, thin.mesh_vert)
    mesh = whole.mesh("l1").id
    faces = thin.mesh_face[thin.mesh_faceadr[mesh] : thin.mesh_faceadr[mesh] + thin.mesh_facenum[mesh]]
    assert 0 <= faces.min() <= faces.max() < whole.mesh_vertnum[mesh]
    assert all(len(set(face)) == 3 for face in faces.tolist())
    other = MetaWorldEnv(faucet.task)
    other.reset(0)
    other.picture(FRAME_SIZE)
    assert other._renderer is not None
    # the whole meshes, drawn by the same renderer
    for i in range(whole.nmesh):
        other._mujoco.mjr_uploadMesh(whole, other._renderer._context, i)
    difference = np.abs(other.picture(FRAME_SIZE).astype(int) - picture).max(-1)
    other.close()
    assert 0 < difference.mean() < 0.5
    assert (difference > 16).mean() < 0.006


def test_a_closed_environment_renders_again(faucet: MetaWorldEnv) -> None:
    faucet.reset(0)
    before = faucet.picture(64)
    faucet.close()
    faucet.close()
    np.testing.assert_array_equal(faucet.picture(64), before)


def python(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **variables}, timeout=120
    )


def test_a_program_that_forgets_to_close_ends_in_silence() -> None:
    ended = python(
        "from pizero.sim.env import make_env\n"
        "envs = [make_env('metaworld/reach') for _ in range(2)]\n"
        "for env in envs:\n"
        "    env.reset(0)\n"
        "    env.frame()\n"
        "gone = make_env('metaworld/reach'); gone.reset(0); gone.frame(); del gone\n"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_without_egl_the_error_is_one_line_with_the_command_that_helps() -> None:
    ended = python(
        "import ctypes.util\n"
        "find = ctypes.util.find_library\n"
        "ctypes.util.find_library = lambda name: None if name in ('EGL', 'GL') else find(name)\n"
        "import ctypes\n"
        "load = ctypes.CDLL.__init__\n"
        "def refuse(self, name, *rest, **more):\n"
        "    if name and ('EGL' in name or 'libGL' in name):\n"
        "        raise OSError(name + ': cannot open shared object file')\n"
        "    load(self, name, *rest, **more)\n"
        "ctypes.CDLL.__init__ = refuse\n"
        "from pizero.sim.env import make_env\n"
        "try:\n"
        "    make_env('metaworld/reach')\n"
        "except OSError as error:\n"
        "    print(error)\n"
    )
    assert ended.stderr == ""
    assert ended.stdout.count("\n") == 1
    assert "apt-get install -y libegl1 libgl1-mesa-dri" in ended.stdout


def test_without_a_driver_the_error_is_one_line_too() -> None:
    ended = python(
        "from pizero.sim.env import make_env\n"
        "env = make_env('metaworld/reach'); env.reset(0)\n"
        "try:\n"
        "    env.frame()\n"
        "except OSError as error:\n"
        "    print(error)\n",
        __EGL_VENDOR_LIBRARY_FILENAMES="/nowhere.json",
    )
    assert ended.stderr == ""
    assert ended.stdout.count("\n") == 1
    assert "apt-get install -y libegl1 libgl1-mesa-dri" in ended.stdout
