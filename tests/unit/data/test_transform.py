import json
import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from pizero.data.images import resize, resize_with_pad, to_model
from pizero.data.lerobot import LeRobotDataset
from pizero.data.prompt import Tokenizer, train_tokenizer
from pizero.data.stats import DatasetStats, Stats, compute_stats
from pizero.data.transform import Transform, TransformConfig, refuse_constant
from pizero.data.units import check_joint_units
from pizero.frame import Frame
from pizero.robot import aloha


def test_a_frame_becomes_views_in_order_padded_state_and_tokens(transform: Transform, dataset: LeRobotDataset) -> None:
    frames = [dataset.frame(0), dataset.frame(7)]
    observation = transform.observation(frames)
    assert observation.images.shape == (2, 2, 3, 24, 24)
    front = resize_with_pad(frames[1].images["front"], (24, 24)).astype(np.float32) / 127.5 - 1
    np.testing.assert_array_equal(observation.images[1, 0].permute(1, 2, 0), front)
    wrist = frames[1].images["wrist"].astype(np.float32) / 127.5 - 1
    np.testing.assert_array_equal(observation.images[1, 1].permute(1, 2, 0), wrist)
    stats = transform.stats.state
    expected = np.clip(2 * (frames[1].state - stats.q01) / (stats.q99 - stats.q01 + 1e-8) - 1, -1, 1)
    np.testing.assert_allclose(observation.state[1, :3], expected, atol=1e-6)
    assert observation.state[:, 3:].tolist() == [[0, 0], [0, 0]]
    assert observation.prompt[1].tolist()[: observation.prompt_mask[1].sum()] == transform.tokenizer.encode("close it")
    assert observation.image_mask.all()


def test_an_absent_camera_is_black_masked_and_keeps_its_place(transform: Transform, dataset: LeRobotDataset) -> None:
    frame = dataset.frame(3)
    alone = replace(frame, images={"wrist": frame.images["wrist"]})
    observation = transform.observation([frame, alone])
    assert observation.image_mask.tolist() == [[True, True], [False, True]]
    assert (observation.images[1, 0] == -1).all()
    assert torch.equal(observation.images[1, 1], observation.images[0, 1])
    assert transform.observation([alone]).trim().images.shape[1] == 1


def test_actions_are_normalised_padded_and_masked(transform: Transform) -> None:
    values = np.array([[[0.1, -1], [0.2, 1], [0.2, 1]]], np.float32)
    actions = transform.actions(values, np.array([[True, True, False]]), np.zeros((1, 3), np.float32))
    stats = transform.stats.actions
    expected = 2 * (values[..., 0] - stats.q01[0]) / (stats.q99[0] - stats.q01[0] + 1e-8) - 1
    np.testing.assert_allclose(actions.values[..., 0], expected, atol=1e-6)
    np.testing.assert_array_equal(actions.values[..., 1], values[..., 1])  # raw
    assert (actions.values[..., 2:] == 0).all()
    assert actions.mask[0].tolist() == [[True, True, False, False]] * 2 + [[False] * 4]
    assert transform.action_mask.tolist() == [True, True, False, False]


def test_actions_come_back_in_real_units_without_padding(transform: Transform, dataset: LeRobotDataset) -> None:
    low, high = transform.stats.actions.q01[0], transform.stats.actions.q99[0]
    values, real = dataset.chunks(np.arange(dataset.num_frames), 3)
    values[..., 0] = np.clip(values[..., 0], low, high)  # the statistics leave out the outermost, which are clipped
    back = transform.invert_actions(transform.actions(values, real, dataset.state).values, dataset.state)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, values, atol=1e-6)


def test_actions_never_leave_what_the_robot_accepts(transform: Transform) -> None:
    values = torch.tensor([[[9.0, -9.0, 5.0, 5.0], [-9.0, 9.0, 5.0, 5.0]]])
    back = transform.invert_actions(values, np.zeros((1, 3), np.float32))
    low, high = transform.config.embodiment.action_low, transform.config.embodiment.action_high
    assert back.shape == (1, 2, 2)
    assert (back >= np.float32(low)).all()
    assert (back <= np.float32(high)).all()
    assert back[0, :, 1].tolist() == [-1, 1]


