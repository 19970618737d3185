"""Everything of a LeRobot folder but the pictures: read, checked, and told as one line when it is wrong."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pizero.data import lerobot_layout as layout
from pizero.embodiment import Embodiment

LEGACY_VERSION = "v2.1"
"""The older format, one file per episode, which is read too."""


@dataclass(frozen=True)
class Episode:
    """Where one demonstration lies in the data set."""

    index: int
    """Number of the episode, from 0."""
    start: int
    """Its first frame."""
    length: int
    """Number of frames."""
    task: str
    """The prompt of its first frame."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What the recorder wanted to remember, for example the seed."""


@dataclass(frozen=True)
class Clip:
    """The pictures of one camera and episode: a video file and the time of the first."""

    path: Path
    start_s: float


class LeRobotFolder:
    """Everything of a folder but the pictures, checked."""

    def __init__(self, root: Path) -> None:
        self.root, self.info = root, _read_json(root / layout.INFO)
        self._check_info()
        self.rate_hz = float(self.info["fps"])
        self.cameras = _cameras(root, self.info["features"])
        self.has_state = layout.STATE in self.info["features"]
        legacy = self.info["codebase_version"] == LEGACY_VERSION
        rows = self._legacy_episodes() if legacy else self._episodes()
        self.tasks = self._legacy_tasks() if legacy else self._tasks()
        self._read_frames(rows, legacy)
        self.clips = {camera: [self._clip(row, key, legacy) for row in rows] for camera, key in self.cameras.items()}

    def embodiment(self) -> Embodiment:
        """The robot as our writer left it; of a foreign data set its names, and the range of the recorded actions."""
        path = self.root / layout.EMBODIMENT
        if path.exists():
            try:
                robot = Embodiment.from_json(_read_json(path))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}: {error}") from None
            for what, names, width in (
                ("state", robot.state, self.state.shape[1]),
                ("action", robot.actions, self.actions.shape[1]),
            ):
                if len(names) != width:
                    raise ValueError(f"{path} names {len(names)} {what} dimensions, the data has {width}")
            if unknown := set(robot.cameras) - set(self.cameras):
                raise ValueError(f"{path} has cameras {sorted(unknown)}, the data has {sorted(self.cameras)}")
            return robot
        return Embodiment(
            name=str(self.info.get("robot_type") or "unknown"),
            cameras=tuple(self.cameras),
            state=_names(self.info, layout.STATE, self.state.shape[1]),
            actions=_names(self.info, layout.ACTION, self.actions.shape[1]),
            control_rate_hz=self.rate_hz,
            action_low=tuple(self.actions.min(0).tolist()),
            action_high=tuple(self.actions.max(0).tolist()),
        )

    def _check_info(self) -> None:
        path = self.root / layout.INFO
        missing = {"codebase_version", "fps", "features", "total_frames", "total_episodes"} - set(self.info)
        if missing:
            raise ValueError(f"{path} lacks {sorted(missing)}")
        if self.info["codebase_version"] not in (layout.VERSION, LEGACY_VERSION):
            raise ValueError(
                f"{path}: LeRobot format {self.info['codebase_version']!r} is not read, {layout.VERSION!r} and "
                f"{LEGACY_VERSION!r} are; convert it with the lerobot package"
            )
        if layout.ACTION not in self.info["features"]:
            raise ValueError(f"{path} has no feature {layout.ACTION!r}, but {sorted(self.info['features'])}")
        if not self.info["total_episodes"] or not self.info["total_frames"]:
            raise ValueError(f"{self.root} is empty: {path.name} says 0 episodes or frames")

    def _episodes(self) -> list[dict[str, Any]]:
        paths = sorted((self.root / "meta/episodes").glob("*/*.parquet"))
        if not paths:
            raise ValueError(f"{self.root / 'meta/episodes'} has no parquet file")
        rows = [row for path in paths for row in _read_table(path, without="stats/").to_pylist()]
        _check_rows(paths[0], rows, "episode_index", "length", "dataset_from_index")
        return sorted(rows, key=lambda row: row["episode_index"])

    def _legacy_episodes(self) -> list[dict[str, Any]]:
        path = self.root / "meta/episodes.jsonl"
        rows = _read_json_lines(path)
        _check_rows(path, rows, "episode_index", "length")
        rows.sort(key=lambda row: row["episode_index"])
        start = 0
        for row in rows:
            row["dataset_from_index"], start = start, start + row["length"]
        return rows

    def _tasks(self) -> tuple[str, ...]:
        path = self.root / layout.TASKS
        table = _read_table(path)
        text = [name for name in table.column_names if name != "task_index"]
        if len(text) != 1 or table.num_columns != 2:
            raise ValueError(f"{path} has columns {table.column_names}, expected task_index and the task")
        return _in_order(path, table["task_index"].to_pylist(), table[text[0]].to_pylist())

    def _legacy_tasks(self) -> tuple[str, ...]:
        path = self.root / "meta/tasks.jsonl"
        rows = _read_json_lines(path)
        _check_rows(path, rows, "task_index", "task")
        return _in_order(path, [row["task_index"] for row in rows], [row["task"] for row in rows])

    def _read_frames(self, rows: list[dict[str, Any]], legacy: bool) -> None:
        paths = list(dict.fromkeys(self._data_path(row, legacy) for row in rows))
        names = [layout.STATE] * self.has_state + [layout.ACTION, "timestamp", "episode_index", "task_index"]
        tables = [(path, _read_table(path, names)) for path in paths]
        num_frames = sum(table.num_rows for _, table in tables)
        if num_frames != self.info["total_frames"]:
            raise ValueError(
                f"{self.root} has {num_frames} frames in its data files, info.json says {self.info['total_frames']}"
            )
        self.actions = self._vectors(tables, layout.ACTION)
        self.state = self._vectors(tables, layout.STATE) if self.has_state else np.zeros((num_frames, 0), np.float32)
        self.timestamp = _column(tables, "timestamp").astype(np.float64)
        self.task_index = _column(tables, "task_index").astype(np.int64)
        if self.task_index.min() < 0 or self.task_index.max() >= len(self.tasks):
            raise ValueError(
                f"{self.root}: task_index {self.task_index.max()} in the data, but {len(self.tasks)} tasks"
            )
        self.episodes = self._checked_episodes(rows, _column(tables, "episode_index"))

    def _checked_episodes(self, rows: list[dict[str, Any]], episode_index: np.ndarray) -> list[Episode]:
        episodes, start = [], 0
        if len(rows) != self.info["total_episodes"]:
            raise ValueError(f"{self.root} lists {len(rows)} episodes, info.json says {self.info['total_episodes']}")
        for number, row in enumerate(rows):
            length = row["length"]
            if length < 1:
                raise ValueError(f"{self.root}: episode {number} has no frames")
            inside = episode_index[start : start + length]
            if row["episode_index"] != number or row["dataset_from_index"] != start or (inside != number).any():
                raise ValueError(
                    f"{self.root}: the frames of episode {number} are not where the table of episodes says"
                )
            extra = {
                key.removeprefix(layout.EXTRA_PREFIX): row[key] for key in row if key.startswith(layout.EXTRA_PREFIX)
            }
            episodes.append(Episode(number, start, length, self.tasks[self.task_index[start]], extra))
            start += length
        if start != len(episode_index):
            raise ValueError(f"{self.root}: episodes have {start} frames together, the data files {len(episode_index)}")
        return episodes

    def _vectors(self, tables: Sequence[tuple[Path, pa.Table]], name: str) -> np.ndarray:
        """(n, width) float32, every number finite."""
        (width,) = self.info["features"][name]["shape"]
        parts = []
        for path, table in tables:
            column = table[name].combine_chunks()
            flat = column.flatten() if pa.types.is_nested(column.type) else column
            if len(flat) != len(column) * width:
                raise ValueError(f"{path}: {name!r} does not have the {width} values per frame that info.json says")
            values = np.asarray(flat.to_numpy(zero_copy_only=False), np.float32).reshape(-1, width)
            bad = np.argwhere(~np.isfinite(values))
            if len(bad):
                value = values[tuple(bad[0])]
                raise ValueError(
                    f"{path}: {name!r} is {value} in row {bad[0][0]}, dimension {bad[0][1]}; must be finite"
                )
            parts.append(values)
        return np.concatenate(parts)

    def _data_path(self, row: dict[str, Any], legacy: bool) -> Path:
        return self.root / self._format(self.info.get("data_path", layout.DATA), row, "data", legacy)

    def _clip(self, row: dict[str, Any], key: str, legacy: bool) -> Clip:
        pattern = self.info.get("video_path") or layout.VIDEO
        path = self.root / self._format(pattern, row, f"videos/{key}", legacy, video_key=key)
        if not path.is_file():
            raise ValueError(f"{path} is missing; episode {row['episode_index']} needs it for camera {key!r}")
        if legacy:
            return Clip(path, 0.0)
        _check_rows(self.root / "meta/episodes", [row], f"videos/{key}/from_timestamp")
        return Clip(path, row[f"videos/{key}/from_timestamp"])

    def _format(self, pattern: str, row: dict[str, Any], group: str, legacy: bool, **names: str) -> str:
        number = row["episode_index"]
        if legacy:
            return pattern.format(
                episode_chunk=number // self.info.get("chunks_size", layout.CHUNK_SIZE), episode_index=number, **names
            )
        _check_rows(self.root / "meta/episodes", [row], f"{group}/chunk_index", f"{group}/file_index")
        return pattern.format(chunk_index=row[f"{group}/chunk_index"], file_index=row[f"{group}/file_index"], **names)


