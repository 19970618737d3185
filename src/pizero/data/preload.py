"""All pictures of some cameras into memory: by this process, or where there are many by several.

By processes and not threads: a 128-pixel picture takes 0.4 ms, and for much of that its thread holds Python's lock (two
threads were slower than one).
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from pizero.data.choice import Resize
from pizero.data.images import resize
from pizero.data.shared import SharedArray
from pizero.data.worker import WorkerPool

FRAMES_PER_PROCESS = 4096
"""A process takes seconds to start, as many as this many pictures take."""
MAX_PROCESSES = 16
FRAMES_PER_TASK = 1024
PATIENCE_S = 60.0
"""Between looks at what has been done."""

Decode = Callable[[int], UInt8[np.ndarray, "h w 3"]]
"""Gives the picture of a frame; it can be pickled."""


def decode_all(
    where: str, cameras: Mapping[str, Decode], num_frames: int, size: tuple[int, int] | None, how: Resize
) -> dict[str, UInt8[np.ndarray, "n h w 3"]]:
    """Every picture of the cameras, resized to `size` (height, width) if there is one.

    Raises ValueError, which names `where` they come from, when a camera's pictures differ in size and are not resized;
    and what a camera's `Decode` raises.
    """
    shapes = {camera: decode(0).shape if size is None else (*size, 3) for camera, decode in cameras.items()}
    pictures = {camera: SharedArray((num_frames, *shape), np.uint8) for camera, shape in shapes.items()}
    decoding = _Decoding(where, dict(cameras), size, how, pictures)
    processes = min(MAX_PROCESSES, os.cpu_count() or 1, len(cameras) * num_frames // FRAMES_PER_PROCESS)
    if processes < 2:
        for camera in cameras:
            decoding(_Stretch(camera, 0, num_frames))
    else:
        _share_out(decoding, num_frames, processes)
    return {camera: array.values for camera, array in pictures.items()}


@dataclass(frozen=True)
class _Stretch:
    """Frames of a camera: from the first, to before the last."""

    camera: str
    start: int
    end: int


@dataclass(frozen=True)
class _Decoding:
    """What a process does with a stretch."""

    where: str
    cameras: dict[str, Decode]
    size: tuple[int, int] | None
    how: Resize
    pictures: dict[str, SharedArray]

    def __call__(self, stretch: _Stretch) -> None:
        decode, pictures = self.cameras[stretch.camera], self.pictures[stretch.camera].values
        for i in range(stretch.start, stretch.end):
            image = decode(i)
            image = image if self.size is None else np.asarray(resize(image, self.size, self.how))
            if image.shape != pictures.shape[1:]:
                raise ValueError(
                    f"{self.where}: pictures of camera {stretch.camera!r} have shapes {pictures.shape[1:]} and "
                    f"{image.shape}; they can be preloaded only when they are resized to one"
                )
            pictures[i] = image


def _share_out(decoding: _Decoding, frames: int, processes: int) -> None:
    pool: WorkerPool[_Stretch, None] = WorkerPool(processes, decoding, "--data.no-preload does without them")
    stretches = [
        _Stretch(camera, start, min(start + FRAMES_PER_TASK, frames))
        for camera in decoding.cameras
        for start in range(0, frames, FRAMES_PER_TASK)
    ]
    try:
        for stretch in stretches:
            pool.submit(stretch)
        done = 0
        while done < len(stretches):
            answers = pool.answers(PATIENCE_S)
            for _, error in answers:
                if error is not None:
                    raise error
            done += len(answers)
    finally:
        pool.close()
