"""Processes that own simulators and answer over a pipe; one that dies or hangs is reported, and started again when
needed."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

Serve = Callable[[Connection], None]
"""What a worker runs: it receives messages, and answers each, until EOFError. Pickled: a module's function or a
`partial` of one."""

_PATIENCE_S = 5.0
"""How long a worker that is told to end may take."""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables that say how many threads NumPy and torch take; they read them when they are imported."""


@dataclass(frozen=True)
class Died:
    """Stands for the answer of a worker that ended without one."""

    reason: str
    """For example "worker died (exit code -9)" or "no answer for 300 s"."""


class Workers:
    """`count` processes that run `serve`. Use in a `with` statement; they end with it."""

    def __init__(self, count: int, serve: Serve) -> None:
        if count < 1:
            raise ValueError(f"workers is {count}, must be at least 1")
        # spawn: a forked child would share the parent's GL contexts, threads and locks
        self._context = multiprocessing.get_context("spawn")
        self._serve = serve
        self._running: list[tuple[BaseProcess, Connection] | None] = [None] * count
        self._owing: dict[int, float] = {}  # worker -> when it was asked

    def send(self, worker: int, message: Any) -> None:
        """Give a worker a message, to which it owes one answer. Starts the process if it does not run."""
        running = self._running[worker] or self._start(worker)
        self._owing[worker] = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died: the next `answers` says so
            running[1].send(message)

    def answers(self, patience_s: float | None = None) -> list[tuple[int, Any]]:
        """(worker, answer or Died) of every worker that owes one, in order of worker. Waits for all of them.

        A worker that has owed its answer for longer than `patience_s` seconds is killed. None: for ever.
        """
        answers: list[tuple[int, Any]] = []
        while self._owing:
            answers += self.next_answers(patience_s)
        return sorted(answers, key=lambda answer: answer[0])

    def next_answers(self, patience_s: float | None = None) -> list[tuple[int, Any]]:
        """The same of those that have answered. Waits for the first; empty when no worker owes an answer."""
        pipes: dict[Any, int] = {self._live(worker)[1]: worker for worker in sorted(self._owing)}
        if not pipes:
            return []
        timeout = None
        if patience_s is not None:
            timeout = max(0.0, min(self._owing.values()) + patience_s - time.monotonic())
        ready = sorted(pipes[pipe] for pipe in multiprocessing.connection.wait(list(pipes), timeout))
        answers = [(worker, self._receive(worker)) for worker in ready]
        if not ready:  # only then: what was answered meanwhile counts, however late
            assert patience_s is not None, "a wait without limit ends with an answer"
            late = time.monotonic() - patience_s
            hung = [worker for worker, asked in self._owing.items() if asked <= late]
            answers = [(worker, self._kill(worker, patience_s)) for worker in sorted(hung)]
        for worker, _ in answers:
            del self._owing[worker]
        return answers

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for running in self._running:
            if running is not None:
                running[1].close()  # EOFError there
        for running in self._running:
            if running is not None:
                if error is not None:
                    running[0].terminate()
                running[0].join(_PATIENCE_S)
                if running[0].is_alive():
                    running[0].kill()
                    running[0].join()

    def _start(self, worker: int) -> tuple[BaseProcess, Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_run, args=(self._serve, theirs), daemon=True)
        # Ctrl-C reaches every process of the terminal. Ours ends the workers; they never listen.
        resource_tracker.ensure_running()  # which would unblock the signal again
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with _one_thread():
                process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        theirs.close()
        self._running[worker] = (process, ours)
        return process, ours

    def _live(self, worker: int) -> tuple[BaseProcess, Connection]:
        running = self._running[worker]
        assert running is not None, "who owes an answer was started"
        return running

    def _receive(self, worker: int) -> Any:
        process, pipe = self._live(worker)
        try:
            return pipe.recv()
        except (EOFError, ConnectionResetError):
            pipe.close()
            process.join()
            self._running[worker] = None
            return Died(f"worker died (exit code {process.exitcode})")

    def _kill(self, worker: int, patience_s: float) -> Died:
        process, pipe = self._live(worker)
        process.kill()
        process.join()
        pipe.close()
        self._running[worker] = None
        return Died(f"no answer for {patience_s:g} s")


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Processes started in it use one thread for arithmetic, unless the user says otherwise: there is one per core."""
    added = [name for name in _THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(added, "1"))
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _run(serve: Serve, pipe: Connection) -> None:
    """Serve until nobody listens: an answer that comes too late is no error of the worker, and needs no word."""
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        serve(pipe)
