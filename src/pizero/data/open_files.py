"""The files used last, kept open; safe to use from threads, after a fork, and in a copy sent to another process."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar


class Closable(Protocol):
    """An open file."""

    def close(self) -> None:
        """Gives it back."""
        ...


F = TypeVar("F", bound=Closable)


class OpenFiles(Generic[F]):
    """At most `limit` open files; the one that was not used for longest is closed for a new one."""

    def __init__(self, open_file: Callable[[Path], F], limit: int) -> None:
        self._open_file, self._limit = open_file, limit
        self._begin()

    @contextmanager
    def use(self, path: Path) -> Iterator[F]:
        """The open file, for this thread alone. Raises what opening it raises."""
        if self._process != os.getpid():  # forked: the parent's files share one position with it, its lock may be held
            self._of_parent = self._files  # kept, not closed: closing could wait for threads that were not forked
            self._begin()
        with self._lock:
            if path not in self._files:
                if len(self._files) >= self._limit:
                    self._files.popitem(last=False)[1].close()
                self._files[path] = self._open_file(path)
            self._files.move_to_end(path)
            yield self._files[path]

    def __len__(self) -> int:
        return len(self._files)

    def close(self) -> None:
        """Closes them all; they open again when used."""
        if self._process != os.getpid():
            return
        with self._lock:
            while self._files:
                self._files.popitem()[1].close()

    def _begin(self) -> None:
        self._process, self._lock = os.getpid(), threading.Lock()
        self._files: OrderedDict[Path, F] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"_open_file": self._open_file, "_limit": self._limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()
