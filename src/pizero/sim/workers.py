"""Processes that own simulators and answer over a pipe; one that dies is reported, and started again when needed."""

import contextlib
import multiprocessing
import multiprocessing.connection
import signal
from collections.abc import Callable
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


@dataclass(frozen=True)
class Died:
    """Stands for the answer of a worker that ended without one."""

    reason: str
    """For example "worker died (exit code -9)"."""


class Workers:
    """`count` processes that run `serve`. Use in a `with` statement; they end with it."""

    def __init__(self, count: int, serve: Serve) -> None:
        if count < 1:
            raise ValueError(f"workers is {count}, must be at least 1")
        # spawn: a forked child would share the parent's GL contexts, threads and locks
        self._context = multiprocessing.get_context("spawn")
        self._serve = serve
        self._running: list[tuple[BaseProcess, Connection] | None] = [None] * count
        self._owing: set[int] = set()

    def send(self, worker: int, message: Any) -> None:
        """Give a worker a message, to which it owes one answer. Starts the process if it does not run."""
        running = self._running[worker] or self._start(worker)
        self._owing.add(worker)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died: the next `answers` says so
            running[1].send(message)

    def answers(self) -> list[tuple[int, Any]]:
        """(worker, answer or Died) of every worker that owes one, in order of worker. Waits for all of them."""
        answers = [(worker, self._receive(worker)) for worker in sorted(self._owing)]
        self._owing.clear()
        return answers

    def next_answers(self) -> list[tuple[int, Any]]:
        """The same of those that have answered. Waits for the first."""
        pipes: dict[Any, int] = {}
        for worker in sorted(self._owing):
            running = self._running[worker]
            assert running is not None
            pipes[running[1]] = worker
        ready = sorted(pipes[pipe] for pipe in multiprocessing.connection.wait(list(pipes)))
        self._owing.difference_update(ready)
        return [(worker, self._receive(worker)) for worker in ready]

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
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        theirs.close()
        self._running[worker] = (process, ours)
        return process, ours

    def _receive(self, worker: int) -> Any:
        running = self._running[worker]
        assert running is not None
        process, pipe = running
        try:
            return pipe.recv()
        except (EOFError, ConnectionResetError):
            pipe.close()
            process.join()
            self._running[worker] = None
            return Died(f"worker died (exit code {process.exitcode})")


def _run(serve: Serve, pipe: Connection) -> None:
    """Serve until nobody listens: an answer that comes too late is no error of the worker, and needs no word."""
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        serve(pipe)
