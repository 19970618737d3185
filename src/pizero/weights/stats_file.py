"""Files of statistics in the formats of all families, for checkpoints that come without."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pizero.data.stats import DatasetStats, Stats
from pizero.weights.norm_stats import read_norm_stats
from pizero.weights.source import read_json

NAMES = {"proprio": "action", "observation.state": "action", "state": "actions"}
"""What the state is called, and what the actions are called then: open-pi-zero, a LeRobot data set, ours."""
QUANTILES = {"q01": "p01", "q99": "p99"}
"""open-pi-zero's names."""


def read_stats(file: Path) -> DatasetStats:
    """The statistics in a file: ours, openpi's norm_stats.json, open-pi-zero's, or a LeRobot data set's.

    Raises ValueError when the file is missing, broken, or holds something else.
    """
    data = read_json(file)
    if "norm_stats" in data:
        return read_norm_stats(file)
    for state, actions in NAMES.items():
        if isinstance(data.get(state), dict) and isinstance(data.get(actions), dict):
            return DatasetStats(_stats(data[state], f"{file}: {state}"), _stats(data[actions], f"{file}: {actions}"))
    raise ValueError(
        f"{file} holds {', '.join(data) or 'nothing'}; expected norm_stats (openpi), proprio and action "
        "(open-pi-zero), observation.state and action (LeRobot), or state and actions"
    )


def _stats(group: Mapping[str, Any], place: str) -> Stats:
    def array(name: str) -> np.ndarray | None:
        values = group.get(name, group.get(QUANTILES.get(name, name)))
        if values is None:
            return None
        try:
            numbers = np.asarray(values, np.float64)
        except (TypeError, ValueError):
            numbers = np.zeros((0, 0))
        if numbers.ndim != 1 or not numbers.size or not np.isfinite(numbers).all():
            raise ValueError(f"{place}: {name} is no list of finite numbers")
        return numbers

    mean, std = array("mean"), array("std")
    if mean is None or std is None:
        raise ValueError(f"{place} has {', '.join(group) or 'nothing'}, and needs mean and std")
    rest = {name: array(name) for name in ("min", "max", "q01", "q99")}
    if any(x is not None and x.shape != mean.shape for x in (std, *rest.values())):
        raise ValueError(f"{place} has arrays of different lengths")
    return Stats(mean, std, **rest, count=None)
