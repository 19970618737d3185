import json
from pathlib import Path

import numpy as np
import pytest

from pizero.data.lerobot import LeRobotDataset
from pizero.data.stats import DatasetStats, Stats, compute_stats


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
