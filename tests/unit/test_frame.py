"""What a robot sees: only what the rest of the program can take."""

import subprocess
import sys

import numpy as np
import pytest

from pizero.frame import Frame, load_frame, save_frame

IMAGE = np.zeros((4, 6, 3), np.uint8)


def test_a_frame_holds_what_it_was_given():
    state = np.array([1.0, 2.0], np.float32)
    frame = Frame({"front": IMAGE}, state, "open the door")
    assert frame.images["front"] is IMAGE
    assert frame.state is state
    assert frame.prompt == "open the door"


def test_a_frame_without_cameras_or_state_is_possible():
    frame = Frame()
    assert not frame.images
    assert frame.state.shape == (0,)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (IMAGE.astype(np.float32), r"float32 \(4, 6, 3\)"),
        (IMAGE.transpose(2, 0, 1), r"uint8 \(3, 4, 6\)"),
        (IMAGE[:, :, 0], r"uint8 \(4, 6\)"),
        (IMAGE[None], r"uint8 \(1, 4, 6, 3\)"),
    ],
)
def test_an_image_that_is_not_a_colour_picture_in_bytes_is_refused_with_its_camera(image, said):
    with pytest.raises(ValueError, match=f"camera 'wrist' is {said}"):
        Frame({"front": IMAGE, "wrist": image})


@pytest.mark.parametrize("shape", [(), (1, 4)])
def test_a_state_that_is_no_vector_is_refused_with_its_shape(shape):
    with pytest.raises(ValueError, match="state has shape"):
        Frame(state=np.zeros(shape))


def test_robot_computers_need_no_torch():
    code = "import sys, pizero.frame, pizero.embodiment; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_frame_file_gives_the_same_frame_back(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    frame = Frame({"front": image, "left.wrist": IMAGE}, np.array([1.5, -2.0], np.float32), "öffne die Tür")
    save_frame(tmp_path / "a.npz", frame)
    loaded = load_frame(tmp_path / "a.npz")
    assert list(loaded.images) == ["front", "left.wrist"]
    assert np.array_equal(loaded.images["front"], image)
    assert np.array_equal(loaded.state, frame.state)
    assert loaded.state.dtype == np.float32
    assert loaded.prompt == frame.prompt
    assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]


def test_a_frame_file_that_is_not_one_is_refused_by_name(tmp_path):
    file = tmp_path / "a.npz"
    with pytest.raises(ValueError, match=r"a\.npz does not exist"):
        load_frame(file)
    save_frame(file, Frame({"front": IMAGE}))
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"a\.npz cannot be read"):
        load_frame(file)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"prompt": np.array("go")}, "has no state"),
        ({"state": np.zeros(2), "prompt": np.array("go"), "front": IMAGE}, "unknown arrays front"),
    ],
)
def test_a_frame_file_with_other_arrays_is_refused_with_their_names(tmp_path, arrays, said):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=said):
        load_frame(tmp_path / "a.npz")
