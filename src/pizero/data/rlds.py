"""RLDS data sets (Open X-Embodiment) read in place from their TFRecord files, by frame number, without TensorFlow."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from pizero.data.open_files import OpenFiles
from pizero.data.picture import decode_picture
from pizero.data.recording import CorruptPicture, Episode, Recording
from pizero.data.rlds_cache import cached_index
from pizero.data.rlds_features import FEATURES, read_features, read_name, read_shards
from pizero.data.rlds_index import RldsIndex
from pizero.data.rlds_reading import Reading, choose_reading
from pizero.embodiment import Embodiment

MAX_OPEN_FILES = 256
"""TFRecord files kept open, each with a file descriptor; of those, systems often allow a process 1024."""


class RldsDataset(Recording):
    """One split of a data set, by frame number.

    Bridge and Fractal get the state and the actions of `robot.bridge` and `robot.fractal`; any other data set is taken
    as it is recorded. Episodes without an instruction are left out (`num_unlabelled`).

    Raises ValueError, one line that names file and record, when something is missing, damaged, empty, not finite or
    of another length than the data set says.
    """

    def __init__(self, root: Path, split: str = "train") -> None:
        root = Path(root)
        name = read_name(root)
        try:
            reading = choose_reading(name, read_features(root))
        except ValueError as error:
            raise ValueError(f"{root / FEATURES}: {error}") from None
        shards = read_shards(root, split)
        index = cached_index(root, split, shards, reading)
        robot = reading.robot or _recorded_robot(name, reading, index)
        super().__init__(
            root,
            robot.control_rate_hz,
            robot,
            index.prompts,
            index.prompt_index,
            index.state,
            index.actions,
            _episodes(index),
        )
        self.num_unlabelled = index.num_unlabelled
        """Episodes that were left out because they have no instruction."""
        self._paths, self._index = [shard.path for shard in shards], index
        self._views = {camera: view for view, camera in enumerate(reading.cameras)}
        self._files: OpenFiles[_ByteFile] = OpenFiles(_ByteFile, MAX_OPEN_FILES)

    def decode(self, i: int | np.integer, camera: str) -> UInt8[np.ndarray, "h w 3"]:
        """The picture of one camera at frame i, from its file. Raises CorruptPicture, which names the file."""
        view, episode = self._views[camera], int(self.episode_of(i))
        path = self._paths[int(self._index.shard[episode])]
        offset, size = int(self._index.offset[i, view]), int(self._index.size[i, view])
        try:
            with self._files.use(path) as file:
                data = file.read(offset, size)
            return decode_picture(data)
        except (ValueError, OSError) as error:
            record, step = self._index.record[episode], int(i) - self.episodes[episode].start
            raise CorruptPicture(
                f"{path}: episode {record}, step {step}: picture {camera!r} cannot be decoded: {error}"
            ) from None

    def close(self) -> None:
        """Closes the files; they open again when needed."""
        self._files.close()


class _ByteFile:
    """A file read at places: no position that threads or forks would share, no memory map that a lost disk crashes."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)

    def read(self, offset: int, size: int) -> bytes:
        """Some bytes. Raises ValueError when the file ends before."""
        data = os.pread(self._file.fileno(), size, offset)
        if len(data) != size:
            raise ValueError(f"the file ends before byte {offset + size}")
        return data

    def close(self) -> None:
        self._file.close()


def _episodes(index: RldsIndex) -> list[Episode]:
    episodes, start = [], 0
    for number, length in enumerate(index.lengths.tolist()):
        episodes.append(Episode(number, start, length, index.prompts[index.prompt_index[start]]))
        start += length
    return episodes


def _recorded_robot(name: str, reading: Reading, index: RldsIndex) -> Embodiment:
    """A robot that is known by its data alone."""
    return Embodiment(
        name=name,
        cameras=tuple(reading.cameras),
        state=tuple(f"state_{i}" for i in range(index.state.shape[1])),
        actions=tuple(f"action_{i}" for i in range(index.actions.shape[1])),
        control_rate_hz=None,
        action_low=tuple(index.actions.min(0).tolist()),
        action_high=tuple(index.actions.max(0).tolist()),
        gripper_action="unknown",
    )
