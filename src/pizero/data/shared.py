"""Memory that several processes see: pictures come from workers without being copied through a pipe."""

import math
import mmap
import os
import sys
import tempfile
import weakref
from collections.abc import Callable
from multiprocessing import reduction
from typing import Any

import numpy as np
from numpy.typing import DTypeLike


class SharedArray:
    """An array that a worker sees which it is given to when it starts. Zeros at first.

    It lies in a file without a name, which ends with the last process that has it, whatever ended that. Linux keeps it
    in memory, without the limit on /dev/shm that containers have.
    """

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        file = _memory_file()
        os.truncate(file, max(1, math.prod(shape) * np.dtype(dtype).itemsize))  # an empty file cannot be mapped
        self._open(file, shape, np.dtype(dtype))

    def __reduce__(self) -> tuple[Callable[..., "SharedArray"], tuple[Any, tuple[int, ...], str]]:
        """For the start of a worker only: a file cannot be sent later."""
        return _attached, (reduction.DupFd(self._file), self.values.shape, self.values.dtype.str)

    def _open(self, file: int, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> None:
        self._file = file
        weakref.finalize(self, os.close, file)
        self.values: np.ndarray = np.frombuffer(mmap.mmap(file, 0), dtype, math.prod(shape)).reshape(shape)
        """The array, the same for all processes."""


def _memory_file() -> int:
    if sys.platform == "linux":
        return os.memfd_create("pizero pictures")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _attached(file: Any, shape: tuple[int, ...], dtype: str) -> SharedArray:
    array = SharedArray.__new__(SharedArray)
    array._open(file.detach(), shape, np.dtype(dtype))
    return array
