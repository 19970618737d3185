"""A recorded data set of any format that is read here, and `open_dataset`, which tells the formats apart."""

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from pizero.data import lerobot_layout
from pizero.data.choice import Resize
from pizero.data.lerobot import LeRobotDataset
from pizero.data.recording import CorruptPicture, Episode
from pizero.data.rlds import RldsDataset
from pizero.data.rlds_features import DATASET_INFO, FEATURES
from pizero.embodiment import Embodiment
from pizero.frame import Frame

__all__ = ["CorruptPicture", "Dataset", "Episode", "open_dataset"]

MOST_NAMES = 5
"""Names of a folder's content that an error lists."""


@runtime_checkable
class Dataset(Protocol):
    """Recorded episodes by frame number; in real units. It can be pickled, and used after a fork."""

    root: Path
    """The folder."""
    rate_hz: float | None
    """Frames a second; None: not known."""
    embodiment: Embodiment
    """The robot."""
    prompts: tuple[str, ...]
    """Every instruction that occurs, once."""
    prompt_index: np.ndarray
    """(n,) int64: which of `prompts` is that of each frame."""
    state: np.ndarray
    """(n, s) float32."""
    actions: np.ndarray
    """(n, a) float32."""
    episodes: list[Episode]
    """In the order of their frames, without gaps."""
    preloaded_by: Resize | None
    """How the pictures in memory were resized; None: they were not."""

    @property
    def num_frames(self) -> int:
        """Frames in all episodes together."""
        ...

    def prompt(self, i: int | np.integer) -> str:
        """The instruction of frame i."""
        ...

    def frame(self, i: int | np.integer) -> Frame:
        """Frame i with every camera."""
        ...

    def image(self, i: int | np.integer, camera: str) -> UInt8[np.ndarray, "h w 3"]:
        """The picture of one camera at frame i. Raises CorruptPicture, which names the file."""
        ...

    def preload(self, size: tuple[int, int] | None = None, how: Resize = "pad") -> None:
        """Decodes every picture into memory, resized to (height, width) where a size is given and gives uint8."""
        ...

    def preloaded(self, camera: str) -> UInt8[np.ndarray, "n h w 3"] | None:
        """All pictures of a camera, or None before `preload`."""
        ...

    def chunk(self, i: int | np.integer, horizon: int) -> tuple[Float[np.ndarray, "t a"], Bool[np.ndarray, " t"]]:
        """Actions from frame i on, and True where they are real; after the episode's end the last action repeats."""
        ...

    def chunks(
        self, indices: Int[np.ndarray, " b"], horizon: int
    ) -> tuple[Float[np.ndarray, "b t a"], Bool[np.ndarray, "b t"]]:
        """`chunk` of many frames."""
        ...

    def steps(
        self, indices: Int[np.ndarray, " b"], horizon: int
    ) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """The frames whose actions are those of `chunks`, and True where they are real."""
        ...

    def close(self) -> None:
        """Closes the files; they open again when needed."""
        ...


def open_dataset(root: Path) -> Dataset:
    """The data set in a folder: LeRobot v3.0 or v2.1, or the "train" part of RLDS.

    Raises ValueError, one line that names the file, when the folder is of no such format, or something in it is
    missing, damaged, empty, not finite, or of another width than the data set says.
    """
    root = Path(root)
    if (root / lerobot_layout.INFO).is_file():
        return LeRobotDataset(root)
    if (root / DATASET_INFO).is_file() and (root / FEATURES).is_file():
        return RldsDataset(root)
    raise ValueError(_what_is_wrong(root))


def _what_is_wrong(root: Path) -> str:
    if not root.is_dir():
        parent = f"; it is in {root.parent}, give the folder" if root.is_file() else ""
        return f"data set {root} is no folder{parent}"
    expected = (
        f"a LeRobot folder has {lerobot_layout.INFO}, an RLDS folder (NAME/VERSION) has {DATASET_INFO} and {FEATURES}"
    )
    below = [path for pattern in ("*", "*/*") for path in sorted(root.glob(pattern)) if path.is_dir()]
    inside = [path for path in below if (path / lerobot_layout.INFO).is_file() or (path / FEATURES).is_file()]
    if root.name == "meta" and (root.parent / lerobot_layout.INFO).is_file():
        inside = [root.parent]
    if inside:
        return f"{root} is no data set, {inside[0]} may be; {expected}"
    names = sorted(path.name for path in root.iterdir())
    found = ", ".join(names[:MOST_NAMES]) + (" ..." if len(names) > MOST_NAMES else "") if names else "nothing"
    return f"{root} is no data set: {expected}; it holds {found}"
