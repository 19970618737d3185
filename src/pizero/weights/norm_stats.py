"""openpi's `norm_stats.json`: statistics of state and actions, and the folders of a checkpoint that hold one."""

from pathlib import Path
from typing import Any

import numpy as np

from pizero.data.stats import DatasetStats, Stats
from pizero.weights.source import MAX_NAMED, read_json

FILE = "norm_stats.json"
ARRAYS = ("mean", "std", "q01", "q99")
QUANTILES = ("q01", "q99")
"""The arrays that may be null or absent."""


def read_norm_stats(file: Path) -> DatasetStats:
    """The statistics in a file of openpi, which has neither extremes nor a count.

    Raises ValueError when the file is missing, broken, or holds statistics of anything but `state` and `actions`.
    """
    groups = read_json(file).get("norm_stats")
    if not isinstance(groups, dict) or set(groups) != {"state", "actions"}:
        found = ", ".join(map(repr, groups)) if isinstance(groups, dict) else type(groups).__name__
        raise ValueError(f"{file}: norm_stats holds {found or 'nothing'}, expected 'state' and 'actions'")
    return DatasetStats(*(_stats(groups[name], f"{file}: {name}") for name in ("state", "actions")))


def find_norm_stats(folder: Path) -> DatasetStats | None:
    """The statistics under `assets` of a checkpoint; None when there are none, or several to choose from."""
    files = norm_stats_files(folder)
    return read_norm_stats(files[0]) if len(files) == 1 else None


def norm_stats_files(folder: Path) -> list[Path]:
    """Every statistics file under `assets` of a checkpoint; names of data sets may hold slashes."""
    return sorted((folder / "assets").rglob(FILE))


def several_norm_stats(folder: Path) -> dict[str, str]:
    """Where a checkpoint has statistics of several robots: the fact that must be told, and why; else nothing."""
    files = norm_stats_files(folder)
    if len(files) < 2:
        return {}
    names = ", ".join(str(file) for file in files[:MAX_NAMED])
    more = f" and {len(files) - MAX_NAMED} more" if len(files) > MAX_NAMED else ""
    return {"stats": f"it has those of several robots, name one: {names}{more}"}


def _stats(group: Any, place: str) -> Stats:
    if not isinstance(group, dict):
        raise ValueError(f"{place} is a {type(group).__name__}, expected an object with {', '.join(ARRAYS)}")
    if unknown := sorted(set(group) - set(ARRAYS)):
        raise ValueError(f"{place} has {', '.join(unknown)}, known are {', '.join(ARRAYS)}")
    mean, std = (_array(group.get(name), f"{place}.{name}") for name in ("mean", "std"))
    q01, q99 = (None if group.get(name) is None else _array(group[name], f"{place}.{name}") for name in QUANTILES)
    lengths = {name: len(x) for name, x in zip(ARRAYS, (mean, std, q01, q99), strict=True) if x is not None}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"{place} has arrays of different lengths: {lengths}")
    return Stats(mean=mean, std=std, min=None, max=None, q01=q01, q99=q99, count=None)


def _array(values: Any, place: str) -> np.ndarray:
    numbers = isinstance(values, list) and all(type(value) in (int, float) for value in values)
    if not numbers or not values or not np.isfinite(values).all():
        raise ValueError(f"{place} is {str(values)[:60]}, expected a list of finite numbers")
    return np.asarray(values, np.float64)
