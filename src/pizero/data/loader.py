"""Batches of a mixture in an order that depends on the seed alone, prepared in the background."""

import atexit
import itertools
import queue
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Int

from pizero.data.assemble import Assembler, Corrupt, Rows
from pizero.data.batch import Batch
from pizero.data.mix import Mixture
from pizero.data.shared import SharedArray
from pizero.data.worker import PATIENCE_S, WorkerPool

__all__ = ["Batch", "Batches", "Counters"]

STEPS_AHEAD = 4
"""Batches that wait ready for the training step, when a thread of the process makes them; with workers, those that
are being made. A few more wait then."""
READY_FROM_WORKERS = 2
"""Batches that wait ready when workers make them."""
LISTEN_S = 0.1
"""How often the thread looks whether it should stop."""


@dataclass
class Counters:
    """What went wrong and was mended, since the loader was made."""

    skipped: int = 0
    """Frames that were replaced, in the batches that were handed out."""
    restarts: int = 0
    """Workers that died and were replaced."""


@dataclass(frozen=True)
class _Order:
    """Which samples make this process's part of a step's batch."""

    mixture: Mixture
    batch_size: int
    part: slice

    def step(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Place in the whole batch, source and frame of this part's rows; source and frame of all rows."""
        source, frame = self.mixture.rows(step, self.batch_size)
        places = np.arange(self.batch_size)[self.part]
        return places, source[self.part], frame[self.part], source, frame


class Batches:
    """Endless batches for the steps `start_step`, `start_step + 1`, ...

    What a step gets depends on the mixture, `batch_size` and the step alone, so a run that stops and goes on sees the
    same, whatever `workers` is. `part` are this process's rows of the whole batch (None: all).

    With `workers` 0 a thread makes them, otherwise that many processes, which are replaced when they die. `corrupt`
    says what a picture that cannot be decoded does. For a CUDA `device` batches are in pinned memory. An error is
    raised by `next` when its batch's turn comes. Close it with `close` or a `with` block.
    """

    def __init__(
        self,
        mixture: Mixture,
        batch_size: int,
        part: slice | None = None,
        start_step: int = 0,
        workers: int = 0,
        corrupt: Corrupt = "stop",
        device: torch.device | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, must be at least 1")
        if workers < 0:
            raise ValueError(f"workers is {workers}, must be at least 0")
        if workers and any(_is_preloaded(mixture, i) for i in range(len(mixture.sources))):
            raise ValueError("workers have no effect on preloaded pictures; leave one out")
        self.counters = Counters()
        """Skipped frames and replaced workers so far."""
        self._order = _Order(mixture, batch_size, slice(None) if part is None else part)
        self._queue: queue.Queue[Batch | BaseException] = queue.Queue(READY_FROM_WORKERS if workers else STEPS_AHEAD)
        self._stop = threading.Event()
        maker = Assembler(mixture, corrupt)
        if workers:
            made = _made_by_workers(self._order, maker, start_step, workers, self._stop, self.counters)
        else:
            made = _made_here(self._order, maker, start_step)
        self._thread = threading.Thread(
            target=_prepare, args=(made, _gpu(device), self._queue, self._stop), name="batches", daemon=True
        )
        self._at_exit = partial(_end, self._stop, self._thread)
        # multiprocessing ends its children when the interpreter does, and the thread would replace them: it must stop
        # first, so this is registered after multiprocessing's own
        atexit.register(self._at_exit)
        weakref.finalize(self, _abandon, self._stop, self._at_exit).atexit = False
        self._thread.start()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._stop.is_set():
            raise ValueError("the batches are closed")
        item = self._queue.get()
        if isinstance(item, BaseException):
            self.close()
            raise item
        self.counters.skipped += item.skipped
        return item

    def rows(self, step: int) -> tuple[Int[np.ndarray, " b"], Int[np.ndarray, " b"]]:
        """Source and frame of this process's rows of a step, in their order."""
        _, source, frame, _, _ = self._order.step(step)
        return source, frame

    def close(self) -> None:
        """Stops the thread and its workers and waits for them; a second call does nothing."""
        self._stop.set()
        self._thread.join()
        atexit.unregister(self._at_exit)

    def __enter__(self) -> "Batches":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _end(stop: threading.Event, thread: threading.Thread) -> None:
    stop.set()
    thread.join(PATIENCE_S)


def _abandon(stop: threading.Event, at_exit: Callable[[], None]) -> None:
    stop.set()
    atexit.unregister(at_exit)


def _is_preloaded(mixture: Mixture, source: int) -> bool:
    dataset = mixture.sources[source].dataset
    return any(dataset.preloaded(camera) is not None for camera in dataset.embodiment.cameras)


def _gpu(device: torch.device | None) -> int | None:
    """Number of the GPU that batches go to; None: they go to none."""
    if device is None or device.type != "cuda":
        return None
    return torch.cuda.current_device() if device.index is None else device.index


def _made_here(order: _Order, maker: Assembler, start_step: int) -> Generator[Batch, None, None]:
    for step in itertools.count(start_step):
        places, source, frame, *whole = order.step(step)
        images = maker.blank(len(places))
        rows = maker.read(step * order.batch_size + places, source, frame, images)
        yield maker.batch(step, places, source, maker.total(*whole), images, [rows])


@dataclass(frozen=True)
class _Task:
    """Some rows of a step."""

    step: int
    part: int
    rows: slice
    positions: np.ndarray
    source: np.ndarray
    frame: np.ndarray


@dataclass(frozen=True)
class _Work:
    """What a worker does: pictures go to the shared memory, the rest comes back."""

    maker: Assembler
    pictures: SharedArray

    def __call__(self, task: _Task) -> Rows:
        images = self.pictures.values[task.step % STEPS_AHEAD, task.rows]
        return self.maker.read(task.positions, task.source, task.frame, images)


def _made_by_workers(
    order: _Order, maker: Assembler, start_step: int, workers: int, stop: threading.Event, counters: Counters
) -> Generator[Batch, None, None]:
    """The rows of each step are shared out to all workers, so that the first batch comes soon."""
    count = len(range(order.batch_size)[order.part])
    blank = maker.blank(1)
    pictures = SharedArray((STEPS_AHEAD, count, *blank.shape[1:]), blank.dtype)
    pool: WorkerPool[_Task, Rows] = WorkerPool(
        workers, _Work(maker, pictures), "try fewer data.workers, or 0 to see what happens"
    )
    done: dict[tuple[int, int], Rows | Exception] = {}
    asked = start_step
    try:
        for step in itertools.count(start_step):
            while asked < step + STEPS_AHEAD:
                num_parts = _ask(pool, order, asked, workers)
                asked += 1
            keys = [(step, part) for part in range(num_parts)]
            while not all(key in done for key in keys):
                for task, answer in pool.answers(LISTEN_S):
                    done[task.step, task.part] = answer
                counters.restarts = pool.restarts
                if stop.is_set():
                    return
            parts = []
            for key in keys:
                answer = done.pop(key)
                if isinstance(answer, Exception):
                    raise answer
                parts.append(answer)
            places, source, _, *whole = order.step(step)
            images = pictures.values[step % STEPS_AHEAD].copy()  # its place is for another step as soon as this is out
            yield maker.batch(step, places, source, maker.total(*whole), images, parts)
    finally:
        pool.close()


def _ask(pool: WorkerPool[_Task, Rows], order: _Order, step: int, workers: int) -> int:
    """Gives the rows of a step to the workers, and the number of tasks that they are."""
    places, source, frame, *_ = order.step(step)
    chunk = -(-len(places) // workers)
    starts = range(0, len(places), chunk)
    for part, first in enumerate(starts):
        rows = slice(first, min(first + chunk, len(places)))
        positions = step * order.batch_size + places[rows]
        pool.submit(_Task(step, part, rows, positions, source[rows], frame[rows]))
    return len(starts)


def _prepare(
    made: Generator[Batch, None, None],
    gpu: int | None,
    out: "queue.Queue[Batch | BaseException]",
    stop: threading.Event,
) -> None:
    """Fills the queue until told to stop. Holds no reference to its `Batches`, so that an abandoned one ends it."""
    try:
        if gpu is not None:
            torch.cuda.set_device(gpu)  # each thread has its own; pinning would wake the first GPU otherwise
        for batch in made:
            _put(batch if gpu is None else batch.pin(), out, stop)
            if stop.is_set():
                return
    except BaseException as error:  # handed to the consumer, which raises it
        _put(error, out, stop)
    finally:
        made.close()


def _put(item: Batch | BaseException, out: "queue.Queue[Batch | BaseException]", stop: threading.Event) -> None:
    """Waits for room, unless told to stop."""
    while not stop.is_set():
        try:
            out.put(item, timeout=LISTEN_S)
            return
        except queue.Full:
            continue
