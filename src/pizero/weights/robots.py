"""The further robots of a checkpoint: one network may be trained on several, each with statistics of its own.

The folder's config.json and stats.json are those of the first. For each other one there is

    robots/1-NAME/transform.json, stats.json
"""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path

from pizero.data.stats import DatasetStats
from pizero.data.transform import Transform, TransformConfig
from pizero.weights.source import read_json

ROBOTS, TRANSFORM, STATS = "robots", "transform.json", "stats.json"


def save_robots(folder: Path, others: Sequence[Transform]) -> None:
    """Write the transforms of all robots but the first into the folder of a checkpoint."""
    for number, transform in enumerate(others, 1):
        robot = folder / ROBOTS / f"{number}-{transform.config.embodiment.name}"
        robot.mkdir(parents=True)
        (robot / TRANSFORM).write_text(json.dumps(transform.config.to_json(), indent=2) + "\n")
        transform.stats.save(robot / STATS)


def load_robots(folder: Path, first: Transform) -> tuple[Transform, ...]:
    """The transforms of all robots of a checkpoint, of which `first` is that of config.json."""
    found = sorted((folder / ROBOTS).glob("*-*"), key=lambda robot: int(robot.name.partition("-")[0]))
    others = (
        Transform(
            TransformConfig.from_json(read_json(robot / TRANSFORM)), DatasetStats.load(robot / STATS), first.tokenizer
        )
        for robot in found
    )
    return (first, *others)


def choose_robot(folder: Path, first: Transform, name: str | None) -> Transform:
    """The transform of the robot of this name; None: the first. Raises ValueError that names those there are."""
    if name is None:
        return first
    transforms = load_robots(folder, first)
    names = [transform.config.embodiment.name for transform in transforms]
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{folder} has no robot {name!r}{hint}; it was trained on {', '.join(names)}")
    return transforms[names.index(name)]
