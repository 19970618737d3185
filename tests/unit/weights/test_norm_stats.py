"""openpi's statistics files."""

import json
from pathlib import Path

import numpy as np
import pytest

from pizero.weights.norm_stats import find_norm_stats, read_norm_stats, several_norm_stats

GROUP = {"mean": [0.5, 1], "std": [1.0, 2.0], "q01": [-1.0, 0.0], "q99": [3.0, 4.0]}


def write(file: Path, **groups: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"norm_stats": groups}))
    return file


def test_numbers_come_back_and_what_openpi_does_not_know_is_none(tmp_path):
    stats = read_norm_stats(write(tmp_path / "x.json", state=GROUP, actions=GROUP | {"mean": [7.0, 8.0]}))
    assert stats.actions.mean.tolist() == [7.0, 8.0]
    assert stats.state.mean.dtype == np.float64
    for name, values in GROUP.items():
        assert getattr(stats.state, name).tolist() == values
    assert (stats.state.min, stats.state.max, stats.state.count) == (None, None, None)


@pytest.mark.parametrize("group", [GROUP | {"q01": None, "q99": None}, {"mean": [0.5], "std": [1.0]}])
def test_quantiles_may_be_null_or_absent(tmp_path, group):
    stats = read_norm_stats(write(tmp_path / "x.json", state=group, actions=GROUP))
    assert stats.state.q01 is None
    assert stats.state.q99 is None
    assert stats.actions.q01 is not None


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (GROUP | {"mean": [1.0]}, "arrays of different lengths"),
        (GROUP | {"mean": None}, r"state\.mean is None, expected a list of finite numbers"),
        (GROUP | {"std": [1.0, float("nan")]}, r"state\.std is .*nan"),
        (GROUP | {"std": "much"}, r"state\.std is much"),
        (GROUP | {"mean": [], "std": [], "q01": [], "q99": []}, r"state\.mean is \[\]"),
        (GROUP | {"median": [1.0, 1.0]}, "state has median"),
        ([1.0], "state is a list"),
    ],
)
def test_broken_statistics_are_named(tmp_path, group, message):
    with pytest.raises(ValueError, match=rf"x\.json: {message}" if message[0] == "s" else message):
        read_norm_stats(write(tmp_path / "x.json", state=group, actions=GROUP))


def test_other_groups_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"norm_stats holds 'state', expected 'state' and 'actions'"):
        read_norm_stats(write(tmp_path / "x.json", state=GROUP))
    (tmp_path / "y.json").write_text("{}")
    with pytest.raises(ValueError, match="norm_stats holds NoneType"):
        read_norm_stats(tmp_path / "y.json")


def test_the_only_statistics_of_a_checkpoint_are_found(tmp_path):
    assert find_norm_stats(tmp_path) is None
    assert several_norm_stats(tmp_path) == {}
    write(tmp_path / "assets/team/arm/norm_stats.json", state=GROUP, actions=GROUP)
    assert find_norm_stats(tmp_path) is not None
    assert several_norm_stats(tmp_path) == {}


def test_of_several_none_is_chosen_and_all_are_named(tmp_path):
    files = [write(tmp_path / f"assets/{name}/norm_stats.json", state=GROUP, actions=GROUP) for name in ("a", "b")]
    assert find_norm_stats(tmp_path) is None
    assert several_norm_stats(tmp_path)["stats"].endswith(f"name one: {files[0]}, {files[1]}")
