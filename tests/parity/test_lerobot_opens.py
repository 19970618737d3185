"""The lerobot package opens what we write, and we open what it writes: the same numbers, padding, tasks and pictures.

lerobot cannot be installed beside today's torch, so this is skipped unless it is found; run with lerobot 0.4.4.
"""

from pathlib import Path

import numpy as np
import pytest

from pizero.data.lerobot import LeRobotDataset, LeRobotWriter
from pizero.embodiment import Embodiment
from pizero.frame import Frame

theirs = pytest.importorskip("lerobot.datasets.lerobot_dataset")

RATE = 20.0
ROBOT = Embodiment(
    name="toy",
    cameras=("front", "wrist"),
    state=("x", "y", "angle"),
    actions=("dx", "grip"),
    control_rate_hz=RATE,
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
)
SIZES = {"front": (64, 80), "wrist": (64, 64)}  # AV1 takes no side below 64
LENGTHS, TASKS = (9, 12, 5), ("open the drawer", "close it", "open the drawer")
HORIZON = 4


def episodes() -> list[tuple[list[Frame], np.ndarray]]:
    random, result = np.random.default_rng(0), []
    for length, task in zip(LENGTHS, TASKS, strict=True):
        frames = []
        for i in range(length):
            images = {}
            for camera, (height, width) in SIZES.items():
                ramp = np.linspace(0, 200, width)[None, :, None] + np.array([5.0 * i, 20, 40])
                images[camera] = np.broadcast_to(ramp.clip(0, 255).astype(np.uint8), (height, width, 3)).copy()
            frames.append(Frame(images, random.normal(size=3).astype(np.float32), task))
        result.append((frames, random.uniform(-1, 1, (length, 2)).astype(np.float32)))
    return result


def compare(root: Path) -> None:
    ours = LeRobotDataset(root)
    steps = [i / RATE for i in range(HORIZON)]
    oracle = theirs.LeRobotDataset("local/toy", root=root, delta_timestamps={"action": steps})
    assert len(oracle) == ours.num_frames == sum(LENGTHS)
    for i in range(ours.num_frames):
        item, frame, (values, real) = oracle[i], ours.frame(i), ours.chunk(i, HORIZON)
        np.testing.assert_array_equal(item["action"].numpy(), values)
        np.testing.assert_array_equal(item["action_is_pad"].numpy(), ~real)
        np.testing.assert_array_equal(item["observation.state"].numpy(), frame.state)
        assert item["task"] == frame.prompt
        for camera in SIZES:
            picture = item[f"observation.images.{camera}"].numpy().transpose(1, 2, 0) * 255
            np.testing.assert_array_equal(picture.round().astype(np.uint8), frame.images[camera])


def test_lerobot_reads_what_we_write(tmp_path: Path) -> None:
    with LeRobotWriter(tmp_path / "data", ROBOT, SIZES) as writer:
        for seed, (frames, actions) in enumerate(episodes()):
            writer.add_episode(frames, actions, {"seed": seed})
    compare(tmp_path / "data")
    meta = theirs.LeRobotDatasetMetadata("local/toy", root=tmp_path / "data")
    assert list(meta.tasks.index) == ["open the drawer", "close it"]
    assert meta.stats["action"]["q99"].shape == (2,)
    assert meta.stats["observation.images.front"]["mean"].shape == (3, 1, 1)


def test_we_read_what_lerobot_writes(tmp_path: Path) -> None:
    features = {
        "observation.state": {"dtype": "float32", "shape": (3,), "names": list(ROBOT.state)},
        "action": {"dtype": "float32", "shape": (2,), "names": list(ROBOT.actions)},
    }
    for camera, size in SIZES.items():
        names = ["height", "width", "channels"]
        features[f"observation.images.{camera}"] = {"dtype": "video", "shape": (*size, 3), "names": names}
    root = tmp_path / "data"
    writer = theirs.LeRobotDataset.create("local/toy", fps=int(RATE), features=features, robot_type="toy", root=root)
    for frames, actions in episodes():
        for frame, action in zip(frames, actions, strict=True):
            images = {f"observation.images.{camera}": image for camera, image in frame.images.items()}
            numbers = {"observation.state": frame.state, "action": action}
            writer.add_frame(images | numbers | {"task": frame.prompt})
        writer.save_episode(parallel_encoding=False)
    writer.finalize()
    compare(root)
    ours = LeRobotDataset(root)
    assert (ours.embodiment.name, ours.embodiment.cameras) == ("toy", ("front", "wrist"))
    assert (ours.embodiment.state, ours.embodiment.actions) == (ROBOT.state, ROBOT.actions)
