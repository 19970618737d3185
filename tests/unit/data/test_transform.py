import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pizero.data.images import resize_with_pad
from pizero.data.lerobot import LeRobotDataset
from pizero.data.prompt import Tokenizer, train_tokenizer
from pizero.data.stats import compute_stats
from pizero.data.transform import Transform, TransformConfig
from pizero.frame import Frame


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
    actions = transform.actions(values, np.array([[True, True, False]]))
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
    back = transform.invert_actions(transform.actions(values, real).values)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, values, atol=1e-6)


def test_actions_never_leave_what_the_robot_accepts(transform: Transform) -> None:
    back = transform.invert_actions(torch.tensor([[[9.0, -9.0, 5.0, 5.0], [-9.0, 9.0, 5.0, 5.0]]]))
    low, high = transform.config.embodiment.action_low, transform.config.embodiment.action_high
    assert back.shape == (1, 2, 2)
    assert (back >= np.float32(low)).all()
    assert (back <= np.float32(high)).all()
    assert back[0, :, 1].tolist() == [-1, 1]


def test_a_bfloat16_model_gives_float32_actions(transform: Transform) -> None:
    assert transform.invert_actions(torch.zeros(1, 3, 4, dtype=torch.bfloat16)).dtype == np.float32


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
        transform.actions(np.zeros((1, 3, 3), np.float32), np.ones((1, 3), bool))


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
    ],
)
def test_a_config_that_cannot_be_is_refused(transform: Transform, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformConfig.from_json(transform.config.to_json() | change)


def test_a_constant_dimension_is_refused_when_the_transform_is_built(dataset: LeRobotDataset, robot) -> None:
    stats = compute_stats(dataset)
    stats.state.q99[1] = stats.state.q01[1]
    with pytest.raises(ValueError, match="'y' has no spread"):
        Transform(TransformConfig(robot), stats, Tokenizer(train_tokenizer(["a"], 300)))
