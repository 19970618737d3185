import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pizero.robot.libero import IDLE, IDLE_STEPS, LIBERO, proprioception, upright
from pizero.sim.assets import VARIABLE
from pizero.sim.env import eval_seed, make_env, train_seed
from pizero.sim.libero.assets import task_files
from pizero.sim.libero.env import FRAME_SIZE, LiberoEnv
from pizero.sim.libero.world import JOINT_NOISE, NEAR, World, _numpy_seeded

ASSETS = Path(__file__).parents[3] / "../shared/assets"
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libero") is None or not ASSETS.is_dir(), reason="LIBERO or its assets are not here"
)

DRAWER = "libero-spatial/4"
"""Bowls on a cabinet and in its drawer: the task with most that depends on where a fixture stands."""
STILL = np.array(IDLE, np.float32)


@pytest.fixture(scope="module", autouse=True)
def assets() -> Iterator[None]:
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(ASSETS)
    yield
    del os.environ[VARIABLE]
    if before is not None:
        os.environ[VARIABLE] = before


@pytest.fixture(scope="module")
def drawer(assets: None) -> Iterator[LiberoEnv]:
    env = make_env(DRAWER)
    assert isinstance(env, LiberoEnv)
    yield env
    env.close()


@pytest.fixture(scope="module")
def original(drawer: LiberoEnv) -> Iterator[object]:
    """LIBERO's own environment of the same task with its own cameras, as openpi makes it."""
    from libero.libero.envs.env_wrapper import ControlEnv

    with _numpy_seeded(7):
        env = ControlEnv(str(task_files(drawer.task)[0]), camera_heights=FRAME_SIZE, camera_widths=FRAME_SIZE)
    yield env
    env.close()


def world_of(env: LiberoEnv) -> World:
    return env._world


def objects(world: World) -> np.ndarray:
    return np.array([world.pose(name)[0] for name in world.env.objects_dict])


def test_a_reset_draws_what_a_newly_built_environment_draws(drawer: LiberoEnv, original) -> None:
    """The first to use `original`, which is as it was built: robosuite builds its model anew at each reset."""
    world = world_of(drawer)
    drawer.reset(1)
    drawer.step(np.ones(7, np.float32))
    with _numpy_seeded(7):
        world._draw()
    np.testing.assert_array_equal(world.sim.model.body_pos, original.sim.model.body_pos)
    np.testing.assert_array_equal(world.sim.model.body_quat, original.sim.model.body_quat)
    ours, theirs = world.sim.data.qpos.copy(), original.sim.data.qpos.copy()
    arm = world._robot._ref_joint_pos_indexes
    assert 0 < np.abs(ours[arm] - theirs[arm]).max() < 5 * JOINT_NOISE
    ours[arm] = theirs[arm]
    np.testing.assert_array_equal(ours, theirs)


def test_a_prescribed_state_is_seen_and_acted_in_as_in_the_benchmark(drawer: LiberoEnv, original) -> None:
    world = world_of(drawer)
    drawer.reset(7, 3)
    original.sim._render_context_offscreen.gl_ctx.make_current()  # robosuite takes its own context for granted
    original.env.object_property_initializers.clear()  # LIBERO adds to this list at each reset, and draws more numbers
    with _numpy_seeded(7):
        original.reset()
    original.set_init_state(world.states[3])
    for _ in range(IDLE_STEPS):
        seen, *_ = original.step(list(IDLE))
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 7)).astype(np.float32)
    for action in [None, *actions]:
        if action is not None:
            drawer.step(action)
            original.sim._render_context_offscreen.gl_ctx.make_current()
            seen, *_ = original.step(action.astype(float))
        np.testing.assert_array_equal(world.sim.data.qpos, original.sim.data.qpos)
        np.testing.assert_array_equal(world.sim.data.qvel, original.sim.data.qvel)
        frame = drawer.frame()
        state = proprioception(seen["robot0_eef_pos"], seen["robot0_eef_quat"], seen["robot0_gripper_qpos"])
        np.testing.assert_allclose(frame.state, state, atol=1e-6)
        assert frame.state.dtype == np.float32
        for camera, key in (("image", "agentview_image"), ("wrist_image", "robot0_eye_in_hand_image")):
            ours, theirs = frame.images[camera].astype(int), upright(seen[key]).astype(int)
            difference = np.abs(ours - theirs)
            assert difference.mean() < 4  # it draws shadows and smooths edges
            for turned in (ours[::-1], ours[:, ::-1], ours[::-1, ::-1]):
                assert np.abs(turned - theirs).mean() > 8 * difference.mean()


