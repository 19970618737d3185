"""What a run needs of the machine: its device, the same bits every time, and a way to be stopped."""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch


def choose_device(name: str) -> torch.device:
    """The device of a name; "auto" is cuda where there is one. Raises ValueError when it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(f"device is {name!r}, but torch sees {count} cuda devices here; choose cpu, or auto")
    return device


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Only algorithms that give the same bits every time, so that a resumed run equals an uninterrupted one."""
    if device.type == "cpu":  # they all do
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch asks for it
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


class Stop:
    """Notes the first Ctrl-C or SIGTERM, so that the run can save and end after its step; a second one acts at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        """Number of the signal, when there was one."""
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():  # others cannot receive signals
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell has it for jobs in the background
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()
        print("stopping after this step; once more stops at once, without saving", file=sys.stderr, flush=True)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}


class Clock:
    """Training time: of this process, and over all interruptions before it."""

    def __init__(self, seconds_before: float, limit_s: float | None) -> None:
        self._before, self._limit = seconds_before, math.inf if limit_s is None else limit_s
        self._start = time.monotonic()

    def elapsed(self) -> float:
        """Seconds since this process began to train."""
        return time.monotonic() - self._start

    def total(self) -> float:
        """Seconds since step 0."""
        return self._before + self.elapsed()

    def fraction(self) -> float:
        """Part of the time limit that has passed, above 1 after it; 0 without a limit."""
        return self.elapsed() / self._limit

    def left(self) -> float:
        """Seconds until the time limit; infinite without one."""
        return max(0.0, self._limit - self.elapsed())