def _cameras(root: Path, features: Mapping[str, Any]) -> dict[str, str]:
    """Camera name -> feature name, in the order of the file."""
    cameras = {}
    for key, feature in features.items():
        if feature["dtype"] == "image":
            raise ValueError(f"{root}: camera {key!r} is stored as single images; only video is read")
        if feature["dtype"] == "video":
            cameras[key.removeprefix(layout.CAMERA_PREFIX)] = key
    return cameras


def _names(info: dict[str, Any], feature: str, width: int) -> tuple[str, ...]:
    """Names of the dimensions; lerobot writes a list, a dictionary with one list, or nothing."""
    names = info["features"].get(feature, {}).get("names")
    if isinstance(names, dict) and len(names) == 1:
        (names,) = names.values()
    if isinstance(names, list) and len(names) == width:
        return _unique([str(name) for name in names])
    return tuple(f"{feature.rpartition('.')[2]}_{i}" for i in range(width))


def _unique(names: list[str]) -> tuple[str, ...]:
    """The names, with a number after those that come more than once (LIBERO's two fingers are both "gripper")."""
    twice = {name for name in names if names.count(name) > 1}
    return tuple(f"{name}_{names[:i].count(name)}" if name in twice else name for i, name in enumerate(names))


def _read_json(path: Path) -> dict[str, Any]:
    return _parse(path, _read_text(path))


