"""LeRobot data sets: v3.0 folders (and the older v2.1) read by index; `LeRobotWriter` writes them.

Numbers are held in memory; pictures are decoded when asked for, or all at once by `preload`.
"""

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from pizero.data.choice import Resize
from pizero.data.images import resize
from pizero.data.lerobot_reader import Episode, LeRobotFolder
from pizero.data.lerobot_writer import LeRobotWriter
from pizero.data.video import VideoReader
from pizero.frame import Frame

__all__ = ["Episode", "LeRobotDataset", "LeRobotWriter"]

MAX_OPEN_VIDEOS = 64
"""Video files kept open for random access."""


class LeRobotDataset:
    """A recorded data set, by frame number.

    Raises ValueError, one line that names the file, when something is missing, damaged, empty, not finite, or of
    another width than the data set says.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        read = LeRobotFolder(self.root)
        self.rate_hz = read.rate_hz
        self.prompts: tuple[str, ...] = read.tasks
        self.state: Float[np.ndarray, "n s"] = read.state
        self.actions: Float[np.ndarray, "n a"] = read.actions
        self.prompt_index: Int[np.ndarray, " n"] = read.task_index
        self.episodes: list[Episode] = read.episodes
        self.embodiment = read.embodiment()
        self._clips, self._timestamp = read.clips, read.timestamp
        self._starts = np.array([episode.start for episode in self.episodes])
        self._ends = np.array([episode.start + episode.length for episode in self.episodes])
        self.preloaded_by: Resize | None = None
        """How the pictures in memory were resized; None: they were not."""
        self._images: dict[str, np.ndarray] = {}
        self._videos: OrderedDict[Path, VideoReader] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def num_frames(self) -> int:
        """Frames in all episodes together."""
        return len(self.actions)

    def prompt(self, i: int | np.integer) -> str:
        """The instruction of frame i."""
        return self.prompts[self.prompt_index[i]]

    def frame(self, i: int | np.integer) -> Frame:
        """Frame i in real units, every camera decoded (or resized already, after `preload`)."""
        images = {camera: self.image(i, camera) for camera in self.embodiment.cameras}
        return Frame(images=images, state=self.state[i], prompt=self.prompt(i))

    def image(self, i: int | np.integer, camera: str) -> UInt8[np.ndarray, "h w 3"]:
        """The picture of one camera at frame i."""
        if camera in self._images:
            return self._images[camera][i]
        clip = self._clips[camera][self._episode_of(i)]
        with self._lock:
            return self._video(clip.path).frame(clip.start_s + float(self._timestamp[i]))

    def preloaded(self, camera: str) -> UInt8[np.ndarray, "n h w 3"] | None:
        """All pictures of a camera, or None before `preload`."""
        return self._images.get(camera)

    def preload(self, size: tuple[int, int] | None = None, how: Resize = "pad") -> None:
        """Decodes every picture into memory, once; with a size (height, width) resized on the way, if that is uint8.

        Pictures that "lerobot" resizes stay as they are, and are resized when a batch needs them.
        """
        size = None if how == "lerobot" else size
        self.preloaded_by = how if size is not None else None
        for camera in self.embodiment.cameras:
            if camera in self._images:
                continue
            pictures: np.ndarray | None = None
            for i in range(self.num_frames):
                image = self.image(i, camera)
                image = image if size is None else np.asarray(resize(image, size, how))
                if pictures is None:
                    pictures = np.empty((self.num_frames, *image.shape), np.uint8)
                pictures[i] = image
            assert pictures is not None
            self._images[camera] = pictures
        self.close()

    def chunk(self, i: int | np.integer, horizon: int) -> tuple[Float[np.ndarray, "t a"], Bool[np.ndarray, " t"]]:
        """Actions from frame i on, and True where they are real; after the episode's end the last action repeats."""
        values, real = self.chunks(np.array([i]), horizon)
        return values[0], real[0]

    def chunks(
        self, indices: Int[np.ndarray, " b"], horizon: int
    ) -> tuple[Float[np.ndarray, "b t a"], Bool[np.ndarray, "b t"]]:
        """`chunk` of many frames."""
        steps, real = self.steps(indices, horizon)
        return self.actions[steps], real

    def steps(
        self, indices: Int[np.ndarray, " b"], horizon: int
    ) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """The frames whose actions are those of `chunks`, and True where they are real."""
        ends = self._ends[self._episode_of(indices)][:, None]
        steps = indices[:, None] + np.arange(horizon)
        return np.minimum(steps, ends - 1), steps < ends

    def close(self) -> None:
        """Closes the video files; they open again when needed."""
        with self._lock:
            while self._videos:
                self._videos.popitem()[1].close()

    def _episode_of(self, i: Any) -> Any:
        return np.searchsorted(self._starts, i, side="right") - 1

    def _video(self, path: Path) -> VideoReader:
        if path not in self._videos:
            if len(self._videos) >= MAX_OPEN_VIDEOS:
                self._videos.popitem(last=False)[1].close()
            self._videos[path] = VideoReader(path, self.rate_hz)
        self._videos.move_to_end(path)
        return self._videos[path]
