"""`pizero stats`: what the numbers of data sets look like."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from pizero.command.parse import parse

if TYPE_CHECKING:
    from pizero.data.dataset import Dataset


@dataclass(frozen=True)
class Stats:
    """Print the statistics of states and actions, exact, of one data set or of several of one robot together."""

    dataset: Positional[tuple[Path, ...]]
    """Folders of data sets, LeRobot or RLDS."""
    delta_actions: tuple[str, ...] = ()
    """Action dimensions relative to the state dimension of the same index at the start of the chunk."""
    horizon: int | None = None
    """Timesteps of a chunk, where `delta_actions` are given; without them it would change nothing."""
    output: Path | None = None
    """Write them to this file, as the stats.json of a checkpoint, which `pizero import --stats` reads."""
    json: bool = False
    """Print JSON for programs."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit code."""
    args = parse(Stats, "stats", arguments)
    _check(args)
    from pizero.data.dataset import open_dataset
    from pizero.data.stats import joint_stats
    from pizero.data.units import Units

    datasets = [open_dataset(folder) for folder in args.dataset]
    robot = datasets[0].embodiment
    units = Units.of(robot, "robot", args.delta_actions)
    _check_one_robot(datasets)
    computed = joint_stats(datasets, units, args.horizon or 1)
    if args.output is not None:
        computed.save(args.output)
    if args.json:
        print(json.dumps(computed.to_json()))
        return 0
    for what, names, values in (("state", robot.state, computed.state), ("action", robot.actions, computed.actions)):
        print(f"{what:24}{'mean':>10}{'std':>10}{'min':>10}{'1 %':>10}{'99 %':>10}{'max':>10}")
        columns = (values.mean, values.std, values.min, values.q01, values.q99, values.max)
        for i, name in enumerate(names):
            print(f"  {name:22}" + "".join(f"{column[i]:10.4f}" for column in columns if column is not None))
    chunks = f" and {computed.actions.count} timesteps of chunks" if args.delta_actions else ""
    print(f"{computed.state.count} frames{chunks}")
    return 0


def _check(args: Stats) -> None:
    if not args.dataset:
        raise ValueError("stats needs the folder of at least one data set")
    if len(set(args.dataset)) < len(args.dataset):
        raise ValueError(f"a folder is given twice: {', '.join(map(str, args.dataset))}; give it once")
    if args.delta_actions and args.horizon is None:
        raise ValueError("delta_actions need --horizon, the timesteps of the model's chunks: 50 for pi0")
    if args.horizon is not None and not args.delta_actions:
        raise ValueError("horizon has no effect without --delta-actions; leave it out")
    if args.horizon is not None and args.horizon < 1:
        raise ValueError(f"horizon is {args.horizon}, must be at least 1")
    if args.output is not None and args.output.exists():
        raise ValueError(f"{args.output} exists already; remove it or choose another file")


def _check_one_robot(datasets: Sequence["Dataset"]) -> None:
    """Raises ValueError when the data sets have other dimensions, whose numbers do not belong together."""
    first = datasets[0]
    for other in datasets[1:]:
        for what, ours, theirs in (
            ("state", first.embodiment.state, other.embodiment.state),
            ("action", first.embodiment.actions, other.embodiment.actions),
        ):
            if ours != theirs:
                raise ValueError(
                    f"{other.root} has the {what} dimensions {', '.join(theirs)}, {first.root} has {', '.join(ours)}; "
                    "joint statistics are for data sets of one robot"
                )