def _read_json_lines(path: Path) -> list[dict[str, Any]]:
    return [_parse(path, line) for line in _read_text(path).splitlines() if line.strip()]


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path} is missing; a LeRobot data set has it")
    return path.read_text(encoding="utf-8")


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}, expected a dictionary")
    return data


def _read_table(path: Path, names: Sequence[str] | None = None, without: str | None = None) -> pa.Table:
    """The table's columns `names` (None: all, but those that start with `without`)."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; the data set needs it")
    try:
        with pq.ParquetFile(path) as file:
            present = file.schema_arrow.names
            if missing := set(names or ()) - set(present):
                raise ValueError(f"{path} lacks the columns {sorted(missing)}, it has {present}")
            return file.read(names or [name for name in present if not (without and name.startswith(without))])
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged or truncated: {str(error).splitlines()[0]}") from None


def _check_rows(path: Path, rows: Sequence[Mapping[str, Any]], *names: str) -> None:
    for row in rows:
        if missing := set(names) - {name for name, value in row.items() if value is not None}:
            raise ValueError(f"{path}: an episode or task has no {sorted(missing)}")


def _column(tables: Sequence[tuple[Path, pa.Table]], name: str) -> np.ndarray:
    return np.concatenate([table[name].to_numpy() for _, table in tables])


def _in_order(path: Path, indices: Sequence[int], tasks: Sequence[str]) -> tuple[str, ...]:
    if sorted(indices) != list(range(len(tasks))):
        raise ValueError(f"{path}: task_index is not 0 to {len(tasks) - 1}")
    return tuple(task for _, task in sorted(zip(indices, tasks, strict=True)))
