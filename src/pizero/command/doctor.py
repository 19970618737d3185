"""`pizero doctor`: what will go wrong with a data set, before it is trained on."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from pizero.command.parse import parse
from pizero.data.choice import Normalization

if TYPE_CHECKING:
    from pizero.data.dataset import Dataset
    from pizero.data.doctor import Trained
    from pizero.data.doctor_finding import Finding
    from pizero.data.stats import Stats
    from pizero.data.transform import TransformConfig

WIDTH = 116
"""Columns of a line."""
INDENT = 25
"""Columns before a finding's sentence."""


@dataclass(frozen=True)
class Doctor:
    """Tell what will go wrong with a data set, by itself or beside a checkpoint; exit code 1 where it finds errors."""

    dataset: Positional[Path]
    """Folder of a data set, LeRobot or RLDS."""
    checkpoint: Positional[Path | None] = None
    """Folder of a checkpoint that shall be trained further on the data, or act where they were recorded."""
    normalization: Normalization | None = None
    """How it will be scaled. None: as in the checkpoint; without one, "bounds"."""
    raw_state: tuple[str, ...] | None = None
    """State dimensions that will pass unchanged. None: as in the checkpoint, or none."""
    raw_actions: tuple[str, ...] | None = None
    """Action dimensions that will pass unchanged. None: as in the checkpoint, or none."""
    delta_actions: tuple[str, ...] | None = None
    """Action dimensions that will be relative to the state. None: as in the checkpoint, or none."""
    horizon: int | None = None
    """Timesteps of an action chunk. None: as in the checkpoint; without one, 50."""
    frames: int = 64
    """How many frames' pictures of each camera to look at."""
    json: bool = False
    """Print JSON for programs."""


def main(arguments: Sequence[str]) -> int:
    """Run the command: exit code 1 when it finds an error, else 0."""
    args = parse(Doctor, "doctor", arguments)
    if args.frames < 1:
        raise ValueError(f"frames is {args.frames}, must be at least 1")
    from pizero.data.dataset import open_dataset
    from pizero.data.doctor import examine, make_plan
    from pizero.data.doctor_clock import read_timestamps

    dataset = open_dataset(args.dataset)
    trained = None if args.checkpoint is None else _trained(args.checkpoint)
    plan = _asked(make_plan(dataset, trained), args)
    findings = examine(dataset, plan, trained, args.frames, read_timestamps(args.dataset))
    dataset.close()
    if args.json:
        print(json.dumps(_to_json(dataset, plan, args, findings)))
    else:
        _print(dataset, plan, args, findings)
    return 1 if any(finding.level == "error" for finding in findings) else 0


def _trained(checkpoint: Path) -> "Trained":
    from pizero.data.doctor import Trained
    from pizero.weights.checkpoint import load_configs

    transform = load_configs(checkpoint)[1]
    return Trained(transform.config, transform.stats, transform.tokenizer)


def _asked(plan: "TransformConfig", args: Doctor) -> "TransformConfig":
    return replace(
        plan,
        normalization=plan.normalization if args.normalization is None else args.normalization,
        raw_state=plan.raw_state if args.raw_state is None else args.raw_state,
        raw_actions=plan.raw_actions if args.raw_actions is None else args.raw_actions,
        delta_actions=plan.delta_actions if args.delta_actions is None else args.delta_actions,
        horizon=plan.horizon if args.horizon is None else args.horizon,
    )


def _to_json(dataset: "Dataset", plan: "TransformConfig", args: Doctor, findings: Sequence["Finding"]) -> dict:
    return {
        "dataset": str(args.dataset),
        "checkpoint": None if args.checkpoint is None else str(args.checkpoint),
        "robot": dataset.embodiment.name,
        "episodes": len(dataset.episodes),
        "frames": dataset.num_frames,
        "rate_hz": dataset.rate_hz,
        "normalization": plan.normalization,
        "raw_state": list(plan.raw_state),
        "raw_actions": list(plan.raw_actions),
        "delta_actions": list(plan.delta_actions),
        "horizon": plan.horizon,
        "findings": [finding.to_json() for finding in findings],
        "dimensions": {
            what: [
                {"name": name, "flags": _flags(findings, what, name)}
                | {key: column[i] for key, column in stats.to_json().items() if key != "count"}
                for i, name in enumerate(names)
            ]
            for what, names, stats in _groups(dataset)
        },
    }


def _print(dataset: "Dataset", plan: "TransformConfig", args: Doctor, findings: Sequence["Finding"]) -> None:
    from pizero.command.card import rate
    from pizero.data.doctor_finding import LEVELS

    robot = dataset.embodiment
    print(f"{args.dataset}: {robot.name}, {rate(robot)}, {len(dataset.episodes)} episodes, ", end="")
    print(f"{dataset.num_frames} frames, {len(robot.cameras)} cameras, {len(dataset.prompts)} prompts")
    beside = "" if args.checkpoint is None else f"; beside the checkpoint {args.checkpoint}"
    raw = f", but for {', '.join(names)}" if (names := (*plan.raw_state, *plan.raw_actions)) else ""
    print(f"scaled with its own statistics as {plan.normalization}{raw}; chunks of {plan.horizon}{beside}")
    for what, names, stats in _groups(dataset):
        _print_table(what, names, stats, findings)
    for level in LEVELS:
        some = [finding for finding in findings if finding.level == level]
        print(f"\n{len(some)} {level}{'' if len(some) == 1 else 's'}")
        for finding in some:
            _print_wrapped(f"  {finding.topic:{INDENT - 2}}", finding.text)
            _print_wrapped(" " * INDENT + "-> ", finding.advice)


def _print_table(what: str, names: Sequence[str], stats: "Stats", findings: Sequence["Finding"]) -> None:
    print(f"\n{what:32}{'min':>10}{'1 %':>10}{'mean':>10}{'99 %':>10}{'max':>10}")
    columns = (stats.min, stats.q01, stats.mean, stats.q99, stats.max)
    for i, name in enumerate(names):
        numbers = "".join(f"{column[i]:10.4g}" for column in columns if column is not None)
        print(f"  {name:30}{numbers}  {', '.join(_flags(findings, what, name))}".rstrip())


def _print_wrapped(first: str, text: str) -> None:
    print(textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=" " * len(first), break_on_hyphens=False))


def _flags(findings: Sequence["Finding"], what: str, name: str) -> list[str]:
    """The topics of what was found about a dimension, each once."""
    return list(dict.fromkeys(finding.topic for finding in findings if f"{what} {name}" in finding.dims))


def _groups(dataset: "Dataset") -> list[tuple[str, tuple[str, ...], "Stats"]]:
    from pizero.data.stats import Stats

    robot = dataset.embodiment
    pairs = (("state", robot.state, dataset.state), ("action", robot.actions, dataset.actions))
    return [(what, names, Stats.of(values)) for what, names, values in pairs]