def test_a_bfloat16_model_gives_float32_actions(transform: Transform) -> None:
    values = torch.zeros(1, 3, 4, dtype=torch.bfloat16)
    assert transform.invert_actions(values, np.zeros((1, 3), np.float32)).dtype == np.float32


def test_a_frame_of_another_robot_is_refused_naming_both_sides(transform: Transform, dataset: LeRobotDataset) -> None:
    frame = dataset.frame(0)
    with pytest.raises(ValueError, match=r"state of 2 values, toy has 3: \('x', 'y', 'angle'\)"):
        transform.observation([replace(frame, state=frame.state[:2])])
    with pytest.raises(ValueError, match=r"camera 'frnt', toy has \('front', 'wrist'\); nearest: 'front'"):
        transform.observation([replace(frame, images={"frnt": frame.images["front"]})])
    with pytest.raises(ValueError, match=r"no image; toy has the cameras \('front', 'wrist'\)"):
        transform.observation([replace(frame, images={})])
    with pytest.raises(ValueError, match="state 'y' is nan"):
        transform.observation([frame, replace(frame, state=np.array([0, np.nan, 0], np.float32))])
    with pytest.raises(ValueError, match="tokens, prompt_length is 20"):
        transform.observation([replace(frame, prompt="a very long instruction that never ends")])


def test_actions_of_another_width_are_refused(transform: Transform) -> None:
    with pytest.raises(ValueError, match=r"3 dimensions, toy takes 2: \('dx', 'grip'\)"):
        transform.actions(np.zeros((1, 3, 3), np.float32), np.ones((1, 3), bool), np.zeros((1, 3), np.float32))


def test_a_state_in_float64_gives_the_observation_of_float32(transform: Transform, dataset: LeRobotDataset) -> None:
    frame = dataset.frame(2)
    wide = Frame(frame.images, frame.state.astype(np.float64), frame.prompt)
    assert torch.equal(transform.observation([wide]).state, transform.observation([frame]).state)


