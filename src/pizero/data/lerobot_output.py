"""Files of a LeRobot folder that hold many episodes each, written one episode after the other."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pizero.data import lerobot_layout as layout
from pizero.data.video_join import VideoJoiner


class DataFiles:
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
        """Finishes the last file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class VideoFiles:
    """mp4 files of one camera, many episodes in each; a new file where the next episode would pass the limit."""

    def __init__(self, root: Path, key: str, rate_hz: float) -> None:
        self._root, self._key, self._rate_hz = root, key, rate_hz
        self._number = -1
        self._joined: VideoJoiner | None = None

    def write(self, video: Path, num_frames: int) -> dict[str, int | float]:
        """Appends an episode's video; returns where and when its frames are to be found.

        Raises ValueError when it does not have `num_frames`.
        """
        if self._joined is None or self._is_full(self._joined, video) or not self._joined.fits(video):
            self.close()
            self._number += 1
            path = self._root / layout.VIDEO.format(video_key=self._key, **_place(self._number))
            path.parent.mkdir(parents=True, exist_ok=True)
            self._joined = VideoJoiner(path, self._rate_hz)
        start = self._joined.num_frames
        appended = self._joined.append(video)
        if appended != num_frames:
            raise ValueError(f"{video} has {appended} frames, its episode {num_frames}")
        times = {"from_timestamp": start / self._rate_hz, "to_timestamp": (start + appended) / self._rate_hz}
        return {**_place(self._number), **times}

    def close(self) -> None:
        """Finishes the last file."""
        if self._joined is not None:
            self._joined.close()
            self._joined = None

    @staticmethod
    def _is_full(joined: VideoJoiner, video: Path) -> bool:
        return joined.num_bytes + video.stat().st_size > layout.VIDEO_FILE_MB * layout.MB


def _place(number: int) -> dict[str, int]:
    chunk, file = divmod(number, layout.CHUNK_SIZE)
    return {"chunk_index": chunk, "file_index": file}
