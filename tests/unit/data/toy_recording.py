"""A recording that is made up: each picture tells its data set, frame and camera. Worker processes import it."""

import os
import time
from pathlib import Path

import numpy as np

from pizero.data.prompt import Tokenizer, train_tokenizer
from pizero.data.recording import CorruptPicture, Episode, Recording
from pizero.data.source import Source, group_robots
from pizero.data.stats import joint_stats
from pizero.data.transform import Transform, TransformConfig
from pizero.embodiment import Embodiment

SIDE = 6
TASKS = ("open the drawer", "close it")


class ToyRecording(Recording):
    """Pictures of 3 x `SIDE` pixels or, "wide", another shape; some frames are corrupt, some kill who looks."""

    def __init__(
        self,
        lengths: tuple[int, ...] = (5, 7, 4),
        cameras: tuple[str, ...] = ("front", "wrist"),
        name: str = "toy",
        root: str = "toy",
        corrupt: frozenset[int] = frozenset(),
        deadly: frozenset[int] = frozenset(),
        wrong: frozenset[int] = frozenset(),
        delay_s: float = 0.0,
        tasks: tuple[str, ...] = TASKS,
        rate_hz: float = 10.0,
        dims: tuple[int, int] = (3, 2),
    ) -> None:
        count, random = sum(lengths), np.random.default_rng(len(name) + sum(lengths))
        episodes, start = [], 0
        prompt_index = np.zeros(count, np.int64)
        for i, length in enumerate(lengths):
            prompt_index[start : start + length] = i % len(tasks)
            episodes.append(Episode(i, start, length, tasks[i % len(tasks)]))
            start += length
        state, action = tuple(f"s{i}" for i in range(dims[0])), tuple(f"a{i}" for i in range(dims[1]))
        actions = random.uniform(-0.5, 0.5, (count, dims[1])).astype(np.float32)
        low, high = tuple(actions.min(0).tolist()), tuple(actions.max(0).tolist())
        robot = Embodiment(name, cameras, state, action, rate_hz, low, high)
        states = random.normal(size=(count, dims[0])).astype(np.float32)
        super().__init__(Path(root), rate_hz, robot, tasks, prompt_index, states, actions, episodes)
        self.corrupt, self.deadly, self.wrong, self.delay_s = corrupt, deadly, wrong, delay_s

    def decode(self, i: int | np.integer, camera: str) -> np.ndarray:
        time.sleep(self.delay_s)
        if i in self.deadly:
            os._exit(9)
        if i in self.wrong:
            raise KeyError("a mistake in the code")
        if i in self.corrupt:
            raise CorruptPicture(f"{self.root}/{camera}.mp4 cannot be decoded at frame {i}")
        seed = [len(str(self.root)), int(i), self.embodiment.cameras.index(camera)]
        return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)

    def close(self) -> None:
        pass


def make_sources(*datasets: Recording, weights: tuple[float, ...] = (), **fields: object) -> list[Source]:
    """Sources with one transform for each robot; `fields` of the TransformConfig."""
    tokenizer = Tokenizer(train_tokenizer([prompt for dataset in datasets for prompt in dataset.prompts], 300))
    given = {"image_size": SIDE, "prompt_length": 30, "state_dim": 5, "action_dim": 4, "horizon": 3} | fields
    sources: dict[int, Source] = {}
    for robot in group_robots(datasets):
        config = TransformConfig(robot.embodiment, **({"normalization": "z-score"} | given))
        transform = Transform(config, joint_stats([datasets[i] for i in robot.members]), tokenizer)
        for i in robot.members:
            sources[i] = Source(datasets[i], transform, weights[i] if weights else 1.0)
    return [sources[i] for i in range(len(datasets))]
