from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from toy_env import ToyEnv, find_toy

from pizero.frame import Frame
from pizero.sim.episode import play_episode
from pizero.sim.film import FURTHER_VIEW_SIZE, PLOT_WIDTH, VIEW_SIZE, _further_views, film_path, film_stem
from pizero.sim.schedule import make_jobs


def straight(frame: Frame, plan: int) -> np.ndarray:
    """Right, at 0.3 a step."""
    return np.full((6, 2), 0.3, np.float32)


def played(tmp_path: Path, state: int) -> tuple[Path, list[np.ndarray]]:
    """The film of an episode from one of the toy's states, and its pictures."""
    job = next(job for job in make_jobs([find_toy("toy/a")], 3, 4) if job.state == state)
    result = play_episode(ToyEnv("toy/a"), replace(job, film=film_stem(tmp_path, job)), straight)
    assert result.video is not None
    with av.open(str(result.video)) as container:
        return result.video, [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_film_shows_the_view_beside_the_plan_and_says_how_it_ended(tmp_path: Path) -> None:
    path, pictures = played(tmp_path, 0)
    assert path == tmp_path / "toy-a-000-solved.mp4"
    assert pictures[0].shape == (VIEW_SIZE, VIEW_SIZE + PLOT_WIDTH, 3)
    for step, picture in ((0, pictures[0]), (6, pictures[3])):  # every second step is shown
        column = int((0.3 * step + 5) / 10 * VIEW_SIZE)
        assert abs(int(picture[100, :VIEW_SIZE].sum(1).argmax()) - column) <= 2  # the toy is a bright column
        assert (picture[:, VIEW_SIZE + 10 :].max(2) > 150).mean() > 0.7  # the plot is light
    path, _ = played(tmp_path, 1)
    assert path == tmp_path / "toy-a-001-failed.mp4" == film_path(tmp_path / "toy-a-001", success=False)


def test_the_strip_beside_it_has_the_view_alone(tmp_path: Path) -> None:
    path, _ = played(tmp_path, 0)
    assert np.asarray(Image.open(path.with_suffix(".png"))).shape == (160, 6 * 160, 3)


def test_filming_changes_nothing(tmp_path: Path) -> None:
    [job] = make_jobs([find_toy("toy/a")], 1, 4)
    plain = play_episode(ToyEnv("toy/a"), job, straight)
    filmed = play_episode(ToyEnv("toy/a"), replace(job, film=film_stem(tmp_path, job)), straight)
    assert replace(filmed, seconds=0.0, video=None) == replace(plain, seconds=0.0)


@pytest.mark.parametrize(("cameras", "columns"), [((), 0), (("b",), 1), (("b", "c", "d"), 2)])
def test_further_cameras_stand_beside_the_first(cameras: tuple[str, ...], columns: int) -> None:
    images = {camera: np.full((20, 20, 3), 60 * i, np.uint8) for i, camera in enumerate("abc")}
    picture = _further_views(Frame(images), cameras)
    side = FURTHER_VIEW_SIZE
    assert picture.shape == (VIEW_SIZE, columns * side, 3)
    places = [(side // 2, side // 2), (side + side // 2, side // 2), (side // 2, side + side // 2)]
    seen = [int(picture[place].max()) for place, _ in zip(places, cameras, strict=False)]
    assert seen == [60, 120, 0][: len(cameras)]  # "d" is absent
