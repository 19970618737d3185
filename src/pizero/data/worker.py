"""Processes that do tasks for this one; one that dies is replaced, and what it was doing is done again."""

import contextlib
import multiprocessing
import multiprocessing.connection
import pickle
import signal
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

import torch

TASKS_AT_ONCE = 2
"""Tasks that a worker has: the one it does, and one that waits in its pipe, so that it never waits itself."""
MOST_DEATHS = 3
"""Workers that may die over one task before it is given up."""
PATIENCE_S = 5.0
"""How long a worker that is told to end may take."""

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass
class _Job(Generic[Task]):
    task: Task
    deaths: int = 0


@dataclass
class _Worker(Generic[Task]):
    process: BaseProcess
    pipe: Connection
    jobs: "deque[_Job[Task]]" = field(default_factory=deque)
    """In the order in which it does them."""


class WorkerPool(Generic[Task, Result]):
    """`count` processes that call `work` with tasks. Used by one thread; `close` ends them.

    `work` and the tasks are pickled. The tasks must not depend on what was done before: after a death, one is repeated.
    `advice` ends the message to a user whose workers die.
    """

    def __init__(self, count: int, work: Callable[[Task], Result], advice: str) -> None:
        if count < 1:
            raise ValueError(f"workers is {count}, must be at least 1")
        self.restarts = 0
        """Workers that were replaced."""
        # spawn: a forked child would share the parent's CUDA context, threads and locks
        self._context = multiprocessing.get_context("spawn")
        self._work = work
        self._advice = advice
        self._workers: list[_Worker[Task] | None] = [None] * count
        self._waiting: deque[_Job[Task]] = deque()

    def submit(self, task: Task) -> None:
        """Give a task, to be done after those given before. Does not wait, but for the start of the processes."""
        if not any(self._workers):
            self._start_all()
        self._waiting.append(_Job(task))
        self._hand_out()

    def answers(self, timeout_s: float) -> list[tuple[Task, Result | Exception]]:
        """Tasks that were done, in any order, each with its result, or with what was raised.

        Waits for the first one, at most `timeout_s`. A task over which `MOST_DEATHS` workers died has a ValueError.
        """
        pipes: dict[Any, int] = {worker.pipe: i for i, worker in enumerate(self._workers) if worker and worker.jobs}
        answers: list[tuple[Task, Result | Exception]] = []
        for pipe in multiprocessing.connection.wait(list(pipes), timeout_s):
            place = pipes[pipe]
            worker = self._workers[place]
            assert worker is not None, "only pipes of running workers are waited for"
            try:
                result = worker.pipe.recv()
            except (EOFError, OSError):
                answers += self._bury(place)
            else:
                answers.append((worker.jobs.popleft().task, result))
        self._hand_out()
        return answers

    def close(self) -> None:
        """Ends the processes; what was not done is dropped."""
        running = [worker for worker in self._workers if worker is not None]
        for worker in running:
            worker.pipe.close()
            worker.process.terminate()
        for worker in running:
            worker.process.join(PATIENCE_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers = [None] * len(self._workers)
        self._waiting.clear()

    def _hand_out(self) -> None:
        """Tasks to those who have fewest."""
        while self._waiting:
            loads = [len(worker.jobs) if worker else 0 for worker in self._workers]
            place = loads.index(min(loads))
            if loads[place] >= TASKS_AT_ONCE:
                return
            worker = self._workers[place] or self._start(place)
            job = self._waiting.popleft()
            worker.jobs.append(job)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died: the next `answers` sees it
                worker.pipe.send(job.task)

    def _start_all(self) -> None:
        """At once: what a process is given it reads after its imports, seconds later, and `start` waits for that."""
        with ThreadPoolExecutor(len(self._workers)) as threads:
            list(threads.map(self._start, range(len(self._workers))))

    def _start(self, place: int) -> _Worker[Task]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(self._work, theirs), daemon=True, name="data worker")
        # Ctrl-C reaches every process of the terminal. Ours ends the workers; they never listen.
        resource_tracker.ensure_running()  # which would unblock the signal again
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        worker: _Worker[Task] = _Worker(process, ours)
        self._workers[place] = worker
        return worker

    def _bury(self, place: int) -> list[tuple[Task, Exception]]:
        """Takes the tasks of a dead worker back; those that were given up."""
        worker = self._workers[place]
        assert worker is not None, "it has just died"
        self._workers[place] = None
        self.restarts += 1
        worker.pipe.close()
        worker.process.join()
        self._waiting.extendleft(reversed(worker.jobs))
        first = self._waiting[0]  # what it was doing
        first.deaths += 1
        if first.deaths < MOST_DEATHS:
            return []
        self._waiting.popleft()
        code = worker.process.exitcode
        error = ValueError(
            f"{MOST_DEATHS} worker processes died one after another (exit code {code}) over the same samples; "
            f"{'they were killed, perhaps for memory: ' if code == -signal.SIGKILL else ''}{self._advice}"
        )
        return [(first.task, error)]


def _serve(work: Callable[[Any], Any], pipe: Connection) -> None:
    """Do tasks until nobody listens."""
    torch.set_num_threads(1)  # one process for each core is enough
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            task = pipe.recv()
            try:
                answer = work(task)
            except Exception as error:  # raised by the consumer
                answer = _portable(error)
            pipe.send(answer)


def _portable(error: Exception) -> Exception:
    """The error as it can travel; what is not meant for users brings its traceback along."""
    if not isinstance(error, ValueError):
        error.add_note("in a worker process:\n" + "".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # some exceptions do not pickle, or not back
        return RuntimeError("in a worker process:\n" + "".join(traceback.format_exception(error)))
    return error
