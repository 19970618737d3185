"""The messages are those of openpi's examples: make_libero_example, make_droid_example, make_aloha_example."""

import numpy as np
import pytest

from pizero.frame import Frame
from pizero.robot.aloha import ALOHA
from pizero.robot.droid import DROID
from pizero.robot.libero import LIBERO
from pizero.serve.openpi import OPENPI_KEYS, ObservationKeys

ROBOTS = {robot.name: robot for robot in (LIBERO, DROID, ALOHA)}


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def frame_of(name: str) -> Frame:
    robot = ROBOTS[name]
    images = {camera: picture(i) for i, camera in enumerate(robot.cameras)}
    return Frame(images, np.arange(len(robot.state), dtype=np.float32), "do something")


def test_libero_is_flat():
    message = OPENPI_KEYS["libero"].message(frame_of("libero"))
    assert set(message) == {"observation/image", "observation/wrist_image", "observation/state", "prompt"}
    np.testing.assert_array_equal(message["observation/image"], picture(0))
    np.testing.assert_array_equal(message["observation/wrist_image"], picture(1))
    assert message["observation/state"].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert message["prompt"] == "do something"


def test_droid_has_its_gripper_apart():
    message = OPENPI_KEYS["droid"].message(frame_of("droid"))
    assert message["observation/joint_position"].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert message["observation/gripper_position"].tolist() == [7]
    np.testing.assert_array_equal(message["observation/exterior_image_1_left"], picture(0))
    np.testing.assert_array_equal(message["observation/wrist_image_left"], picture(1))


def test_aloha_nests_its_pictures_channels_first():
    message = OPENPI_KEYS["aloha"].message(frame_of("aloha"))
    assert set(message) == {"images", "state", "prompt"}
    assert set(message["images"]) == {"cam_high", "cam_left_wrist", "cam_right_wrist"}
    assert message["images"]["cam_high"].shape == (3, 6, 8)
    assert message["images"]["cam_high"][2, 4, 5] == picture(0)[4, 5, 2]
    assert message["state"].tolist() == list(range(14))


@pytest.mark.parametrize("name", sorted(OPENPI_KEYS))
def test_keys_fit_their_robot_and_lead_there_and_back(name):
    keys, frame = OPENPI_KEYS[name], frame_of(name)
    keys.check(ROBOTS[name])
    message = keys.message(frame)
    assert keys.match(message)
    back = keys.read(message)
    assert back.prompt == frame.prompt
    np.testing.assert_array_equal(back.state, frame.state)
    assert list(back.images) == list(frame.images)
    for camera, image in frame.images.items():
        np.testing.assert_array_equal(back.images[camera], image)


def test_a_frame_with_a_seed_is_ours():
    message = OPENPI_KEYS["aloha"].message(frame_of("aloha"))
    assert not OPENPI_KEYS["aloha"].match(message | {"seed": None})
    assert not OPENPI_KEYS["libero"].match({"images": {}, "state": np.zeros(8), "prompt": ""})
    assert not OPENPI_KEYS["aloha"].match([message])


def test_a_camera_left_out_is_absent_and_one_that_openpi_ignores_is_ignored():
    keys = OPENPI_KEYS["aloha"]
    message = keys.message(frame_of("aloha"))
    images = {"cam_high": message["images"]["cam_high"], "cam_low": np.zeros((3, 6, 8), np.uint8)}
    assert list(keys.read(message | {"images": images}).images) == ["cam_high"]


def test_numbers_of_any_kind_are_a_state():
    keys = OPENPI_KEYS["droid"]
    message = keys.message(frame_of("droid"))
    changed = message | {"observation/joint_position": np.zeros(7), "observation/gripper_position": 0.5}
    state = keys.read(changed).state
    assert state.dtype == np.float32
    assert state.tolist() == [0, 0, 0, 0, 0, 0, 0, 0.5]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("libero", {"observation/wrist_imag": 1}, "nearest: 'observation/wrist_image'"),
        (
            "libero",
            {"observation/image": np.zeros((3, 6, 8), np.uint8)},
            "is uint8 \\(3, 6, 8\\).*\\(height, width, 3\\)",
        ),
        ("libero", {"observation/image": np.zeros((6, 8, 3))}, "is float64"),
        ("libero", {"observation/image": "no"}, "is a str"),
        ("libero", {"observation/state": np.zeros(7)}, "has 7 values, expected 8"),
        ("libero", {"prompt": 3}, "no text 'prompt'"),
        ("aloha", {"images": {"cam_high": np.zeros((6, 8, 3), np.uint8)}}, "\\(6, 8, 3\\).*\\(3, height, width\\)"),
        ("aloha", {"images": {"cam_hi": np.zeros((3, 6, 8), np.uint8)}}, "nearest: 'cam_high'"),
        ("aloha", {"images": 3}, "no dict of pictures 'images'"),
        ("aloha", {"image": 3}, "unknown keys \\['image'\\]"),
    ],
)
def test_an_observation_that_does_not_fit_is_told_why(name, change, message):
    keys = OPENPI_KEYS[name]
    with pytest.raises(ValueError, match=message):
        keys.read(keys.message(frame_of(name)) | change)


def test_a_frame_that_has_no_keys_is_refused():
    with pytest.raises(ValueError, match="camera 'cam_high', but keys are known for"):
        OPENPI_KEYS["libero"].message(frame_of("aloha"))
    with pytest.raises(ValueError, match="a state of 2 values, the server takes 8"):
        OPENPI_KEYS["libero"].message(Frame({}, np.zeros(2, np.float32), ""))


def test_keys_for_another_robot_are_refused():
    with pytest.raises(ValueError, match="keys are given for the cameras"):
        OPENPI_KEYS["libero"].check(DROID)
    with pytest.raises(ValueError, match="a state of 3 values, libero has 8"):
        ObservationKeys(OPENPI_KEYS["libero"].images, (("observation/state", 3),)).check(LIBERO)
    with pytest.raises(ValueError, match="name no state"):
        ObservationKeys({}, ())
