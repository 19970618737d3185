"""Every file of a written folder against the description of LeRobot v3.0, as the lerobot package itself writes it."""

import json
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pizero.data.lerobot import LeRobotDataset

FRONT, WRIST = "observation.images.front", "observation.images.wrist"
LENGTHS = [5, 7, 4]
STATS = ["count", "max", "mean", "min", "q01", "q10", "q50", "q90", "q99", "std"]


@pytest.fixture
def info(root: Path) -> dict:
    return json.loads((root / "meta/info.json").read_text())


def test_the_folder_has_the_files_of_the_format_and_one_of_ours(root: Path) -> None:
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert files == {
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        "meta/embodiment.json",
        "meta/episodes/chunk-000/file-000.parquet",
        "data/chunk-000/file-000.parquet",
        f"videos/{FRONT}/chunk-000/file-000.mp4",
        f"videos/{WRIST}/chunk-000/file-000.mp4",
    }


def test_info_says_what_lerobot_asks_for(info: dict) -> None:
    features = info.pop("features")
    assert info == {
        "codebase_version": "v3.0",
        "robot_type": "toy",
        "total_episodes": 3,
        "total_frames": 16,
        "total_tasks": 2,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": 12.5,
        "splits": {"train": "0:3"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    assert features["observation.state"] == {"dtype": "float32", "shape": [3], "names": ["x", "y", "angle"]}
    assert features["action"] == {"dtype": "float32", "shape": [2], "names": ["dx", "grip"]}
    assert features[FRONT]["dtype"] == "video"
    assert features[FRONT]["shape"] == [32, 48, 3]
    assert features[FRONT]["names"] == ["height", "width", "channels"]
    assert features[FRONT]["info"]["video.codec"] == "h264"
    assert features["timestamp"] == {"dtype": "float32", "shape": [1], "names": None}
    for name in ("frame_index", "episode_index", "index", "task_index"):
        assert features[name] == {"dtype": "int64", "shape": [1], "names": None}


def test_frames_have_the_columns_and_types_of_the_format(root: Path, info: dict) -> None:
    with pq.ParquetFile(root / "data/chunk-000/file-000.parquet") as file:
        schema, table = file.schema_arrow, file.read()
        assert file.num_row_groups == 3
        assert file.metadata.row_group(0).column(0).compression == "SNAPPY"
    numeric = [name for name, feature in info["features"].items() if feature["dtype"] != "video"]
    assert schema.names == numeric  # the same order, too
    assert schema.field("observation.state").type.equals(pa.list_(pa.float32(), 3))
    assert schema.field("action").type.equals(pa.list_(pa.float32(), 2))
    assert schema.field("timestamp").type == pa.float32()
    for name in ("frame_index", "episode_index", "index", "task_index"):
        assert schema.field(name).type == pa.int64()
    inside = np.concatenate([np.arange(n) for n in LENGTHS])
    np.testing.assert_array_equal(table["frame_index"], inside)
    np.testing.assert_array_equal(table["timestamp"], (inside / 12.5).astype(np.float32))
    np.testing.assert_array_equal(table["index"], np.arange(16))
    np.testing.assert_array_equal(table["episode_index"], np.repeat([0, 1, 2], LENGTHS))
    np.testing.assert_array_equal(table["task_index"], np.repeat([0, 1, 0], LENGTHS))


def test_the_table_of_episodes_says_where_everything_lies(root: Path) -> None:
    table = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet")
    column = {name: table[name].to_pylist() for name in table.column_names}
    assert column["episode_index"] == [0, 1, 2]
    assert column["length"] == LENGTHS
    assert column["tasks"] == [["open the drawer"], ["close it"], ["open the drawer"]]
    assert column["dataset_from_index"] == [0, 5, 12]
    assert column["dataset_to_index"] == [5, 12, 16]
    for group in ("data", "meta/episodes", f"videos/{FRONT}", f"videos/{WRIST}"):
        assert column[f"{group}/chunk_index"] == column[f"{group}/file_index"] == [0, 0, 0]
    for camera in (FRONT, WRIST):
        np.testing.assert_allclose(column[f"videos/{camera}/from_timestamp"], np.array([0, 5, 12]) / 12.5)
        np.testing.assert_allclose(column[f"videos/{camera}/to_timestamp"], np.array([5, 12, 16]) / 12.5)
    features = ["observation.state", "action", FRONT, WRIST, "timestamp"]
    features += ["frame_index", "episode_index", "index", "task_index"]
    for feature in features:
        assert sorted(name.rpartition("/")[2] for name in column if name.startswith(f"stats/{feature}/")) == STATS
    assert column["stats/action/count"] == [[5], [7], [4]]


def test_tasks_have_the_sentence_as_a_pandas_index(root: Path) -> None:
    table = pq.read_table(root / "meta/tasks.parquet")
    assert table.schema.field("task_index").type == pa.int64()
    assert table["task_index"].to_pylist() == [0, 1]
    assert table["task"].to_pylist() == ["open the drawer", "close it"]
    pandas = json.loads(table.schema.metadata[b"pandas"])
    assert pandas["index_columns"] == ["task"]
    assert [column["field_name"] for column in pandas["columns"]] == ["task_index", "task"]
    assert {"column_indexes", "creator", "pandas_version"} <= set(pandas)


def test_statistics_are_exact_and_pixels_count_from_zero_to_one(root: Path, dataset: LeRobotDataset, episodes) -> None:
    stats = json.loads((root / "meta/stats.json").read_text())
    for name in stats:
        assert sorted(stats[name]) == STATS
    actions = dataset.actions.astype(np.float64)
    np.testing.assert_allclose(stats["action"]["mean"], actions.mean(0), rtol=1e-12)
    np.testing.assert_allclose(stats["action"]["q99"], np.quantile(actions, 0.99, axis=0), rtol=1e-12)
    assert stats["action"]["count"] == [16]
    pixels = np.concatenate([[frame.images["front"] for frame in frames] for frames, _ in episodes]) / 255
    flat = pixels.reshape(-1, 3)
    for key, expected in (("mean", flat.mean(0)), ("std", flat.std(0)), ("min", flat.min(0)), ("max", flat.max(0))):
        assert np.shape(stats[FRONT][key]) == (3, 1, 1)
        np.testing.assert_allclose(np.ravel(stats[FRONT][key]), expected, rtol=1e-9)
    median = np.quantile(flat, 0.5, axis=0, method="inverted_cdf")
    np.testing.assert_allclose(np.ravel(stats[FRONT]["q50"]), median, rtol=1e-9)
    assert stats[FRONT]["count"] == [16]


def test_videos_hold_all_episodes_one_after_the_other_from_time_zero(root: Path) -> None:
    with av.open(str(root / f"videos/{FRONT}/chunk-000/file-000.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.pix_fmt == "yuv420p"
        assert (stream.height, stream.width) == (32, 48)
        assert stream.average_rate == Fraction(25, 2)
        frames = list(container.decode(stream))
    key = [bool(frame.key_frame) for frame in frames]
    assert key[0]
    assert all(a or b for a, b in pairwise(key))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(16) / 12.5, atol=1e-6)
