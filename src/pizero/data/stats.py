"""Statistics of a data set's state and actions, exact, in real units."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from pizero.data.units import Units

_ARRAYS = ("mean", "std", "min", "max", "q01", "q99")
_OPTIONAL = ("min", "max", "q01", "q99", "count")


@dataclass(frozen=True)
class Stats:
    """What the values of each dimension of a vector look like; all arrays float64, one value per dimension.

    What an imported checkpoint does not tell is None: its family's formula does not need it.
    """

    mean: Float[np.ndarray, " d"]
    """Arithmetic mean."""
    std: Float[np.ndarray, " d"]
    """Standard deviation of the population (divided by count, not count - 1)."""
    min: Float[np.ndarray, " d"] | None
    """Smallest value."""
    max: Float[np.ndarray, " d"] | None
    """Largest value."""
    q01: Float[np.ndarray, " d"] | None
    """1 % quantile, linearly interpolated between the two nearest values."""
    q99: Float[np.ndarray, " d"] | None
    """99 % quantile, likewise."""
    count: int | None
    """Number of vectors."""

    @classmethod
    def of(cls, values: Float[np.ndarray, "n d"]) -> "Stats":
        """Statistics of the rows, computed in float64."""
        if not len(values):
            raise ValueError("statistics need at least one vector, got none")
        x = np.asarray(values, np.float64)
        q01, q99 = np.quantile(x, [0.01, 0.99], axis=0)
        return cls(x.mean(0), x.std(0), x.min(0), x.max(0), q01, q99, len(x))

    def to_json(self) -> dict[str, Any]:
        """Lists of numbers, None for what is absent; `from_json` gives the same bits back."""
        arrays = (self.mean, self.std, self.min, self.max, self.q01, self.q99)
        lists = {name: None if array is None else array.tolist() for name, array in zip(_ARRAYS, arrays, strict=True)}
        return lists | {"count": self.count}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Stats":
        """Raises ValueError that names missing and unknown keys, or arrays of different lengths."""
        _check_keys("stats", data, {*_ARRAYS, "count"})
        arrays = {name: np.asarray(data[name], np.float64) for name in _ARRAYS if data[name] is not None}
        if absent := {"mean", "std"} - set(arrays):
            raise ValueError(f"stats have no {' and no '.join(sorted(absent))}; only {_OPTIONAL} may be null")
        if len({array.shape for array in arrays.values()}) != 1:
            raise ValueError(f"stats have different lengths: { {name: array.size for name, array in arrays.items()} }")
        optional = {name: arrays.get(name) for name in _OPTIONAL[:-1]}
        count = None if data["count"] is None else int(data["count"])
        return cls(arrays["mean"], arrays["std"], **optional, count=count)


@dataclass(frozen=True)
class DatasetStats:
    """Statistics of everything that is normalised."""

    state: Stats
    """Of the state of every frame."""
    actions: Stats
    """Of the action of every frame."""

    def to_json(self) -> dict[str, Any]:
        """A dictionary with the keys "state" and "actions"."""
        return {"state": self.state.to_json(), "actions": self.actions.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "DatasetStats":
        """Raises ValueError that names missing and unknown keys."""
        _check_keys("stats", data, {"state", "actions"})
        return cls(Stats.from_json(data["state"]), Stats.from_json(data["actions"]))

    def save(self, path: Path) -> None:
        """Written aside, then renamed."""
        aside = path.with_name(path.name + ".part")
        aside.write_text(json.dumps(self.to_json(), indent=1) + "\n")
        os.replace(aside, path)

    @classmethod
    def load(cls, path: Path) -> "DatasetStats":
        """Raises ValueError that names the file."""
        try:
            return cls.from_json(json.loads(path.read_text()))
        except FileNotFoundError:
            raise ValueError(f"{path} does not exist") from None
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} does not hold statistics: {error}") from None


@runtime_checkable
class Numbers(Protocol):
    """The numbers of a data set, in memory."""

    @property
    def state(self) -> np.ndarray:
        """(n, s)."""
        ...

    @property
    def actions(self) -> np.ndarray:
        """(n, a)."""
        ...

    def steps(self, indices: np.ndarray, horizon: int) -> tuple[np.ndarray, np.ndarray]:
        """Frame number of each timestep of the chunks that start at `indices` (b, t), and whether it is real (b, t)."""
        ...


def compute_stats(dataset: Numbers, units: Units | None = None, horizon: int = 1) -> DatasetStats:
    """Exact statistics of every frame's state and action (openpi's running histograms are approximate).

    `units` says in which units, None in the robot's own. Where actions are relative to the state, they are those of
    every chunk of `horizon` timesteps, without those after the end of the episode, and `count` is their number.
    """
    return joint_stats([dataset], units, horizon)


def joint_stats(datasets: Sequence[Numbers], units: Units | None = None, horizon: int = 1) -> DatasetStats:
    """`compute_stats` of the frames of several data sets of one robot, exact, as if they were one data set.

    Raises ValueError when there is none, or when their states or actions are of different widths.
    """
    if not datasets:
        raise ValueError("statistics need at least one data set, got none")
    shapes = [(dataset.state.shape[1], dataset.actions.shape[1]) for dataset in datasets]
    if len(set(shapes)) > 1:
        raise ValueError(
            f"data sets of one robot have widths (state, actions) {shapes}; joint statistics need them equal"
        )
    units = units or Units()
    state = Stats.of(np.concatenate([units.state(dataset.state) for dataset in datasets]))
    if not units.delta:
        return DatasetStats(
            state, Stats.of(np.concatenate([units.absolute_actions(dataset.actions) for dataset in datasets]))
        )
    parts = [_RelativeActions(dataset, units, horizon) for dataset in datasets]
    columns = [  # one dimension at a time: all chunks together are `horizon` times as large as the recording
        Stats.of(np.concatenate([part.column(dim) for part in parts])[:, None]) for dim in range(shapes[0][1])
    ]
    return DatasetStats(state, _join(columns))


class _RelativeActions:
    """The real timesteps of every chunk of a data set."""

    def __init__(self, dataset: Numbers, units: Units, horizon: int) -> None:
        self._delta = units.delta
        self._state, self._actions = units.state(dataset.state), units.absolute_actions(dataset.actions)
        steps, real = dataset.steps(np.arange(len(self._actions)), horizon)
        self._chunk, timestep = np.nonzero(real)
        self._frames = steps[self._chunk, timestep]

    def column(self, dim: int) -> Float[np.ndarray, " m"]:
        """One dimension of all of them."""
        values = self._actions[self._frames, dim]
        return values - self._state[self._chunk, dim] if dim in self._delta else values


def _join(columns: Sequence[Stats]) -> Stats:
    """The statistics of a vector from those of its dimensions, all of them complete."""
    plain = [column.to_json() for column in columns]
    arrays = {name: np.concatenate([column[name] for column in plain]) for name in _ARRAYS}
    return Stats(**arrays, count=columns[0].count)


def _check_keys(what: str, data: object, expected: set[str]) -> None:
    if not isinstance(data, dict):
        raise ValueError(f"{what} are a {type(data).__name__}, expected a dictionary with {sorted(expected)}")
    if set(data) != expected:
        raise ValueError(f"{what}: missing {sorted(expected - set(data))}, unknown {sorted(set(data) - expected)}")
