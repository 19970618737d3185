"""What a run needs of the machine: its device, a clock, and a way to be stopped."""

import math
import signal
import sys
import threading
import time
from types import FrameType

import torch

TORCHRUN_REPEATS_S = 5.0
"""Within this time a second signal is the same one: the terminal sends Ctrl-C to all processes, and torchrun to its
own once more."""


def choose_device(name: str, local_rank: int | None = None) -> torch.device:
    """The device of a name; "auto" is cuda where there is one. Raises ValueError when it is not there.

    `local_rank`: number of this process among several on this machine, each of which gets a cuda device of its own.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type != "cuda":
        return device
    if local_rank is not None:
        if device.index is not None:
            raise ValueError(f"device is {name!r}, but each of several processes needs a GPU of its own; give cuda")
        device = torch.device("cuda", local_rank)
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        given = f"device is {name!r}" if local_rank is None else f"this is process {local_rank} of this machine"
        advice = "choose cpu, or auto" if local_rank is None else "start as many processes as there are devices"
        raise ValueError(f"{given}, but torch sees {count} cuda devices here; {advice}")
    return device


class Stop:
    """Notes the first Ctrl-C or SIGTERM, so that the run can save and end after its step; a second one acts at once.

    `repeats_s`: in this time after the first a second one is not noticed. `announce`: say so on stderr.
    """

    def __init__(self, repeats_s: float = 0.0, announce: bool = True) -> None:
        self._repeats_s, self._announce = repeats_s, announce
        self._noted = -math.inf
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
        if self.signal is not None:
            if time.monotonic() - self._noted >= self._repeats_s:
                self._restore()
                signal.raise_signal(number)
            return
        self.signal, self._noted = number, time.monotonic()
        if self._announce:
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
