"""Batches of a data set in an order that depends on the seed alone, prepared in the background."""

import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from pizero.data.images import blank, resize
from pizero.data.lerobot import LeRobotDataset
from pizero.data.transform import Transform
from pizero.types import Actions, Observation

STEPS_AHEAD = 4
"""Batches that wait ready for the training step."""


@dataclass(frozen=True)
class Augment:
    """Random changes to the pictures of a training batch; every picture gets its own."""

    shift_pixels: int = 4
    """Farthest shift in each direction, at the model's picture size; the edge is repeated. 0: none."""
    brightness: float = 0.2
    """Values are multiplied by 1 - brightness to 1 + brightness. 0: none."""
    contrast: float = 0.2
    """Distances from the picture's mean are multiplied by 1 - contrast to 1 + contrast. 0: none."""

    def __post_init__(self) -> None:
        if self.shift_pixels < 0:
            raise ValueError(f"shift_pixels is {self.shift_pixels}, must be at least 0")
        for name, value in (("brightness", self.brightness), ("contrast", self.contrast)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} is {value}, must be from 0 to below 1")

    def __call__(
        self, images: UInt8[np.ndarray, "b v h w 3"] | Float[np.ndarray, "b v h w 3"], random: np.random.Generator
    ) -> UInt8[np.ndarray, "b v h w 3"] | Float[np.ndarray, "b v h w 3"]:
        """Changed copies of the pictures: uint8, rounded, or float32 in [0, 1], not rounded."""
        batch, views, height, width = images.shape[:4]
        flat = images.reshape(batch * views, height, width, 3)
        limit = self.shift_pixels
        shift = random.integers(-limit, limit + 1, (2, len(flat)))
        light = 1 + self.brightness * random.uniform(-1, 1, len(flat))
        contrast = 1 + self.contrast * random.uniform(-1, 1, len(flat))
        padded = np.pad(flat, ((0, 0), (limit, limit), (limit, limit), (0, 0)), "edge")
        out = np.empty_like(flat)
        for i, (top, left) in enumerate(shift.T + limit):
            relight = _relight_bytes if images.dtype == np.uint8 else _relight
            out[i] = relight(padded[i, top : top + height, left : left + width], contrast[i], light[i])
        return out.reshape(images.shape)


def _relight_bytes(image: UInt8[np.ndarray, "h w 3"], contrast: float, light: float) -> UInt8[np.ndarray, "h w 3"]:
    """`_relight` of whole values 0 to 255, by a table, rounded."""
    mean = np.float32(image.sum(dtype=np.int64) / image.size)
    table = ((np.arange(256, dtype=np.float32) - mean) * contrast + mean) * light
    table_bytes = np.clip(table + 0.5, 0, 255).astype(np.uint8).tobytes()
    return np.frombuffer(image.tobytes().translate(table_bytes), np.uint8).reshape(image.shape)


def _relight(image: Float[np.ndarray, "h w 3"], contrast: float, light: float) -> Float[np.ndarray, "h w 3"]:
    mean = np.float32(image.mean(dtype=np.float64))
    return np.clip(((image - mean) * contrast + mean) * light, 0, 1).astype(np.float32)


