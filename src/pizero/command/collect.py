"""`pizero collect`: demonstrations of a scripted expert."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from pizero.command.parse import num_workers, parse


@dataclass(frozen=True)
class Collect:
    """Record demonstrations of a scripted expert as a LeRobot v3.0 data set.

    A collection that was stopped goes on with the same command.
    """

    tasks: Positional[tuple[str, ...]]
    """Names of tasks; `pizero show tasks` lists them. A name before "/", such as libero-object, stands for all its
    tasks."""
    root: Path
    """Folder to write; it must not exist. Until it is complete, what is recorded lies in ROOT.part."""
    episodes: int = 50
    """Episodes per task."""
    seed: int = 0
    """Of the initial states and the noise; another seed gives other episodes."""
    noise: float = 0.8
    """Largest deviation of the exploration noise of an episode, in the environment's noise scale. 0: the pure
    expert."""
    disturbances: float = 0.3
    """Chance that an episode is disturbed once: the robot is pushed off for a few steps, or its hand opened while it
    holds something; recorded is what the expert would do there. 0: none."""
    workers: int = 0
    """Simulator processes. 0: one per core."""
    assets: Path | None = None
    """Folder with the files of simulators that do not come with their packages."""
    overwrite: bool = False
    """Replace the data set at ROOT, and what a collection that was stopped has left in ROOT.part."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit code."""
    args = parse(Collect, "collect", arguments)
    from pizero.progress import stage
    from pizero.sim.assets import use_assets
    from pizero.sim.collect import collect as record
    from pizero.sim.env import expand_tasks

    if args.assets is not None:
        use_assets(args.assets)
    with stage("collect", "episodes") as report:
        result = record(
            expand_tasks(args.tasks),
            args.root,
            args.episodes,
            args.seed,
            num_workers(args.workers),
            args.noise,
            progress=report,
            disturbances=args.disturbances,
            overwrite=args.overwrite,
        )
    for task in result.tasks:
        print(f"{task.task}: {task.kept} episodes, {task.frames} frames; {task.failed} failed attempts left out")
    print(f"wrote {result.root}")
    return 0
