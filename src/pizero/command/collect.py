"""`pizero collect`: demonstrations of a scripted expert."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from pizero.command.parse import num_workers, parse


@dataclass(frozen=True)
class Collect:
    """Record demonstrations of a scripted expert as a LeRobot v3.0 data set."""

    tasks: Positional[tuple[str, ...]]
    """Names of tasks; `pizero show tasks` lists them."""
    root: Path
    """Folder to write; it must not exist."""
    episodes: int = 50
    """Episodes per task."""
    seed: int = 0
    """Of the initial states and the noise; another seed gives other episodes."""
    noise: float = 0.8
    """Largest deviation of the exploration noise of an episode, in half the range of an action. 0: the pure expert."""
    workers: int = 0
    """Simulator processes. 0: one per core."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit code."""
    args = parse(Collect, "collect", arguments)
    from pizero.progress import stage
    from pizero.sim.collect import collect as record

    with stage("collect", "episodes") as report:
        result = record(
            args.tasks, args.root, args.episodes, args.seed, num_workers(args.workers), args.noise, progress=report
        )
    for task in result.tasks:
        print(f"{task.task}: {task.kept} episodes, {task.frames} frames; {task.failed} failed attempts left out")
    print(f"wrote {result.root}")
    return 0