def test_the_config_survives_json(transform: Transform) -> None:
    config = transform.config
    assert TransformConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_a_config_with_other_keys_is_refused_naming_them(transform: Transform) -> None:
    data = transform.config.to_json()
    data["image_sise"] = data.pop("image_size")
    with pytest.raises(ValueError, match=r"missing \['image_size'\], unknown \['image_sise'\]"):
        TransformConfig.from_json(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state_dim": 2}, "state_dim is 2, but toy has 3"),
        ({"action_dim": 1}, "action_dim is 1, but toy has 2"),
        ({"raw_actions": ("gripper",)}, "'gripper' is unknown; nearest: grip"),
        ({"raw_state": ("z",)}, "'z' is unknown"),
        ({"image_size": 0}, "image_size is 0"),
        ({"delta_actions": ["gripp"]}, "delta action 'gripp' is unknown; nearest: grip"),
        ({"joint_units": "pi-aloha"}, "toy has 3 state and 2 action dimensions; an ALOHA has 14 of each"),
    ],
)
def test_a_config_that_cannot_be_is_refused(transform: Transform, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformConfig.from_json(transform.config.to_json() | change)


def test_a_constant_dimension_is_refused_for_training_alone(dataset: LeRobotDataset, robot) -> None:
    stats, config = compute_stats(dataset), TransformConfig(robot)
    refuse_constant(config, stats)
    Transform(config, stats, Tokenizer(train_tokenizer(["a"], 300)))
    for part, name in ((stats.state, "y"), (stats.actions, "grip")):
        part.q99[1] = part.q01[1]
        with pytest.raises(ValueError, match=f"'{name}' has no spread"):
            refuse_constant(config, stats)
        Transform(config, stats, Tokenizer(train_tokenizer(["a"], 300)))
        part.q99[1] = part.q01[1] + 1
    stats.actions.q99[1] = stats.actions.q01[1]
    refuse_constant(replace(config, raw_actions=("grip",)), stats)


@pytest.fixture
def changed(transform: Transform, dataset: LeRobotDataset) -> Callable[..., Transform]:
    """The same transform with other settings, and statistics to match."""

    def change(**settings: object) -> Transform:
        config = replace(transform.config, **settings)
        return Transform(config, compute_stats(dataset, config.units, config.horizon), transform.tokenizer)

    return change


def test_the_new_fields_survive_json_and_have_the_old_behaviour_by_default(
    transform: Transform, changed: Callable[..., Transform]
) -> None:
    config = transform.config
    assert (config.prompt_format, config.resize, config.delta_actions, config.joint_units) == (
        "pi0", "pad", (), "robot",
    )  # fmt: skip
    config = changed(prompt_format="pi05-stateless", resize="squash", delta_actions=("grip",)).config
    assert TransformConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("how", ["squash", "lerobot"])
def test_pictures_are_resized_as_the_family_does(
    changed: Callable[..., Transform], dataset: LeRobotDataset, how: str
) -> None:
    frame = dataset.frame(7)
    images = changed(resize=how).observation([frame]).images
    for view, camera in enumerate(("front", "wrist")):
        assert torch.equal(images[0, view], to_model(resize(frame.images[camera], (24, 24), how)))


def test_the_prompt_holds_the_normalised_state_without_padding(
    changed: Callable[..., Transform], dataset: LeRobotDataset
) -> None:
    transform = changed(prompt_format="pi05", prompt_length=90, normalization="quantile")
    observation = transform.observation([dataset.frame(0), dataset.frame(9)])
    for row in range(2):
        bins = np.digitize(observation.state[row, :3].numpy(), np.linspace(-1, 1, 257)[:-1]) - 1
        text = transform.tokenizer.decode(observation.prompt[row][observation.prompt_mask[row]].tolist())
        assert f"State: {' '.join(map(str, bins))};" in text


def test_relative_actions_start_from_the_state_of_the_same_index(
    changed: Callable[..., Transform], dataset: LeRobotDataset
) -> None:
    transform = changed(delta_actions=("grip",), normalization="identity", raw_actions=())
    values, real = dataset.chunks(np.arange(5), 3)
    state = dataset.state[:5]
    actions = transform.actions(values, real, state).values
    np.testing.assert_array_equal(actions[..., 0], values[..., 0])
    np.testing.assert_array_equal(actions[..., 1], values[..., 1] - state[:, None, 1])


def test_relative_actions_come_back_absolute_and_are_clipped_last(
    changed: Callable[..., Transform], dataset: LeRobotDataset
) -> None:
    transform = changed(delta_actions=("dx",), normalization="z-score")
    values, real = dataset.chunks(np.arange(dataset.num_frames), 3)
    kept = values.copy()
    model = transform.actions(values, real, dataset.state).values
    np.testing.assert_array_equal(values, kept)  # the caller's array is not changed
    np.testing.assert_allclose(transform.invert_actions(model, dataset.state), values, atol=1e-6)
    far = transform.invert_actions(model, dataset.state + 9)
    assert (far[..., 0] == 0.5).all()


def test_a_delta_action_without_a_state_dimension_is_refused(robot) -> None:
    with pytest.raises(ValueError, match="'grip' is dimension 1, the state of toy has only 1"):
        TransformConfig(replace(robot, state=("x",)), delta_actions=("grip",))


def test_actions_of_a_robot_with_unknown_bounds_are_not_clipped(transform: Transform) -> None:
    free = replace(transform.config.embodiment, action_low=(), action_high=(), control_rate_hz=None)
    config = replace(transform.config, embodiment=free, normalization="identity")
    actions = Transform(config, transform.stats, transform.tokenizer).invert_actions(
        torch.full((1, 3, 4), 99.0), np.zeros((1, 3), np.float32)
    )
    assert actions.dtype == np.float32
    assert (actions == 99).all()


def test_statistics_without_what_the_normalisation_needs_are_refused(transform: Transform) -> None:
    actions = replace(transform.stats.actions, q01=None, q99=None)
    with pytest.raises(ValueError, match="'bounds' needs q01 and q99"):
        Transform(transform.config, DatasetStats(transform.stats.state, actions), transform.tokenizer)


def test_an_aloha_passes_joint_units_then_relative_then_normalised_and_back(transform: Transform) -> None:
    random = np.random.default_rng(0)
    state = random.uniform(0.1, 0.9, (2, 14)).astype(np.float32)
    values = random.uniform(0.1, 0.9, (2, 3, 14)).astype(np.float32)
    robot, deltas = aloha.ALOHA, tuple(aloha.JOINTS)
    stats = DatasetStats(*(Stats.of(random.normal(size=(50, 14))) for _ in range(2)))
    sizes = {"image_size": 24, "prompt_length": 20, "state_dim": 16, "action_dim": 16, "horizon": 3}
    config = TransformConfig(robot, "z-score", delta_actions=deltas, joint_units="pi-aloha", **sizes)
    units = Transform(config, stats, transform.tokenizer)
    pi_state = aloha.state_to_pi(state)
    relative = aloha.actions_to_pi(values)
    joints = [i for i in range(14) if i not in (6, 13)]
    relative[..., joints] -= pi_state[:, None, joints]
    expected = (relative - stats.actions.mean) / (stats.actions.std + 1e-6)
    actions = units.actions(values, np.ones((2, 3), bool), state).values
    np.testing.assert_allclose(actions[..., :14], expected, atol=1e-5)
    np.testing.assert_allclose(units.invert_actions(actions, state), values, atol=1e-5)
    images = {camera: np.zeros((4, 4, 3), np.uint8) for camera in robot.cameras}
    observation = units.observation([Frame(images, row, "close it") for row in state])
    np.testing.assert_allclose(
        observation.state[:, :14], (pi_state - stats.state.mean) / (stats.state.std + 1e-6), atol=1e-5
    )


def test_unknown_joint_units_are_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"joint_units 'pi' is unknown; choose one of \('robot', 'pi-aloha'\)"):
        check_joint_units("pi")


