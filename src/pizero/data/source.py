"""The data sets of a mixture: what they bring along, which are of one robot, and whether they fit each other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pizero.data.dataset import Dataset
from pizero.data.transform import Transform, TransformConfig
from pizero.embodiment import Embodiment


@dataclass(frozen=True)
class Robot:
    """Data sets of one robot, which share a transform made from the statistics of all of them."""

    embodiment: Embodiment
    """The robot, with the range of actions of all its data sets."""
    members: tuple[int, ...]
    """Places of the data sets in the list."""


def group_robots(datasets: Sequence[Dataset]) -> list[Robot]:
    """The robots of some data sets, in the order in which they come first.

    Data sets are of one robot when names, cameras, dimensions and gripper agree; the range of actions may differ, since
    a foreign data set's is that of its recording. Raises ValueError when one robot was recorded at different rates.
    """
    members: dict[Embodiment, list[int]] = {}
    for i, dataset in enumerate(datasets):
        members.setdefault(_without_range(dataset.embodiment), []).append(i)
    return [Robot(_joint_embodiment([datasets[i] for i in places]), tuple(places)) for places in members.values()]


@dataclass(frozen=True)
class Source:
    """A data set of a mixture."""

    dataset: Dataset
    """The recording."""
    transform: Transform
    """Of its robot; the same object for all data sets of that robot."""
    weight: float
    """Part of the samples that come from here, relative to the other sources."""


def check_sources(sources: Sequence[Source]) -> None:
    """Raises ValueError when sources do not fit each other, or not their transforms."""
    if not sources:
        raise ValueError("a mixture needs at least one data set, got none")
    for source in sources:
        if not 0 < source.weight < float("inf"):
            raise ValueError(f"the weight of {source.dataset.root} is {source.weight}, must be above 0")
    first = _shapes(sources[0].transform.config)
    for source in sources:
        config, dataset = source.transform.config, source.dataset
        for name, value in _shapes(config).items():
            if value != first[name]:
                raise ValueError(
                    f"the transform of {dataset.root} has {name} {value}, that of {sources[0].dataset.root} "
                    f"{first[name]}; sources of one mixture must have the same"
                )
        if dataset.preloaded_by not in (None, config.resize):
            raise ValueError(
                f"the data set's pictures were preloaded as {dataset.preloaded_by!r}, the model takes "
                f"{config.resize!r}; give preload how={config.resize!r}"
            )
    for robot in group_robots([source.dataset for source in sources]):
        members = [sources[i] for i in robot.members]
        assert len({id(member.transform) for member in members}) == 1, "data sets of one robot share its transform"
        if difference := members[0].transform.config.embodiment.difference(robot.embodiment):
            raise ValueError(f"the data set is of another robot than the model: {difference}")


def _shapes(config: TransformConfig) -> dict[str, object]:
    """What all transforms of a mixture must agree on."""
    return {
        "image_size": config.image_size,
        "resize": config.resize,
        "prompt_length": config.prompt_length,
        "state_dim": config.state_dim,
        "action_dim": config.action_dim,
        "horizon": config.horizon,
    }


def _without_range(robot: Embodiment) -> Embodiment:
    return replace(robot, action_low=(), action_high=(), control_rate_hz=None)


def _joint_embodiment(datasets: Sequence[Dataset]) -> Embodiment:
    robots = [dataset.embodiment for dataset in datasets]
    for dataset, robot in zip(datasets, robots, strict=True):
        if robot.control_rate_hz != robots[0].control_rate_hz:
            raise ValueError(
                f"{datasets[0].root} and {dataset.root} are of one robot, {robot.name}, but of {_rate(robots[0])} and "
                f"{_rate(robot)} frames a second; a chunk of actions must last equally long in both"
            )
    if any(robot.action_low == () for robot in robots):
        return replace(robots[0], action_low=(), action_high=())
    low = np.min([robot.action_low for robot in robots], 0)
    high = np.max([robot.action_high for robot in robots], 0)
    return replace(robots[0], action_low=tuple(low.tolist()), action_high=tuple(high.tolist()))


def _rate(robot: Embodiment) -> str:
    return "unknown" if robot.control_rate_hz is None else f"{robot.control_rate_hz:g}"
