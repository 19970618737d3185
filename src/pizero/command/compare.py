"""`pizero compare`: two evaluations on the episodes that they have in common."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from pizero.command.parse import parse
from pizero.command.table import print_comparison
from pizero.sim.compare import compare_runs


@dataclass(frozen=True)
class Compare:
    """Set two evaluations side by side, episode by episode, and test whether they differ (McNemar)."""

    first: Positional[Path]
    """Folder that `pizero eval` wrote."""
    second: Positional[Path]
    """Another one, with the same tasks, --seed and --states."""
    json: bool = False
    """Print JSON for programs."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit code."""
    args = parse(Compare, "compare", arguments)
    comparison = compare_runs(args.first, args.second)
    if args.json:
        print(json.dumps(comparison.to_json()))
    else:
        print_comparison(comparison)
    return 0
