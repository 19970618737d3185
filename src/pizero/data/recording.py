"""Recorded episodes by frame number: numbers in memory, pictures decoded when asked for. What all formats share."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from pizero.data.choice import Resize
from pizero.data.preload import decode_all
from pizero.embodiment import Embodiment
from pizero.frame import Frame


class CorruptPicture(ValueError):  # noqa: N818 - a picture is corrupt, not an error
    """A picture cannot be decoded; the message names the file and the place in it."""


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


class Recording(ABC):
    """A data set but for how its pictures are stored.

    It can be pickled, and used after a fork: each process opens the files it needs.
    """

    def __init__(
        self,
        root: Path,
        rate_hz: float | None,
        embodiment: Embodiment,
        prompts: Sequence[str],
        prompt_index: Int[np.ndarray, " n"],
        state: Float[np.ndarray, "n s"],
        actions: Float[np.ndarray, "n a"],
        episodes: Sequence[Episode],
    ) -> None:
        self.root = root
        self.rate_hz = rate_hz
        """Frames a second; None: the format does not say."""
        self.embodiment = embodiment
        self.prompts: tuple[str, ...] = tuple(prompts)
        self.prompt_index = prompt_index
        self.state = state
        self.actions = actions
        self.episodes = list(episodes)
        self.preloaded_by: Resize | None = None
        """How the pictures in memory were resized; None: they were not."""
        self._images: dict[str, np.ndarray] = {}
        self._starts = np.array([episode.start for episode in self.episodes])
        self._ends = np.array([episode.start + episode.length for episode in self.episodes])

    @abstractmethod
    def decode(self, i: int | np.integer, camera: str) -> UInt8[np.ndarray, "h w 3"]:
        """The picture of one camera at frame i, from its file. Raises CorruptPicture, which names the file."""

    @abstractmethod
    def close(self) -> None:
        """Closes the files; they open again when needed."""

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
        """The picture of one camera at frame i. Raises CorruptPicture, which names the file."""
        return self._images[camera][i] if camera in self._images else self.decode(i, camera)

    def preloaded(self, camera: str) -> UInt8[np.ndarray, "n h w 3"] | None:
        """All pictures of a camera, or None before `preload`."""
        return self._images.get(camera)

    def preload(self, size: tuple[int, int] | None = None, how: Resize = "pad") -> None:
        """Decodes every picture into memory, once; with a size (height, width) resized on the way, if that is uint8.

        Pictures that "lerobot" resizes stay as they are, and are resized when a batch needs them. Raises ValueError
        when a camera's pictures are of different sizes and no size is given.
        """
        size = None if how == "lerobot" else size
        self.preloaded_by = how if size is not None else None
        bare = copy.copy(self)  # for other processes
        bare._images = {}
        missing = [camera for camera in self.embodiment.cameras if camera not in self._images]
        decoders = {camera: partial(bare.decode, camera=camera) for camera in missing}
        self._images |= decode_all(str(self.root), decoders, self.num_frames, size, how)
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
        ends = self._ends[self.episode_of(indices)][:, None]
        steps = indices[:, None] + np.arange(horizon)
        return np.minimum(steps, ends - 1), steps < ends

    def episode_of(self, i: Any) -> Any:
        """Number of the episode that frame i is in; of many frames, an array."""
        return np.searchsorted(self._starts, i, side="right") - 1
