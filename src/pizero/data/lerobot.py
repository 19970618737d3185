"""LeRobot data sets: v3.0 folders (and the older v2.1) read by index; `LeRobotWriter` writes them."""

from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from pizero.data.lerobot_images import ImageReader
from pizero.data.lerobot_reader import LeRobotFolder
from pizero.data.lerobot_writer import LeRobotWriter
from pizero.data.open_files import OpenFiles
from pizero.data.recording import Episode, Recording
from pizero.data.video import VideoReader

__all__ = ["Episode", "LeRobotDataset", "LeRobotWriter"]

MAX_OPEN_VIDEOS = 64
"""Video files kept open for random access."""


class LeRobotDataset(Recording):
    """A recorded data set, by frame number; pictures from video files, or from PNG or JPEG in the parquet files.

    Raises ValueError, one line that names the file, when something is missing, damaged, empty, not finite, of another
    width or frame rate than the data set says.
    """

    def __init__(self, root: Path) -> None:
        read = LeRobotFolder(Path(root))
        super().__init__(
            read.root,
            read.rate_hz,
            read.embodiment(),
            read.tasks,
            read.task_index,
            read.state,
            read.actions,
            read.episodes,
        )
        self._keys, self._clips, self._timestamp = read.cameras, read.clips, read.timestamp
        self._videos: OpenFiles[VideoReader] = OpenFiles(partial(VideoReader, rate_hz=read.rate_hz), MAX_OPEN_VIDEOS)
        self._pictures = ImageReader(read.root, read.image_rows)

    def decode(self, i: int | np.integer, camera: str) -> UInt8[np.ndarray, "h w 3"]:
        """The picture of one camera at frame i, from its file. Raises CorruptPicture, which names the file."""
        if camera not in self._clips:
            return self._pictures.picture(int(i), self._keys[camera])
        clip = self._clips[camera][self.episode_of(i)]
        with self._videos.use(clip.path) as video:
            return video.frame(clip.start_s + float(self._timestamp[i]))

    def close(self) -> None:
        """Closes the files; they open again when needed."""
        self._videos.close()
        self._pictures.close()