def test_pictures_show_what_robosuites_cameras_saw_not_what_happened_since(drawer: LiberoEnv, original) -> None:
    drawer.reset(7, 3)
    for _ in range(4):
        drawer.step(np.array([1, 1, -1, 0, 0, 0, -1], np.float32))
    world = world_of(drawer)
    now = world.hand_pose()[0]
    late = np.linalg.norm(now - drawer.frame().state[:3])
    assert 1e-4 < late < 3e-3  # one physics step of 2 ms
    world.sim.data.site_xpos += 1
    assert np.linalg.norm(now - drawer.frame().state[:3]) == late


def trajectory(env: LiberoEnv, seed: int, state: int | None) -> np.ndarray:
    """Everything along 12 steps, and what the robot sees at the end."""
    env.reset(seed, state)
    data, generator = world_of(env).sim.data, np.random.default_rng(1)
    rows = [data.qpos.copy(), world_of(env).sim.model.body_pos.ravel().copy()]
    for _ in range(12):
        env.step(generator.uniform(-1, 1, 7).astype(np.float32))
        rows += [data.qpos.copy(), data.qvel.copy()]
    frame = env.frame()
    return np.concatenate([*rows, frame.state, *(image.ravel() for image in frame.images.values())])


@pytest.mark.parametrize("state", [None, 11])
def test_the_same_arguments_name_one_episode_whatever_ran_before(drawer: LiberoEnv, state: int | None) -> None:
    first = trajectory(drawer, 5, state)
    other = trajectory(drawer, 6, state)
    for _ in range(40):  # push things about, close the gripper
        drawer.step(np.array([1, -1, -1, 0, 0, 0.5, 1], np.float32))
    np.random.seed(3)
    np.testing.assert_array_equal(trajectory(drawer, 5, state), first)
    assert not np.array_equal(first, other)  # in a prescribed state, the fixtures


def test_drawing_leaves_numpys_generator_as_it_was(drawer: LiberoEnv) -> None:
    np.random.seed(0)
    drawer.reset(9)
    after = np.random.uniform()
    np.random.seed(0)
    assert np.random.uniform() == after


def test_drawn_states_differ_from_each_other_and_from_all_prescribed_ones(drawer: LiberoEnv) -> None:
    world = world_of(drawer)
    rows = []
    for seed in [*map(train_seed, range(5)), *map(eval_seed, range(5))]:
        drawer.reset(seed)
        assert not world.near_prescribed()
        arm = world.sim.data.qpos[world._robot._ref_joint_pos_indexes]
        rows.append(np.concatenate([objects(world).ravel(), arm]))
    table = np.array(rows)
    apart = np.abs(table[:, None] - table[None]).max(-1)
    assert apart[~np.eye(10, dtype=bool)].min() > NEAR
    prescribed = world.states[:, 1:][:, world._robot._ref_joint_pos_indexes]
    assert 0.5 < (table[:, -7:].std(0) / prescribed.std(0)).mean() < 2


def test_a_state_that_is_nearly_prescribed_is_drawn_anew(drawer: LiberoEnv) -> None:
    world, states = world_of(drawer), world_of(drawer).states
    with _numpy_seeded(21):
        world._draw()
        drawn = world.sim.get_state().flatten()
    forbidden = drawn.copy()
    forbidden[1:][world._places[:, 0]] += 0.9 * NEAR
    try:
        world.states = np.stack([states[0], forbidden])
        with _numpy_seeded(21):
            world._draw()
            assert world.near_prescribed()
        drawer.reset(21)
        assert np.abs(objects(world) - drawn[1:][world._places])[:, :2].max() > NEAR
        far = drawn.copy()
        far[1:][world._places[2, 1]] += 1.1 * NEAR  # one object elsewhere makes another state
        world.states = far[None]
        with _numpy_seeded(21):
            world._draw()
            assert not world.near_prescribed()
    finally:
        world.states = states


