"""A small recorded data set: two cameras of different shapes, three episodes of different lengths, two tasks."""

from pathlib import Path

import numpy as np
import pytest

from pizero.data.lerobot import LeRobotDataset, LeRobotWriter
from pizero.data.prompt import Tokenizer, train_tokenizer
from pizero.data.stats import compute_stats
from pizero.data.transform import Transform, TransformConfig
from pizero.embodiment import Embodiment
from pizero.frame import Frame

LENGTHS = (5, 7, 4)
TASKS = ("open the drawer", "close it", "open the drawer")
SIZES = {"front": (32, 48), "wrist": (24, 24)}


@pytest.fixture(scope="session")
def robot() -> Embodiment:
    return Embodiment(
        name="toy",
        cameras=("front", "wrist"),
        state=("x", "y", "angle"),
        actions=("dx", "grip"),
        control_rate_hz=12.5,
        action_low=(-0.5, -1.0),
        action_high=(0.5, 1.0),
        gripper_action="1 closes",
    )


@pytest.fixture(scope="session")
def episodes() -> list[tuple[list[Frame], np.ndarray]]:
    """Smooth pictures whose colour tells the frame, so that a wrong frame is seen through the compression."""
    random, result, number = np.random.default_rng(0), [], 0
    for length, task in zip(LENGTHS, TASKS, strict=True):
        frames = []
        for _ in range(length):
            images = {}
            for view, (camera, (height, width)) in enumerate(SIZES.items()):
                image = np.zeros((height, width, 3), np.uint8)
                image[:] = (12 * number + 30, 255 - 12 * number, 200 - 100 * view)
                image[: height // 2] //= 2
                images[camera] = image
            frames.append(Frame(images, random.normal(size=3).astype(np.float32), task))
            number += 1
        result.append((frames, random.uniform(-0.5, 0.5, (length, 2)).astype(np.float32)))
    return result


@pytest.fixture
def write(robot: Embodiment, episodes: list[tuple[list[Frame], np.ndarray]], tmp_path: Path):
    """Writes the data set anew and returns its folder, for tests that damage it."""

    def write_to(root: Path = tmp_path / "data") -> Path:
        with LeRobotWriter(root, robot, SIZES) as writer:
            for seed, (frames, actions) in enumerate(episodes):
                writer.add_episode(frames, actions, {"seed": 100 + seed, "success": True})
        return root

    return write_to


@pytest.fixture(scope="session")
def root(
    robot: Embodiment, episodes: list[tuple[list[Frame], np.ndarray]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Shared by all tests: do not change it."""
    root = tmp_path_factory.mktemp("shared") / "data"
    with LeRobotWriter(root, robot, SIZES) as writer:
        for seed, (frames, actions) in enumerate(episodes):
            writer.add_episode(frames, actions, {"seed": 100 + seed, "success": True})
    return root


@pytest.fixture
def dataset(root: Path) -> LeRobotDataset:
    return LeRobotDataset(root)


@pytest.fixture
def transform(dataset: LeRobotDataset) -> Transform:
    sizes = {"image_size": 24, "prompt_length": 20, "state_dim": 5, "action_dim": 4, "horizon": 3}
    config = TransformConfig(dataset.embodiment, "bounds", raw_actions=("grip",), **sizes)
    return Transform(config, compute_stats(dataset), Tokenizer(train_tokenizer(dataset.prompts, 300)))