class Batches:
    """Endless batches for the steps `start_step`, `start_step + 1`, ...

    What a step gets depends on the data, `seed`, `batch_size` and the step alone, so a run that stops and goes on sees
    the same. Every frame comes once per epoch, in an order of its own; a batch may hold the end of one epoch and the
    start of the next. A thread prepares batches ahead: close it with `close` or a `with` block. An exception in it is
    raised by `next`.
    """

    def __init__(
        self,
        dataset: LeRobotDataset,
        transform: Transform,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        augment: Augment | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, must be at least 1")
        if difference := transform.config.embodiment.difference(dataset.embodiment):
            raise ValueError(f"the data set is of another robot than the model: {difference}")
        wanted = transform.config.resize
        if dataset.preloaded_by not in (None, wanted):
            raise ValueError(
                f"the data set's pictures were preloaded as {dataset.preloaded_by!r}, the model takes {wanted!r}; give "
                f"preload how={wanted!r}"
            )
        self._make = _BatchMaker(dataset, transform, batch_size, seed, augment)
        self._queue: queue.Queue[tuple[Observation, Actions] | BaseException] = queue.Queue(STEPS_AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=_prepare, args=(self._make, start_step, self._queue, self._stop), name="batches", daemon=True
        )
        weakref.finalize(self, self._stop.set)
        self._thread.start()

    def __iter__(self) -> Iterator[tuple[Observation, Actions]]:
        return self

    def __next__(self) -> tuple[Observation, Actions]:
        if self._stop.is_set():
            raise ValueError("the batches are closed")
        item = self._queue.get()
        if isinstance(item, BaseException):
            self.close()
            raise item
        return item

    def indices(self, step: int) -> Int[np.ndarray, " b"]:
        """Frames of a step's batch, in its order."""
        return self._make.indices(step)

    def close(self) -> None:
        """Stops the thread and waits for it; a second call does nothing."""
        self._stop.set()
        self._thread.join()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _BatchMaker:
    """step -> batch, without state but caches."""

    def __init__(
        self, dataset: LeRobotDataset, transform: Transform, batch_size: int, seed: int, augment: Augment | None
    ) -> None:
        self.dataset, self.transform, self.augment = dataset, transform, augment
        self.batch_size, self.seed = batch_size, seed
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def __call__(self, step: int) -> tuple[Observation, Actions]:
        indices = self.indices(step)
        images, present = self._images(indices)
        if self.augment is not None:
            images = self.augment(images, np.random.default_rng([self.seed, 1, step]))
        prompts = [self.dataset.prompt(i) for i in indices]
        state = self.dataset.state[indices]
        observation = self.transform.assemble(images, present, state, prompts)
        values, real = self.dataset.chunks(indices, self.transform.config.horizon)
        return observation, self.transform.actions(values, real, state)

    def indices(self, step: int) -> Int[np.ndarray, " b"]:
        """Frames of a step."""
        places = step * self.batch_size + np.arange(self.batch_size)
        epochs, offsets = np.divmod(places, self.dataset.num_frames)
        return np.concatenate([self._permutation(int(e))[offsets[epochs == e]] for e in np.unique(epochs)])

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.seed, 0, epoch]).permutation(self.dataset.num_frames))
        return self._order[1]

    def _images(
        self, indices: np.ndarray
    ) -> tuple[UInt8[np.ndarray, "b v h w 3"] | Float[np.ndarray, "b v h w 3"], Bool[np.ndarray, "b v"]]:
        config = self.transform.config
        size, cameras = (config.image_size, config.image_size), config.embodiment.cameras
        images = blank((len(indices), len(cameras), *size, 3), config.resize)
        for view, camera in enumerate(cameras):
            pictures = self.dataset.preloaded(camera)
            if pictures is not None and pictures.shape[1:3] == size and images.dtype == np.uint8:
                images[:, view] = pictures[indices]
            else:
                for row, i in enumerate(indices):
                    images[row, view] = resize(self.dataset.image(i, camera), size, config.resize)
        return images, np.ones(images.shape[:2], bool)


def _prepare(
    make: Callable[[int], tuple[Observation, Actions]],
    step: int,
    out: "queue.Queue[tuple[Observation, Actions] | BaseException]",
    stop: threading.Event,
) -> None:
    """Fills the queue until told to stop. Holds no reference to its `Batches`, so that an abandoned one ends it."""
    while not stop.is_set():
        try:
            item: tuple[Observation, Actions] | BaseException = make(step)
        except BaseException as error:  # handed to the consumer, which raises it
            item = error
        while not stop.is_set():
            try:
                out.put(item, timeout=0.1)
                break
            except queue.Full:
                continue
        if isinstance(item, BaseException):
            return
        step += 1