def test_objects_lie_still_at_the_start(drawer: LiberoEnv) -> None:
    world = world_of(drawer)
    for state in (0, None):
        drawer.reset(2, state)
        start = objects(world)
        for _ in range(10):
            drawer.step(STILL)
        assert np.abs(objects(world) - start).max() < 0.005
    assert world.fingers() == pytest.approx((0.04, -0.04), abs=0.002)  # open


def test_a_frame_has_both_cameras_and_the_benchmarks_instruction(drawer: LiberoEnv) -> None:
    drawer.reset(0)
    frame = drawer.frame()
    assert {camera: image.shape for camera, image in frame.images.items()} == dict.fromkeys(
        LIBERO.cameras, (FRAME_SIZE, FRAME_SIZE, 3)
    )
    assert frame.prompt.startswith("pick up the black bowl in the top drawer")
    np.testing.assert_array_equal(drawer.picture(FRAME_SIZE), frame.images["image"])
    assert drawer.picture(100).shape == (100, 100, 3)
    small = drawer.picture(64).reshape(64, 64, 3).astype(int)
    large = frame.images["image"].reshape(64, 4, 64, 4, 3).mean((1, 3))
    assert np.abs(small - large).mean() < 6


@pytest.mark.parametrize(
    ("action", "moves", "turns"),
    [
        ((1, 0, 0, 0, 0, 0), (1, 0, 0), (0, 0, 0)),
        ((0, 1, 0, 0, 0, 0), (0, 1, 0), (0, 0, 0)),
        ((0, 0, 1, 0, 0, 0), (0, 0, 1), (0, 0, 0)),
        ((0, 0, 0, 0, 0, 1), (0, 0, 0), (0, 0, 1)),
        ((0, 0, 0, 1, 0, 0), None, (1, 0, 0)),
    ],
)
def test_actions_move_and_turn_the_hand_along_the_axes_of_the_world(drawer: LiberoEnv, action, moves, turns) -> None:
    drawer.reset(4, 0)
    world = world_of(drawer)
    position, rotation = world.hand_pose()
    assert rotation[:, 2] == pytest.approx((0, 0, -1), abs=0.1)  # the hand points down
    for _ in range(4):
        drawer.step(np.array([*action, -1], np.float32))
    moved, turned = world.hand_pose()
    if moves is not None:
        assert (moved - position)[np.abs(moves) == 0] == pytest.approx(0, abs=0.03)
        assert (moved - position) @ moves > (0.03 if any(moves) else -1)
    relative = turned @ rotation.T
    axis = np.array([relative[2, 1] - relative[1, 2], relative[0, 2] - relative[2, 0], relative[1, 0] - relative[0, 1]])
    assert axis / 2 == pytest.approx(np.array(turns) * (axis @ turns) / 2, abs=0.1)
    assert axis @ turns > (0.4 if any(turns) else -1)


def test_the_fingers_close_along_the_first_axis_of_the_hand(drawer: LiberoEnv) -> None:
    drawer.reset(4, 0)
    world = world_of(drawer)
    position, rotation = world.hand_pose()
    tips = [world.sim.data.get_body_xpos(f"gripper0_finger_joint{i}_tip") for i in (1, 2)]
    places = np.array([rotation.T @ (tip - position) for tip in tips])
    np.testing.assert_allclose(places, [[-0.047, 0, 0.011], [0.047, 0, 0.011]], atol=0.003)
    for _ in range(20):
        drawer.step(np.array([0, 0, 0, 0, 0, 0, 1], np.float32))
    assert np.abs(world.fingers()).max() < 0.005
    drawer.reset(4, 0)
    assert world.fingers() == pytest.approx((0.04, -0.04), abs=0.002)


