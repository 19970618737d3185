import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pizero.data.lerobot import LeRobotDataset, LeRobotWriter
from pizero.data.lerobot_episode import EncodedEpisode, check_episode, read_episode, write_episode
from pizero.data.lerobot_stats import Pixels
from pizero.data.video import VideoReader
from pizero.embodiment import Embodiment

SIZES = {"front": (32, 48), "wrist": (24, 24)}
Write = Callable[..., Path]


def content(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def encoded(folder: Path, robot: Embodiment, episode, extra: dict) -> EncodedEpisode:
    folder.mkdir()
    write_episode(folder, robot, *episode, extra)
    return read_episode(folder)


def test_what_was_written_is_read_back(robot: Embodiment, episodes, tmp_path: Path) -> None:
    frames, actions = episodes[1]
    frames = [*frames[:2], replace(frames[2], prompt="now close it"), *frames[3:]]
    back = encoded(tmp_path / "one", robot, (frames, actions), {"seed": 3, "noise": 0.1, "ok": True, "what": "x"})
    np.testing.assert_array_equal(back.state, [frame.state for frame in frames])
    np.testing.assert_array_equal(back.actions, actions)
    assert back.state.dtype == back.actions.dtype == np.float32
    assert list(back.prompts) == [frame.prompt for frame in frames]
    assert back.extra == {"seed": 3, "noise": 0.1, "ok": True, "what": "x"}
    assert back.sizes == SIZES
    for camera in SIZES:
        reader = VideoReader(back.videos[camera], 12.5)
        for i, frame in enumerate(frames):
            assert np.abs(reader.frame(i / 12.5).astype(int) - frame.images[camera]).mean() < 4
        reader.close()
        own = Pixels.of([frame.images[camera] for frame in frames])
        np.testing.assert_array_equal(back.pixels[camera].counts, own.counts)
        assert back.pixels[camera].num_images == own.num_images == len(frames)


def test_a_data_set_of_encoded_episodes_is_the_one_of_their_frames(robot, episodes, tmp_path: Path) -> None:
    with LeRobotWriter(tmp_path / "frames", robot, SIZES) as writer:
        for i, episode in enumerate(episodes):
            writer.add_episode(*episode, {"seed": i})
    with LeRobotWriter(tmp_path / "encoded", robot, SIZES) as writer:
        for i, episode in enumerate(episodes):
            writer.add_encoded(encoded(tmp_path / str(i), robot, episode, {"seed": i}))
    assert content(tmp_path / "frames") == content(tmp_path / "encoded")


def test_pictures_do_not_depend_on_the_episodes_before(robot, episodes, tmp_path: Path) -> None:
    for name, order in (("a", (0, 1, 2)), ("b", (2, 1))):
        with LeRobotWriter(tmp_path / name, robot, SIZES) as writer:
            for i in order:
                writer.add_episode(*episodes[i], {"seed": i})
    a, b = LeRobotDataset(tmp_path / "a"), LeRobotDataset(tmp_path / "b")
    for i in range(4):  # of episode 2
        for camera in SIZES:
            np.testing.assert_array_equal(a.image(12 + i, camera), b.image(i, camera))


def test_an_encoded_episode_that_does_not_fit_is_refused(robot: Embodiment, episodes, tmp_path: Path) -> None:
    one = encoded(tmp_path / "one", robot, episodes[0], {"seed": 1})
    short = encoded(tmp_path / "short", robot, (episodes[0][0][:3], episodes[0][1][:3]), {"seed": 1})
    with LeRobotWriter(tmp_path / "data", robot, SIZES) as writer:
        writer.add_encoded(one)
        for wrong, message in (
            (replace(one, sizes=SIZES | {"front": (32, 46)}), r"episode 1 has images .*\(32, 46\)"),
            (replace(one, extra={}), r"episode 1 has extra \[\], the episodes before have \['seed'\]"),
        ):
            with pytest.raises(ValueError, match=message):
                writer.add_encoded(wrong)
    with (
        pytest.raises(ValueError, match=r"front.mp4 has 3 frames, its episode 5"),
        LeRobotWriter(tmp_path / "more", robot, SIZES) as writer,
    ):
        writer.add_encoded(replace(one, videos=short.videos))
    assert not (tmp_path / "more").exists()


def test_videos_whose_headers_differ_go_to_files_of_their_own(robot, episodes, tmp_path: Path, monkeypatch) -> None:
    one = encoded(tmp_path / "one", robot, episodes[0], {"seed": 1})
    monkeypatch.setitem(__import__("pizero.data.video", fromlist=["OPTIONS"]).OPTIONS, "preset", "ultrafast")
    other = encoded(tmp_path / "other", robot, episodes[1], {"seed": 2})
    with LeRobotWriter(tmp_path / "data", robot, SIZES) as writer:
        for episode in (one, other, one):
            writer.add_encoded(episode)
    assert len(list((tmp_path / "data/videos/observation.images.front").rglob("*.mp4"))) == 3
    data = LeRobotDataset(tmp_path / "data")
    frames = [frame for i in (0, 1, 0) for frame in episodes[i][0]]
    for i, frame in enumerate(frames):
        assert np.abs(data.image(i, "front").astype(int) - frame.images["front"]).mean() < 4


def test_the_name_of_a_bad_episode_comes_first(robot: Embodiment, episodes) -> None:
    with pytest.raises(ValueError, match=r"^task, seed 3 has actions of shape \(4, 2\)"):
        check_episode("task, seed 3", robot, SIZES, episodes[0][0], episodes[0][1][:4])
