import json
from pathlib import Path

import numpy as np
import pytest

from pizero.data.lerobot import LeRobotDataset
from pizero.data.stats import DatasetStats, Stats, compute_stats, joint_stats
from pizero.data.units import Units


def test_statistics_of_zero_to_a_hundred_are_known() -> None:
    values = np.stack([np.arange(101), 3 - 2 * np.arange(101)], 1).astype(np.float32)
    stats = Stats.of(np.random.default_rng(0).permutation(values))
    np.testing.assert_allclose(stats.mean, [50, -97])
    np.testing.assert_allclose(stats.std, [np.sqrt(850), 2 * np.sqrt(850)])
    np.testing.assert_array_equal(stats.min, [0, -197])
    np.testing.assert_array_equal(stats.max, [100, 3])
    np.testing.assert_allclose(stats.q01, [1, -195])
    np.testing.assert_allclose(stats.q99, [99, 1])
    assert stats.count == 101
    assert stats.mean.dtype == np.float64


def test_statistics_of_a_data_set_are_those_of_all_its_frames(dataset: LeRobotDataset) -> None:
    stats = compute_stats(dataset)
    assert stats.state.count == stats.actions.count == 16
    np.testing.assert_allclose(stats.actions.mean, dataset.actions.astype(np.float64).mean(0))
    assert stats.state.mean.shape == (3,)


def test_saved_statistics_load_with_the_same_bits(dataset: LeRobotDataset, tmp_path: Path) -> None:
    stats = compute_stats(dataset)
    stats.save(tmp_path / "stats.json")
    loaded = DatasetStats.load(tmp_path / "stats.json")
    for ours, theirs in ((stats.state, loaded.state), (stats.actions, loaded.actions)):
        assert ours.to_json() == theirs.to_json()
        assert ours.q99.tobytes() == theirs.q99.tobytes()
    assert [path.name for path in tmp_path.iterdir()] == ["stats.json"]


def test_a_file_that_is_no_statistics_is_refused_with_its_name(dataset: LeRobotDataset, tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    with pytest.raises(ValueError, match=r"stats.json does not exist"):
        DatasetStats.load(path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"stats.json does not hold statistics"):
        DatasetStats.load(path)
    data = compute_stats(dataset).to_json()
    del data["state"]["q01"]
    data["state"]["p01"] = [0.0]
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"missing \['q01'\], unknown \['p01'\]"):
        DatasetStats.load(path)
    data = compute_stats(dataset).to_json()
    data["state"]["q01"] = [0.0]
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="different lengths"):
        DatasetStats.load(path)


def test_no_frames_have_no_statistics() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Stats.of(np.zeros((0, 3), np.float32))


def test_what_a_source_does_not_tell_stays_absent_through_json() -> None:
    stats = Stats(np.zeros(2), np.ones(2), None, None, np.full(2, -1.0), None, None)
    again = Stats.from_json(json.loads(json.dumps(stats.to_json())))
    assert again.to_json() == stats.to_json()
    assert (again.min, again.max, again.q99, again.count) == (None,) * 4
    np.testing.assert_array_equal(again.q01, [-1, -1])
    with pytest.raises(ValueError, match="stats have no std"):
        Stats.from_json(stats.to_json() | {"std": None})


def test_statistics_of_relative_actions_are_those_of_every_real_step_of_every_chunk(dataset: LeRobotDataset) -> None:
    rows = [
        dataset.actions[i + step] - np.array([0, dataset.state[i, 1]], np.float32)
        for episode in dataset.episodes
        for i in range(episode.start, episode.start + episode.length)
        for step in range(3)
        if i + step < episode.start + episode.length
    ]
    expected, stats = Stats.of(np.stack(rows)), compute_stats(dataset, Units(delta=(1,)), horizon=3)
    assert stats.actions.count == len(rows) == 39
    for name in ("mean", "std", "min", "max", "q01", "q99"):
        np.testing.assert_allclose(vars(stats.actions)[name], vars(expected)[name], rtol=1e-12, atol=1e-15)
    assert stats.state.to_json() == compute_stats(dataset).state.to_json()


class Part:
    """Some episodes of a data set, as a data set of their own."""

    def __init__(self, dataset: LeRobotDataset, first: int, end: int) -> None:
        episodes = dataset.episodes[first:end]
        self.start, stop = episodes[0].start, episodes[-1].start + episodes[-1].length
        self.state, self.actions = dataset.state[self.start : stop], dataset.actions[self.start : stop]
        self.dataset = dataset

    def steps(self, indices: np.ndarray, horizon: int) -> tuple[np.ndarray, np.ndarray]:
        steps, real = self.dataset.steps(indices + self.start, horizon)
        return steps - self.start, real


@pytest.mark.parametrize("units", [None, Units(delta=(1,)), Units(delta=(0, 1))])
def test_joint_statistics_are_those_of_one_data_set_with_all_frames(dataset: LeRobotDataset, units) -> None:
    whole = compute_stats(dataset, units, horizon=3)
    joint = joint_stats([Part(dataset, 0, 1), Part(dataset, 1, 3)], units, horizon=3)
    assert joint.to_json() == whole.to_json()
    alone = joint_stats([Part(dataset, 0, 1)], units, horizon=3)
    assert alone.to_json() != whole.to_json()


def test_joint_statistics_need_data_sets_of_one_width(dataset: LeRobotDataset) -> None:
    other = Part(dataset, 0, 1)
    other.state = other.state[:, :2]
    with pytest.raises(ValueError, match=r"widths \(state, actions\) \[\(3, 2\), \(2, 2\)\]"):
        joint_stats([dataset, other])
    with pytest.raises(ValueError, match="at least one data set"):
        joint_stats([])
