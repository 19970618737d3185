"""Files of statistics in the formats of all families."""

import json

import numpy as np
import pytest

from pizero.data.stats import DatasetStats, Stats
from pizero.weights.stats_file import read_stats

STATE = {"mean": [1.0, 2.0], "std": [3.0, 4.0], "q01": [5.0, 6.0], "q99": [7.0, 8.0]}
ACTIONS = {"mean": [0.5], "std": [0.25], "q01": [-1.0], "q99": [1.0]}
RANGE = {"min": [-9.0, -8.0], "max": [9.0, 8.0]}


def opz(group):
    """open-pi-zero's names of quantiles."""
    return {{"q01": "p01", "q99": "p99"}.get(name, name): values for name, values in group.items()}


FORMATS = {
    "openpi": {"norm_stats": {"state": STATE, "actions": ACTIONS}},
    "open-pi-zero": {"action": opz(ACTIONS), "proprio": opz(STATE | RANGE), "num_transitions": 5},
    "a LeRobot data set": {
        "observation.state": STATE | RANGE | {"count": [12]},
        "action": ACTIONS,
        "observation.images.front": {"mean": [[[0.5]]], "std": [[[0.5]]]},
    },
    "ours": {
        "state": STATE | {"min": None, "max": None, "count": 12},
        "actions": ACTIONS | {"min": None, "max": None, "count": 12},
    },
}


@pytest.fixture
def write(tmp_path):
    def write(data):
        (tmp_path / "stats.json").write_text(json.dumps(data))
        return tmp_path / "stats.json"

    return write


@pytest.mark.parametrize("layout", FORMATS)
def test_every_format_says_the_same(write, layout):
    stats = read_stats(write(FORMATS[layout]))
    for theirs, ours in ((STATE, stats.state), (ACTIONS, stats.actions)):
        for name, values in theirs.items():
            array = getattr(ours, name)
            assert array.dtype == np.float64
            assert array.tolist() == values
    has_range = layout in ("open-pi-zero", "a LeRobot data set")
    assert (stats.state.min is not None) == has_range
    if stats.state.min is not None:
        assert stats.state.min.tolist() == RANGE["min"]
    assert stats.actions.max is None


def test_ours_is_what_a_checkpoint_has(tmp_path):
    one = Stats.of(np.random.default_rng(0).normal(size=(20, 3)))
    DatasetStats(one, one).save(tmp_path / "stats.json")
    read = read_stats(tmp_path / "stats.json")
    for name in ("mean", "std", "min", "max", "q01", "q99"):
        assert np.array_equal(getattr(read.actions, name), getattr(one, name))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "holds nothing; expected norm_stats"),
        ({"weights": 1, "more": 2}, "holds weights, more; expected norm_stats"),
        ({"state": STATE}, "holds state; expected"),
        ({"proprio": STATE, "action": [1]}, "holds proprio, action; expected"),
        ({"norm_stats": {"droid": {"state": STATE, "actions": ACTIONS}}}, "norm_stats holds 'droid', expected 'state'"),
        ({"state": STATE, "actions": {"mean": [1.0]}}, "actions has mean, and needs mean and std"),
        ({"state": {"std": [1.0]}, "actions": ACTIONS}, "state has std, and needs mean and std"),
        ({"state": STATE, "actions": ACTIONS | {"q99": [1.0, 2.0]}}, "actions has arrays of different lengths"),
        ({"state": STATE, "actions": ACTIONS | {"std": [1.0, 2.0]}}, "actions has arrays of different lengths"),
        ({"state": STATE, "actions": ACTIONS | {"std": ["x"]}}, "actions: std is no list of finite numbers"),
        ({"state": STATE, "actions": ACTIONS | {"std": [[1.0]]}}, "actions: std is no list of finite numbers"),
        ({"state": STATE, "actions": ACTIONS | {"std": 1.0}}, "actions: std is no list of finite numbers"),
        ({"state": STATE, "actions": {"mean": [None], "std": [1.0]}}, "actions: mean is no list of finite numbers"),
        ({"state": STATE, "actions": {"mean": [], "std": []}}, "actions: mean is no list of finite numbers"),
        ([STATE], "holds a list"),
    ],
)
def test_anything_else_is_refused_by_name(write, data, words):
    with pytest.raises(ValueError, match=words) as error:
        read_stats(write(data))
    assert "stats.json" in str(error.value)


def test_a_missing_and_a_truncated_file_are_named(tmp_path, write):
    with pytest.raises(ValueError, match=r"nothing\.json does not exist"):
        read_stats(tmp_path / "nothing.json")
    file = write(FORMATS["ours"])
    file.write_text(file.read_text()[:50])
    with pytest.raises(ValueError, match=r"stats\.json is truncated or not JSON"):
        read_stats(file)
