"""`pizero stats`: what the numbers of a data set look like."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from pizero.command.parse import parse


@dataclass(frozen=True)
class Stats:
    """Print the statistics of a data set's states and actions."""

    dataset: Positional[Path]
    """Folder of a LeRobot data set."""
    json: bool = False
    """Print JSON for programs."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit code."""
    args = parse(Stats, "stats", arguments)
    from pizero.data.lerobot import LeRobotDataset
    from pizero.data.stats import compute_stats

    dataset = LeRobotDataset(args.dataset)
    computed = compute_stats(dataset)
    if args.json:
        print(json.dumps(computed.to_json()))
        return 0
    robot = dataset.embodiment
    for what, names, values in (("state", robot.state, computed.state), ("action", robot.actions, computed.actions)):
        print(f"{what:24}{'mean':>10}{'std':>10}{'min':>10}{'1 %':>10}{'99 %':>10}{'max':>10}")
        columns = (values.mean, values.std, values.min, values.q01, values.q99, values.max)
        for i, name in enumerate(names):
            print(f"  {name:22}" + "".join(f"{column[i]:10.4f}" for column in columns if column is not None))
    print(f"{computed.actions.count} frames")
    return 0
