"""Everything of a LeRobot folder but the pictures: read, checked, and told as one line when it is wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pizero.data import lerobot_layout as layout
from pizero.data.lerobot_features import cameras, check_info, names_of, width_of
from pizero.data.lerobot_files import check_rows, read_json, read_json_lines, read_table, read_vectors
from pizero.data.lerobot_images import ImageRows
from pizero.data.recording import Episode
from pizero.embodiment import Embodiment

FASTEST_CHANGE = 0.1
"""How far, as a part, an episode's own frame rate may be from info.json's: recordings drop single frames, while the
rates that robots have in common differ by more."""


@dataclass(frozen=True)
class Clip:
    """The pictures of one camera and episode: a video file and the time of the first."""

    path: Path
    start_s: float


class LeRobotFolder:
    """Everything of a folder but the pictures, checked."""

    def __init__(self, root: Path) -> None:
        self.root, self.info = root, read_json(root / layout.INFO)
        check_info(root, self.info)
        self.legacy = self.info["codebase_version"] == layout.LEGACY_VERSION
        self.rate_hz = float(self.info["fps"])
        self.cameras = cameras(root / layout.INFO, self.info)
        rows = self._legacy_episodes() if self.legacy else self._episodes()
        self.tasks = self._legacy_tasks() if self.legacy else self._tasks()
        self._read_frames(rows)
        self._check_rate()
        self.clips = {
            camera: [self._clip(row, key) for row in rows] for camera, key in self.cameras.items() if self.is_video(key)
        }

    def is_video(self, key: str) -> bool:
        """Whether the pictures of a feature are in video files, not in the tables."""
        return self.info["features"][key]["dtype"] == "video"

    def embodiment(self) -> Embodiment:
        """The robot as our writer left it; of a foreign data set its names, and the range of the recorded actions."""
        path = self.root / layout.EMBODIMENT
        if path.exists():
            return self._own_embodiment(path)
        return Embodiment(
            name=str(self.info.get("robot_type") or "unknown"),
            cameras=tuple(self.cameras),
            state=names_of(self.info, layout.STATE, self.state.shape[1]),
            actions=names_of(self.info, layout.ACTION, self.actions.shape[1]),
            control_rate_hz=self.rate_hz,
            action_low=tuple(self.actions.min(0).tolist()),
            action_high=tuple(self.actions.max(0).tolist()),
        )

    def _own_embodiment(self, path: Path) -> Embodiment:
        try:
            robot = Embodiment.from_json(read_json(path))
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
        if robot.control_rate_hz != self.rate_hz:
            raise ValueError(
                f"{path} says {robot.control_rate_hz} actions a second, {layout.INFO} {self.rate_hz}; make them agree"
            )
        return robot

    def _episodes(self) -> list[dict[str, Any]]:
        paths = sorted((self.root / "meta/episodes").glob("*/*.parquet"))
        if not paths:
            raise ValueError(f"{self.root / 'meta/episodes'} has no parquet file")
        rows = [row for path in paths for row in read_table(path, without="stats/").to_pylist()]
        check_rows(paths[0], rows, "episode_index", "length", "dataset_from_index")
        return sorted(rows, key=lambda row: row["episode_index"])

    def _legacy_episodes(self) -> list[dict[str, Any]]:
        path = self.root / "meta/episodes.jsonl"
        rows = read_json_lines(path)
        check_rows(path, rows, "episode_index", "length")
        rows.sort(key=lambda row: row["episode_index"])
        start = 0
        for row in rows:
            row["dataset_from_index"], start = start, start + row["length"]
        return rows

    def _tasks(self) -> tuple[str, ...]:
        path = self.root / layout.TASKS
        table = read_table(path)
        text = [name for name in table.column_names if name != "task_index"]
        if len(text) != 1 or table.num_columns != 2:
            raise ValueError(f"{path} has columns {table.column_names}, expected task_index and the task")
        return _in_order(path, table["task_index"].to_pylist(), table[text[0]].to_pylist())

    def _legacy_tasks(self) -> tuple[str, ...]:
        path = self.root / "meta/tasks.jsonl"
        rows = read_json_lines(path)
        check_rows(path, rows, "task_index", "task")
        return _in_order(path, [row["task_index"] for row in rows], [row["task"] for row in rows])

    def _read_frames(self, rows: list[dict[str, Any]]) -> None:
        paths = tuple(dict.fromkeys(self._data_path(row) for row in rows))
        has_state = layout.STATE in self.info["features"]
        names = [layout.STATE] * has_state + [layout.ACTION, "timestamp", "episode_index", "task_index"]
        tables = [(path, read_table(path, names)) for path in paths]
        ends = np.cumsum([table.num_rows for _, table in tables])
        self.image_rows = ImageRows(paths, np.concatenate([[0], ends[:-1]]))
        if ends[-1] != self.info["total_frames"]:
            raise ValueError(
                f"{self.root} has {ends[-1]} frames in its data files, info.json says {self.info['total_frames']}"
            )

        def vectors(name: str) -> np.ndarray:
            width = width_of(self.root / layout.INFO, self.info, name)
            return np.concatenate([read_vectors(path, table, name, width) for path, table in tables])

        def column(name: str) -> np.ndarray:
            return np.concatenate([table[name].to_numpy() for _, table in tables])

        self.actions = vectors(layout.ACTION)
        self.state = vectors(layout.STATE) if has_state else np.zeros((len(self.actions), 0), np.float32)
        self.timestamp = column("timestamp").astype(np.float64)
        self.task_index = column("task_index").astype(np.int64)
        if self.task_index.min() < 0 or self.task_index.max() >= len(self.tasks):
            raise ValueError(
                f"{self.root}: task_index {self.task_index.max()} in the data, but {len(self.tasks)} tasks"
            )
        self.episodes = self._checked_episodes(rows, column("episode_index"))

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

    def _check_rate(self) -> None:
        """Episodes that were recorded at another rate: chunks of them would be faster or slower motions."""
        for episode in self.episodes:
            times = self.timestamp[episode.start : episode.start + episode.length]
            if len(times) < 2:
                continue
            elapsed = times[-1] - times[0]
            rate = (len(times) - 1) / elapsed if elapsed > 0 else float("inf")
            if not abs(rate / self.rate_hz - 1) < FASTEST_CHANGE:
                raise ValueError(
                    f"{self.root}: episode {episode.index} has {rate:.4g} frames a second by its timestamps, info.json "
                    f"says {self.rate_hz:g}; a data set has one rate"
                )

    def _data_path(self, row: dict[str, Any]) -> Path:
        pattern = self.info.get("data_path") or (layout.LEGACY_DATA if self.legacy else layout.DATA)
        return self.root / self._format(pattern, row, "data")

    def _clip(self, row: dict[str, Any], key: str) -> Clip:
        pattern = self.info.get("video_path") or (layout.LEGACY_VIDEO if self.legacy else layout.VIDEO)
        path = self.root / self._format(pattern, row, f"videos/{key}", video_key=key)
        if not path.is_file():
            raise ValueError(f"{path} is missing; episode {row['episode_index']} needs it for camera {key!r}")
        if self.legacy:
            return Clip(path, 0.0)
        check_rows(self.root / "meta/episodes", [row], f"videos/{key}/from_timestamp")
        return Clip(path, row[f"videos/{key}/from_timestamp"])

    def _format(self, pattern: str, row: Mapping[str, Any], group: str, **names: str) -> str:
        number = row["episode_index"]
        if self.legacy:
            return pattern.format(
                episode_chunk=number // self.info.get("chunks_size", layout.CHUNK_SIZE), episode_index=number, **names
            )
        check_rows(self.root / "meta/episodes", [row], f"{group}/chunk_index", f"{group}/file_index")
        return pattern.format(chunk_index=row[f"{group}/chunk_index"], file_index=row[f"{group}/file_index"], **names)


def _in_order(path: Path, indices: Sequence[int], tasks: Sequence[str]) -> tuple[str, ...]:
    if sorted(indices) != list(range(len(tasks))):
        raise ValueError(f"{path}: task_index is not 0 to {len(tasks) - 1}")
    return tuple(task for _, task in sorted(zip(indices, tasks, strict=True)))
