"""All pictures of a camera into memory: by this process, or where there are many by several.

By processes and not threads: a 128-pixel picture takes 0.4 ms, and for much of that its thread holds Python's lock (two
threads were slower than one).
"""

import os
from collections.abc import Callable
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
    name: str, decode: Decode, num_frames: int, size: tuple[int, int] | None, how: Resize
) -> UInt8[np.ndarray, "n h w 3"]:
    """Every picture, resized to `size` (height, width) if there is one.

    Raises ValueError, which calls them `name`, when they differ in size and are not resized, and what `decode` raises.
    """
    shape = decode(0).shape if size is None else (*size, 3)
    stretches = _Stretches(name, decode, size, how, SharedArray((num_frames, *shape), np.uint8))
    processes = min(MAX_PROCESSES, os.cpu_count() or 1, num_frames // FRAMES_PER_PROCESS)
    if processes < 2:
        stretches((0, num_frames))
    else:
        _share_out(stretches, num_frames, processes)
    return stretches.pictures.values


@dataclass(frozen=True)
class _Stretches:
    """What a process does with frames: from the first, to before the last."""

    name: str
    decode: Decode
    size: tuple[int, int] | None
    how: Resize
    pictures: SharedArray

    def __call__(self, stretch: tuple[int, int]) -> None:
        pictures = self.pictures.values
        for i in range(*stretch):
            image = self.decode(i)
            image = image if self.size is None else np.asarray(resize(image, self.size, self.how))
            if image.shape != pictures.shape[1:]:
                raise ValueError(
                    f"{self.name} have shapes {pictures.shape[1:]} and {image.shape}; they can be preloaded only when "
                    "they are resized to one"
                )
            pictures[i] = image


def _share_out(stretches: _Stretches, frames: int, processes: int) -> None:
    pool: WorkerPool[tuple[int, int], None] = WorkerPool(processes, stretches)
    try:
        starts = range(0, frames, FRAMES_PER_TASK)
        for start in starts:
            pool.submit((start, min(start + FRAMES_PER_TASK, frames)))
        done = 0
        while done < len(starts):
            answers = pool.answers(PATIENCE_S)
            for _, error in answers:
                if error is not None:
                    raise error
            done += len(answers)
    finally:
        pool.close()
