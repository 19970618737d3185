"""How a command reads its arguments: a dataclass, whose docstrings are the help, through tyro."""

import difflib
import os
from collections.abc import Iterable, Sequence
from typing import TypeVar

import tyro

T = TypeVar("T")


def parse(config: type[T], command: str, arguments: Sequence[str], default: T | None = None) -> T:
    """The arguments as `config`; a field not given has the value in `default`, or the class's own.

    Ends the program, with help or with an error and exit code 2, where they cannot be read.
    """
    prog = f"pizero {command}"
    if default is None:
        return tyro.cli(config, prog=prog, args=list(arguments))
    return tyro.cli(config, prog=prog, args=list(arguments), default=default)


def num_workers(asked: int) -> int:
    """How many simulator processes to run; 0 asks for one per core."""
    if asked < 0:
        raise ValueError(f"workers is {asked}, must be at least 0")
    return asked or os.cpu_count() or 1


def nearest(name: str, known: Iterable[str]) -> str:
    """ ", did you mean ...?", or nothing when no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f", did you mean {near[0]!r}?" if near else ""
