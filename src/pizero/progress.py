"""Progress bars that name the stage, its rate and the time left; plain lines where no terminal watches."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Report = Callable[[float, float, str], None]
"""report(done, total, note): how far a stage is."""
LINE_EVERY_S = 15.0
"""Seconds between lines where there is no terminal."""


@contextmanager
def stage(name: str, unit: str) -> Iterator[Report]:
    """A bar on stderr for one stage; `unit` names what is counted."""
    started = time.monotonic()
    shown = _bar(name, unit, started) if sys.stderr.isatty() else _lines(name, unit, started)
    with shown as report:
        yield report
    print(f"{name}: done in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


@contextmanager
def _bar(name: str, unit: str, started: float) -> Iterator[Report]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=None, rate="", note="")

        def report(done: float, total: float, note: str) -> None:
            rate = f"{done / max(time.monotonic() - started, 1e-9):.1f} {unit}/s"
            progress.update(task, completed=done, total=total, rate=rate, note=note)

        yield report


@contextmanager
def _lines(name: str, unit: str, started: float) -> Iterator[Report]:
    last = started

    def report(done: float, total: float, note: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < LINE_EVERY_S:
            return
        last = now
        rate = done / (now - started)
        left = (total - done) / rate if rate > 0 else float("nan")
        line = f"{name}: {100 * done / max(total, 1e-9):3.0f} %, {rate:.1f} {unit}/s, {left:.0f} s left"
        print(f"{line}; {note}" if note else line, file=sys.stderr, flush=True)

    yield report
