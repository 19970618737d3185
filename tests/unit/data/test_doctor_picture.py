"""Pictures with and without each fault; those of a good recording show a square that moves over a pattern."""

import numpy as np
import pytest

from pizero.data.doctor_finding import Spans
from pizero.data.doctor_picture import (
    Sample,
    check_broken,
    check_pictures,
    check_same,
    check_size,
    choose_frames,
    read_samples,
)
from pizero.data.recording import CorruptPicture

SPANS = Spans.of([30, 20])
STATE = np.linspace(0, 1, 50)[:, None].astype(np.float32)


def scene(i: int, seed: int = 0) -> np.ndarray:
    image = np.random.default_rng(seed).integers(60, 200, (48, 64, 3)).astype(np.uint8)
    image[10:20, i : i + 10] = 255
    return image


class Recorded:
    """Pictures by a function of the frame."""

    def __init__(self, make) -> None:
        self.make = make

    def image(self, i, camera: str) -> np.ndarray:
        return self.make(int(i))


def samples(make, count: int = 10) -> list[Sample]:
    read, broken = read_samples(Recorded(make), "front", choose_frames(SPANS, count, 8), STATE)
    assert broken == []
    return read


def test_frames_are_chosen_evenly_with_a_later_one_of_the_same_episode() -> None:
    pairs = choose_frames(SPANS, 6, 8)
    assert pairs[:, 0].tolist() == [0, 10, 20, 29, 39, 49]
    assert pairs[:, 1].tolist() == [8, 18, 28, 29, 47, 49]
    assert len(choose_frames(SPANS, 1000, 8)) == 50


def test_good_pictures_have_no_finding() -> None:
    good = samples(scene)
    assert any(sample.moved for sample in good)
    assert check_pictures("front", good, SPANS) == []
    assert check_same({"front": good, "side": samples(lambda i: scene(i, seed=1))}) == []
    assert check_broken("front", [], 10) == []
    assert check_size("front", (480, 640), 224, "pad") == []
    assert check_size("front", (224, 224), 224, "squash") == []


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda i: np.full((48, 64, 3), 1, np.uint8), "10 of 10 sampled pictures are black"),
        (lambda i: np.full((48, 64, 3), 120, np.uint8), "10 of 10 sampled pictures are of one colour"),
        (lambda i: scene(0), "8 of 8 sampled pictures stay the same while the robot moves"),
    ],
)
def test_a_camera_that_shows_nothing_is_an_error(make, what: str) -> None:
    (finding,) = check_pictures("front", samples(make), SPANS)
    assert finding.level == "error"
    assert what in finding.text


def test_a_few_black_pictures_are_a_warning_with_their_place() -> None:
    (finding,) = check_pictures("front", samples(lambda i: scene(i) * (i < 45)), SPANS)
    assert finding.level == "warning"
    assert "1 of 10" in finding.text
    assert "episode 1, frame 19" in finding.text


def test_the_same_picture_is_fine_while_the_robot_stands() -> None:
    still = read_samples(Recorded(lambda i: scene(0)), "front", choose_frames(SPANS, 10, 8), np.zeros((50, 1)))[0]
    assert check_pictures("front", still, SPANS) == []


def test_pictures_that_cannot_be_decoded_are_counted_and_the_file_named() -> None:
    def make(i: int) -> np.ndarray:
        if i >= 40:
            raise CorruptPicture("file-001.mp4 cannot be decoded at 4.000 s")
        return scene(i)

    read, broken = read_samples(Recorded(make), "front", choose_frames(SPANS, 10, 8), STATE)
    assert (len(read), len(broken)) == (6, 4)
    (finding,) = check_broken("front", broken, 10)
    assert finding.level == "error"
    assert "4 of 10" in finding.text
    assert "file-001.mp4" in finding.text
    assert "--data.corrupt skip" in finding.advice
    assert check_broken("front", broken, 4)[0].advice == "copy that file again"  # there is no other frame


def test_a_camera_recorded_twice_is_found() -> None:
    (finding,) = check_same({"front": samples(scene), "wrist": samples(scene)})
    assert "'front' and 'wrist' show the same picture in all 10" in finding.text


@pytest.mark.parametrize(
    ("size", "how", "text"),
    [
        ((480, 640), "squash", "squeezed by 25 %"),
        ((360, 640), "pad", "44 % of the model's picture is black"),
        ((96, 96), "pad", "enlarged to 224"),
    ],
)
def test_what_happens_to_a_pictures_shape_is_told(size: tuple[int, int], how: str, text: str) -> None:
    (finding,) = check_size("front", size, 224, how)
    assert finding.level == "note"
    assert text in finding.text


def test_several_sizes_are_told() -> None:
    mixed = samples(lambda i: scene(i) if i < 30 else scene(i)[:40])
    assert "pictures of 2 sizes: 40 x 64, 48 x 64" in check_pictures("front", mixed, SPANS)[0].text