def test_a_transform_travels_to_a_worker(transform: Transform, dataset: LeRobotDataset) -> None:
    there = pickle.loads(pickle.dumps(transform))
    frames = [dataset.frame(0), dataset.frame(7)]
    ours, theirs = transform.observation(frames), there.observation(frames)
    assert torch.equal(ours.state, theirs.state)
    assert torch.equal(ours.prompt, theirs.prompt)
    assert there.config == transform.config
    assert there.stats.to_json() == transform.stats.to_json()


def test_numbers_are_an_observation_without_pictures(transform: Transform, dataset: LeRobotDataset) -> None:
    frames = [dataset.frame(0), dataset.frame(7)]
    observation = transform.observation(frames)
    state, prompt, mask = transform.numbers(dataset.state[[0, 7]], [frame.prompt for frame in frames])
    assert torch.equal(state, observation.state)
    assert torch.equal(prompt, observation.prompt)
    assert torch.equal(mask, observation.prompt_mask)


def test_prompt_lengths_are_those_of_the_tokens(transform: Transform) -> None:
    prompts = ["open", "open the drawer", "close it"]
    lengths = [len(transform.tokenizer.encode(prompt)) for prompt in prompts]
    assert transform.prompt_lengths(prompts) == (min(lengths), max(lengths))
    with pytest.raises(ValueError, match="prompt_length is 20"):
        transform.prompt_lengths([*prompts, "open the drawer " * 9])


def test_the_longest_prompt_with_a_state_is_found_among_numbers_that_merge(transform: Transform) -> None:
    tokenizer = Tokenizer(train_tokenizer(["state 255 255 255 128 12"] * 9, 300))  # 255 is one token, 137 is three
    config = replace(transform.config, prompt_format="pi05", prompt_length=60)
    written = Transform(config, transform.stats, tokenizer)
    shortest, longest = written.prompt_lengths(["open it", "go"])
    states = np.random.default_rng(0).uniform(-3, 3, (3000, 3)).astype(np.float32)
    _, _, mask = written.numbers(states, ["open it"] * 3000)
    assert shortest == 0
    assert mask.sum(1).max() <= longest
    assert longest > len(tokenizer.encode("open it", "pi05", np.ones(3)))