def test_actions_are_clipped_to_the_bounds(drawer: LiberoEnv) -> None:
    states = []
    for factor in (1, 100):
        drawer.reset(1)
        for _ in range(3):
            drawer.step(np.array([1, -1, 0, 0, 0, 1, 1], np.float32) * factor)
        states.append(world_of(drawer).sim.data.qpos.copy())
    np.testing.assert_array_equal(states[0], states[1])


@pytest.mark.parametrize("action", [np.zeros(6, np.float32), np.full(7, np.inf, np.float32)])
def test_an_action_that_is_none_is_refused(drawer: LiberoEnv, action: np.ndarray) -> None:
    drawer.reset(0)
    with pytest.raises(ValueError, match=f"{DRAWER} takes 7 finite numbers"):
        drawer.step(action)


@pytest.mark.parametrize("state", [-1, 50])
def test_a_state_outside_the_benchmark_is_refused(drawer: LiberoEnv, state: int) -> None:
    with pytest.raises(ValueError, match=f"{DRAWER} has initial states 0 ... 49, got {state}"):
        drawer.reset(0, state)


def test_an_unknown_thing_is_answered_with_what_there_is(drawer: LiberoEnv) -> None:
    drawer.reset(0)
    with pytest.raises(ValueError, match=r"no 'bowl' in this world; there are akita_black_bowl_1, .*wooden_cabinet_1_"):
        world_of(drawer).pose("bowl")


def put_bowl(world: World, place: np.ndarray) -> None:
    joint = world.env.objects_dict["akita_black_bowl_1"].joints[-1]
    world.sim.data.set_joint_qpos(joint, np.concatenate([place, world.sim.data.get_joint_qpos(joint)[3:]]))


def test_the_first_success_ends_an_episode(drawer: LiberoEnv) -> None:
    drawer.reset(0, 0)
    world = world_of(drawer)
    assert world.task_goal == [["on", "akita_black_bowl_1", "plate_1"]]
    step = drawer.step(STILL)
    assert (step.success, step.done) == (False, False)
    put_bowl(world, world.pose("plate_1")[0] + (0, 0, 0.03))
    steps = [drawer.step(STILL) for _ in range(15)]
    first = [step.success for step in steps].index(True)
    assert first > 0  # it has to fall onto it
    assert [step.done for step in steps[: first + 1]] == [False] * first + [True]


def test_an_episode_ends_at_its_last_step_and_may_go_on(drawer: LiberoEnv) -> None:
    drawer.reset(0)  # steps of falling into place do not count
    drawer._steps = drawer.task.max_steps - 2
    steps = [drawer.step(STILL) for _ in range(4)]
    assert [step.done for step in steps] == [False, True, True, True]
    assert not any(step.success for step in steps)
    drawer.reset(0)
    assert not drawer.step(STILL).done


def test_regions_are_where_their_fixture_is(drawer: LiberoEnv) -> None:
    world = world_of(drawer)
    places = []
    for seed in (3, 4):
        drawer.reset(seed, 0)
        places.append([world.pose(name)[0] for name in ("wooden_cabinet_1", "wooden_cabinet_1_top_side")])
    cabinet, top = np.diff(np.array(places), axis=0)[0]
    assert 0.001 < np.abs(cabinet[:2]).max() < 0.03
    np.testing.assert_allclose(top, cabinet, atol=0.005)  # it turns a little too


def test_a_lit_stove_is_seen(assets: None) -> None:
    env = make_env("libero-goal/7")
    assert isinstance(env, LiberoEnv)
    env.reset(0, 0)

    def glowing(picture: np.ndarray) -> int:
        red, green, blue = np.moveaxis(picture.astype(int), -1, 0)
        return int(((red > 150) & (green < 90) & (blue < 90)).sum())

    cold = env.picture(FRAME_SIZE)
    world = world_of(env)
    world.sim.data.set_joint_qpos("flat_stove_1_button", 1.0)
    step = env.step(STILL)
    hot = env.picture(FRAME_SIZE)
    env.reset(0, 0)
    again = env.picture(FRAME_SIZE)
    env.close()
    env.close()
    assert step.success
    assert glowing(hot) > glowing(cold) + 50
    np.testing.assert_array_equal(again, cold)
