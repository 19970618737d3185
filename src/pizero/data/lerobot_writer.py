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
from pizero.data.lerobot_episode import EncodedEpisode, Extra, check_episode, read_episode, write_episode
from pizero.data.lerobot_output import DataFiles, VideoFiles
from pizero.data.lerobot_stats import Pixels, vector_stats
from pizero.data.video import ENCODER, PIXEL_FORMAT
from pizero.embodiment import Embodiment
from pizero.frame import Frame

Row = dict[str, Any]
_ENCODED = "episode"
"""Folder for the episode that is being added, beside what is written."""


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
        self._data = DataFiles(self._aside)
        self._videos = {
            camera: VideoFiles(self._aside, layout.CAMERA_PREFIX + camera, self._rate) for camera in self._sizes
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
        self, frames: Sequence[Frame], actions: Float[np.ndarray, "n a"], extra: Extra | None = None
    ) -> None:
        """Appends an episode: `actions[i]`, in real units, was commanded on seeing `frames[i]`.

        `extra` is kept in the table of episodes; every episode must give the same keys. Nothing is written when it
        raises.
        """
        check_episode(f"episode {len(self._episodes)}", self.embodiment, self._sizes, frames, actions)
        folder = self._aside / _ENCODED
        folder.mkdir()
        try:
            write_episode(folder, self.embodiment, frames, actions, extra or {})
            self.add_encoded(read_episode(folder))
        finally:
            shutil.rmtree(folder)

    def add_encoded(self, episode: EncodedEpisode) -> None:
        """Appends an episode whose pictures are encoded already; its files are read only."""
        self._check(episode)
        for prompt in episode.prompts:
            self._tasks.setdefault(prompt, len(self._tasks))
        n, index = len(episode.actions), len(self._episodes)
        # in the order of info.json, which lerobot compares with the columns of the file
        values: dict[str, np.ndarray] = {
            layout.STATE: episode.state,
            layout.ACTION: episode.actions,
            "timestamp": (np.arange(n) / self._rate).astype(np.float32),
            "frame_index": np.arange(n),
            "episode_index": np.full(n, index),
            "index": self._num_frames + np.arange(n),
            "task_index": np.array([self._tasks[prompt] for prompt in episode.prompts]),
        }
        if not self.embodiment.state:
            del values[layout.STATE]
        row: Row = {
            "episode_index": index,
            "tasks": list(dict.fromkeys(episode.prompts)),
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
            row |= {f"videos/{key}/{name}": value for name, value in video.write(episode.videos[camera], n).items()}
            pixels = episode.pixels[camera]
            self._pixels[camera].add(pixels)
            row |= {f"stats/{key}/{name}": value for name, value in pixels.stats().items()}
        row |= {layout.EXTRA_PREFIX + key: value for key, value in episode.extra.items()}
        self._episodes.append(row)
        self._num_frames += n

    def _check(self, episode: EncodedEpisode) -> None:
        name = f"episode {len(self._episodes)}"
        if episode.sizes != self._sizes:
            raise ValueError(f"{name} has images {dict(episode.sizes)}, the data set takes {self._sizes}")
        first = {key.removeprefix(layout.EXTRA_PREFIX) for row in self._episodes[:1] for key in _extra_keys(row)}
        if self._episodes and set(episode.extra) != first:
            raise ValueError(f"{name} has extra {sorted(episode.extra)}, the episodes before have {sorted(first)}")

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


def _extra_keys(row: Row) -> list[str]:
    return [key for key in row if key.startswith(layout.EXTRA_PREFIX)]


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
