"""Two evaluations side by side, on the episodes that both played."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pizero.sim.count import Count
from pizero.sim.journal import read_episodes, read_settings
from pizero.sim.outcome import EpisodeResult
from pizero.sim.significance import mcnemar

ALL = "all"
"""What the row over all tasks is called."""


@dataclass(frozen=True)
class Pairs:
    """Episodes that both runs played to their end."""

    name: str
    """The task, or `ALL`."""
    both: int
    """Episodes that both solved."""
    only_first: int
    """... that only the first solved."""
    only_second: int
    """... that only the second solved."""
    neither: int
    """... that neither solved."""

    @property
    def first(self) -> Count:
        """What the first run solved of them."""
        return Count(self.both + self.only_first, self.num_episodes)

    @property
    def second(self) -> Count:
        """What the second run solved of them."""
        return Count(self.both + self.only_second, self.num_episodes)

    @property
    def num_episodes(self) -> int:
        """How many there are."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def p_value(self) -> float:
        """McNemar's exact test: how probable so large a difference is if both solve equally often."""
        return mcnemar(self.only_first, self.only_second)

    def to_json(self) -> dict[str, Any]:
        """The numbers for programs."""
        return {
            "task": self.name,
            "episodes": self.num_episodes,
            "both": self.both,
            "only_first": self.only_first,
            "only_second": self.only_second,
            "neither": self.neither,
            "first": {"rate": self.first.rate, "interval": self.first.interval},
            "second": {"rate": self.second.rate, "interval": self.second.interval},
            "p_value": self.p_value,
        }


@dataclass(frozen=True)
class Comparison:
    """Two runs on their common episodes."""

    names: tuple[str, str]
    """What the runs are called."""
    tasks: tuple[Pairs, ...]
    """One entry per task with common episodes, in the first run's order."""
    left_out: int
    """Common episodes that an error ended in either run; in no entry."""
    unpaired: tuple[int, int]
    """Episodes that only the first run has, and only the second."""
    differences: tuple[str, ...] = ()
    """Settings in which the runs differ, as "name: first against second"."""

    @property
    def total(self) -> Pairs:
        """All tasks together."""
        return _pairs(ALL, self.tasks)

    def to_json(self) -> dict[str, Any]:
        """The numbers for programs."""
        return {
            "first": self.names[0],
            "second": self.names[1],
            "total": self.total.to_json(),
            "tasks": [pairs.to_json() for pairs in self.tasks],
            "left_out_for_errors": self.left_out,
            "only_in_first": self.unpaired[0],
            "only_in_second": self.unpaired[1],
            "settings": list(self.differences),
        }


def compare_runs(first: Path, second: Path) -> Comparison:
    """The evaluations in two folders. Raises ValueError when one is none, or when they have no common episode."""
    differences = _differences(read_settings(first), read_settings(second))
    comparison = compare(read_episodes(first), read_episodes(second), (str(first), str(second)))
    return replace(comparison, differences=differences)


def compare(
    first: Iterable[EpisodeResult], second: Iterable[EpisodeResult], names: tuple[str, str] = ("first", "second")
) -> Comparison:
    """Results paired by task, episode, seed and initial state. Raises ValueError when there is no pair."""
    one, other = ({result.key: result for result in results} for results in (first, second))
    common = [key for key in one if key in other]
    if not common:
        raise ValueError(
            f"{names[0]} ({len(one)} episodes) and {names[1]} ({len(other)}) have no episode in common: "
            "the same tasks, --seed and --states are needed"
        )
    played = [key for key in common if one[key].error is None and other[key].error is None]
    tasks = [
        _count(task, [(one[key].success, other[key].success) for key in played if key[0] == task])
        for task in dict.fromkeys(key[0] for key in played)
    ]
    unpaired = len(one) - len(common), len(other) - len(common)
    return Comparison(names, tuple(tasks), len(common) - len(played), unpaired)


def _count(task: str, outcomes: Sequence[tuple[bool, bool]]) -> Pairs:
    kinds = ((True, True), (True, False), (False, True), (False, False))
    return Pairs(task, *(outcomes.count(kind) for kind in kinds))


def _pairs(name: str, parts: Sequence[Pairs]) -> Pairs:
    return Pairs(
        name,
        sum(part.both for part in parts),
        sum(part.only_first for part in parts),
        sum(part.only_second for part in parts),
        sum(part.neither for part in parts),
    )


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(
        f"{key}: {first.get(key)} against {second.get(key)}"
        for key in {**first, **second}
        if first.get(key) != second.get(key)
    )
