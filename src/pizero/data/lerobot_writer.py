"""Demonstrations as a LeRobot v3.0 folder, which the `lerobot` package opens; written aside, then renamed."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from pizero.data import lerobot_layout as layout
from pizero.data.lerobot_stats import Pixels, vector_stats
from pizero.data.video import ENCODER, PIXEL_FORMAT, VideoWriter
from pizero.embodiment import Embodiment
from pizero.frame import Frame

Row = dict[str, Any]


class LeRobotWriter:
    """Writes episodes; use it in a `with` block. The folder `root` appears when the block ends without an exception.

    Raises ValueError when `root` exists, when an episode does not fit the embodiment, and when no episode was added.
    """

    def __init__(self, root: Path, embodiment: Embodiment, image_sizes: Mapping[str, tuple[int, int]]) -> None:
        self.root, self.embodiment = Path(root), embodiment
        if set(image_sizes) != set(embodiment.cameras):
            raise ValueError(f"image sizes are for {tuple(image_sizes)}, {embodiment.name} has {embodiment.cameras}")
        if self.root.exists():
            raise ValueError(f"{self.root} exists already; choose another folder or remove it")
        if embodiment.control_rate_hz is None:
            raise ValueError(
                f"the control rate of {embodiment.name} is not known, and a LeRobot data set must have one"
            )
        self._rate: float = embodiment.control_rate_hz
        self._sizes = {camera: image_sizes[camera] for camera in embodiment.cameras}
        self._aside = self.root.with_name(self.root.name + ".part")
        self._tasks: dict[str, int] = {}
        self._episodes: list[Row] = []
        self._num_frames = 0
        self._values: dict[str, list[np.ndarray]] = {}
        self._pixels = {camera: Pixels() for camera in embodiment.cameras}

    def __enter__(self) -> "LeRobotWriter":
        if self._aside.exists():
            shutil.rmtree(self._aside)  # left by a run that was killed
        self._aside.mkdir(parents=True)
        self._data = _DataFiles(self._aside)
        self._videos = {
            camera: _VideoFiles(self._aside, layout.CAMERA_PREFIX + camera, size, self._rate)
            for camera, size in self._sizes.items()
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._data.close()
            for video in self._videos.values():
                video.close()
            if kind is None:
                if not self._episodes:
                    raise ValueError(f"{self.root}: no episode was added, so no data set is written")
                self._write_meta()
                os.replace(self._aside, self.root)
        finally:
            shutil.rmtree(self._aside, ignore_errors=True)

    def add_episode(
        self,
        frames: Sequence[Frame],
        actions: Float[np.ndarray, "n a"],
        extra: Mapping[str, bool | int | float | str] | None = None,
    ) -> None:
        """Appends an episode: `actions[i]`, in real units, was commanded on seeing `frames[i]`.

        `extra` is kept in the table of episodes; every episode must give the same keys. Nothing is written when it
        raises.
        """
        self._check(frames, actions, extra or {})
        for frame in frames:
            self._tasks.setdefault(frame.prompt, len(self._tasks))
        n, index = len(frames), len(self._episodes)
        # in the order of info.json, which lerobot compares with the columns of the file
        values: dict[str, np.ndarray] = {
            layout.STATE: np.stack([frame.state for frame in frames]).astype(np.float32),
            layout.ACTION: np.asarray(actions, np.float32),
            "timestamp": (np.arange(n) / self._rate).astype(np.float32),
            "frame_index": np.arange(n),
            "episode_index": np.full(n, index),
            "index": self._num_frames + np.arange(n),
            "task_index": np.array([self._tasks[frame.prompt] for frame in frames]),
        }
        if not self.embodiment.state:
            del values[layout.STATE]
        row: Row = {
            "episode_index": index,
            "tasks": list(dict.fromkeys(frame.prompt for frame in frames)),
            "length": n,
            "dataset_from_index": self._num_frames,
            "dataset_to_index": self._num_frames + n,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        row |= {f"data/{key}": value for key, value in self._data.write(_table(values)).items()}
        for name, column in values.items():
            self._values.setdefault(name, []).append(column)
            row |= {f"stats/{name}/{key}": value for key, value in vector_stats(column).items()}
        for camera, video in self._videos.items():
            key = layout.CAMERA_PREFIX + camera
            images = [frame.images[camera] for frame in frames]
            row |= {f"videos/{key}/{name}": value for name, value in video.write(images).items()}
            pixels = Pixels.of(images)
            self._pixels[camera].add(pixels)
            row |= {f"stats/{key}/{name}": value for name, value in pixels.stats().items()}
        row |= {layout.EXTRA_PREFIX + key: value for key, value in (extra or {}).items()}
        self._episodes.append(row)
        self._num_frames += n

    def _check(self, frames: Sequence[Frame], actions: np.ndarray, extra: Mapping[str, Any]) -> None:
        robot, index = self.embodiment, len(self._episodes)
        if not len(frames):
            raise ValueError(f"episode {index} has no frames")
        if actions.shape != (len(frames), len(robot.actions)):
            raise ValueError(
                f"episode {index} has actions of shape {actions.shape}; for its {len(frames)} frames {robot.name} "
                f"needs {(len(frames), len(robot.actions))}"
            )
        _check_finite(f"episode {index}", "action", actions, robot.actions)
        for i, frame in enumerate(frames):
            if len(frame.state) != len(robot.state):
                raise ValueError(
                    f"episode {index}, frame {i} has a state of {len(frame.state)} values, {robot.name} has "
                    f"{len(robot.state)}: {robot.state}"
                )
            sizes = {camera: image.shape[:2] for camera, image in frame.images.items()}
            if sizes != self._sizes:
                raise ValueError(f"episode {index}, frame {i} has images {sizes}, the data set takes {self._sizes}")
        _check_finite(f"episode {index}", "state", np.stack([frame.state for frame in frames]), robot.state)
        first = {key.removeprefix(layout.EXTRA_PREFIX) for row in self._episodes[:1] for key in _extra_keys(row)}
        if self._episodes and set(extra) != first:
            raise ValueError(f"episode {index} has extra {sorted(extra)}, the episodes before have {sorted(first)}")

    def _write_meta(self) -> None:
        (self._aside / "meta").mkdir(exist_ok=True)
        stats = {name: vector_stats(np.concatenate(columns)) for name, columns in self._values.items()}
        stats |= {layout.CAMERA_PREFIX + camera: pixels.stats() for camera, pixels in self._pixels.items()}
        _write_json(self._aside / layout.INFO, self._info())
        _write_json(self._aside / layout.STATS, stats)
        _write_json(self._aside / layout.EMBODIMENT, self.embodiment.to_json())
        pq.write_table(_tasks_table(list(self._tasks)), self._aside / layout.TASKS)
        path = self._aside / layout.EPISODES.format(chunk_index=0, file_index=0)
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(self._episodes), path, compression="snappy")

    def _info(self) -> dict[str, Any]:
        robot = self.embodiment
        rate = int(self._rate) if self._rate == int(self._rate) else self._rate
        features: dict[str, Any] = {}
        if robot.state:
            features[layout.STATE] = {"dtype": "float32", "shape": [len(robot.state)], "names": list(robot.state)}
        features[layout.ACTION] = {"dtype": "float32", "shape": [len(robot.actions)], "names": list(robot.actions)}
        for camera, (height, width) in self._sizes.items():
            video = {
                "video.height": height,
                "video.width": width,
                "video.codec": ENCODER,
                "video.pix_fmt": PIXEL_FORMAT,
                "video.is_depth_map": False,
                "video.fps": rate,
                "video.channels": 3,
                "has_audio": False,
            }
            names = ["height", "width", "channels"]
            shape = [height, width, 3]
            features[layout.CAMERA_PREFIX + camera] = {"dtype": "video", "shape": shape, "names": names, "info": video}
        features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
        for name in ("frame_index", "episode_index", "index", "task_index"):
            features[name] = {"dtype": "int64", "shape": [1], "names": None}
        return {
            "codebase_version": layout.VERSION,
            "robot_type": robot.name,
            "total_episodes": len(self._episodes),
            "total_frames": self._num_frames,
            "total_tasks": len(self._tasks),
            "chunks_size": layout.CHUNK_SIZE,
            "data_files_size_in_mb": layout.DATA_FILE_MB,
            "video_files_size_in_mb": layout.VIDEO_FILE_MB,
            "fps": rate,
            "splits": {"train": f"0:{len(self._episodes)}"},
            "data_path": layout.DATA,
            "video_path": layout.VIDEO if self._sizes else None,
            "features": features,
        }


class _DataFiles:
    """Parquet files of frames, one row group per episode; a new file where the next episode would pass the limit."""

    def __init__(self, root: Path) -> None:
        self._root, self._number, self._num_bytes = root, -1, 0
        self._writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> dict[str, int]:
        """Appends rows; returns where they went."""
        if self._writer is None or self._num_bytes + table.nbytes > layout.DATA_FILE_MB * layout.MB:
            self.close()
            self._number += 1
            path = self._root / layout.DATA.format(**_place(self._number))
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer, self._num_bytes = pq.ParquetWriter(path, table.schema, compression="snappy"), 0
        self._writer.write_table(table)
        self._num_bytes += table.nbytes
        return _place(self._number)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class _VideoFiles:
    """mp4 files of one camera, many episodes in each; a new file where the next episode would pass the limit."""

    def __init__(self, root: Path, key: str, size: tuple[int, int], rate_hz: float) -> None:
        self._root, self._key, self._size, self._rate_hz = root, key, size, rate_hz
        self._number = -1
        self._writer: VideoWriter | None = None

    def write(self, images: Sequence[np.ndarray]) -> Row:
        """Appends pictures; returns where and when they are to be found."""
        if self._writer is None or self._expected_bytes(self._writer, len(images)) > layout.VIDEO_FILE_MB * layout.MB:
            self.close()
            self._number += 1
            path = self._root / layout.VIDEO.format(video_key=self._key, **_place(self._number))
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = VideoWriter(path, self._size, self._rate_hz)
        start = self._writer.num_frames
        for image in images:
            self._writer.add(image)
        times = {"from_timestamp": start / self._rate_hz, "to_timestamp": self._writer.num_frames / self._rate_hz}
        return _place(self._number) | times

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    @staticmethod
    def _expected_bytes(writer: VideoWriter, num_more: int) -> float:
        return writer.num_bytes / writer.num_frames * (writer.num_frames + num_more)


def _place(number: int) -> dict[str, int]:
    chunk, file = divmod(number, layout.CHUNK_SIZE)
    return {"chunk_index": chunk, "file_index": file}


def _extra_keys(row: Row) -> list[str]:
    return [key for key in row if key.startswith(layout.EXTRA_PREFIX)]


def _check_finite(where: str, what: str, values: np.ndarray, names: Sequence[str]) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        raise ValueError(f"{where}, frame {bad[0][0]}: {what} {names[bad[0][1]]!r} is {values[tuple(bad[0])]}")


def _table(values: Mapping[str, np.ndarray]) -> pa.Table:
    """Vectors become fixed-size lists; a vector of one is a plain number, as lerobot wants it."""
    columns = {}
    for name, column in values.items():
        if column.ndim == 2 and column.shape[1] > 1:
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(column.ravel()), column.shape[1])
        else:
            columns[name] = pa.array(column.ravel())
    return pa.table(columns)


def _tasks_table(tasks: Sequence[str]) -> pa.Table:
    """Task numbers with the sentence as the index of a pandas table, which lerobot looks tasks up by."""
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})

    def column(name: str | None, kind: str, numpy_kind: str) -> dict[str, Any]:
        return {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_kind, "metadata": None}

    pandas = {
        "index_columns": ["task"],
        "column_indexes": [column(None, "unicode", "object") | {"metadata": {"encoding": "UTF-8"}}],
        "columns": [column("task_index", "int64", "int64"), column("task", "unicode", "object")],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.3",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
