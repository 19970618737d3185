"""`pizero eval`: success of a policy in closed loop."""

import json
import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from pizero.command.evaluation import evaluation_report
from pizero.command.parse import num_workers, parse
from pizero.command.policy import OpenPolicy, is_address, open_policy
from pizero.command.table import print_comparison, print_rows
from pizero.progress import stage
from pizero.sim.assets import use_assets
from pizero.sim.batching import FewSizes, Timed
from pizero.sim.compare import compare_runs
from pizero.sim.env import expand_tasks, find_task
from pizero.sim.journal import FILMS, Journal, read_episodes, read_settings
from pizero.sim.outcome import EpisodeResult
from pizero.sim.report import result_json, write_report
from pizero.sim.result import Throughput
from pizero.sim.rollout import evaluate


@dataclass(frozen=True)
class Evaluate:
    """Let a policy act in a simulator, count successes, film some episodes, and write a report.

    The same command again goes on where it was stopped.
    """

    policy: Positional[str]
    """Folder of a checkpoint, or ws://HOST:PORT, where `pizero serve` or openpi's server runs one."""
    task: tuple[str, ...]
    """Names of tasks, or of suites ("simpler", "libero-object"); `pizero show tasks` lists them."""
    output: Path | None = None
    """Folder for report.html, result.json, the finished episodes and films. None: eval-<checkpoint's name> beside the
    checkpoint."""
    overwrite: bool = False
    """Start anew in a folder that holds another evaluation, or a part of this one."""
    episodes: int = 25
    """Episodes per task, from initial states that no demonstration has."""
    seed: int = 0
    """Of drawn initial states and of the policy's noise; the same seed gives the same outcomes."""
    states: Literal["benchmark", "drawn"] = "benchmark"
    """Initial states: those that a task's benchmark prescribes, in turn (drawn where it prescribes none), or drawn."""
    execute_steps: int = 5
    """Actions of a chunk that are executed before the policy plans anew."""
    robot: str | None = None
    """Name of the robot: of a checkpoint that was trained on several (None: the first), or of a server that does not
    tell it (openpi's)."""
    num_steps: int | None = None
    """Euler steps per chunk. None: 10, or what the server does."""
    instruction: str | None = None
    """Name of a task whose instruction is given in place of each task's own, as a control."""
    videos: int = 2
    """Episodes per task that are filmed."""
    failures: int = 0
    """Failed episodes per task that are played once more to be filmed, beside those."""
    against: Path | None = None
    """Folder of another evaluation; both are compared on the episodes that they have in common."""
    workers: int = 0
    """Simulator processes. 0: one per core."""
    patience: float = 300.0
    """Seconds after which a simulator that does not answer is killed and started again."""
    assets: Path | None = None
    """Folder of the simulators' files. None: PIZERO_ASSETS, or where each simulator keeps them."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1" ...; "auto" is cuda where there is one."""
    compile: bool = True
    """On CUDA, compile the policy; a small one starts faster without."""
    json: bool = False
    """Print the result as JSON for programs."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit code."""
    args = parse(Evaluate, "eval", arguments)
    tasks = expand_tasks(args.task)
    if args.instruction:
        find_task(args.instruction)
    if args.assets:
        use_assets(args.assets)
    if args.against:  # before hours of playing, not after
        read_settings(args.against)
        read_episodes(args.against)
    output = args.output or _default_output(args.policy)
    with open_policy(args.policy, args.device, args.num_steps, args.robot, args.compile) as opened:
        if not 1 <= args.execute_steps <= opened.horizon:
            raise ValueError(f"execute_steps is {args.execute_steps}, but the policy plans {opened.horizon} steps")
        settings = _settings(args, tasks, opened)
        results, throughput = _play(args, tasks, opened, Journal(output, settings, args.overwrite))
    comparison = compare_runs(output, args.against) if args.against else None
    made_by = shlex.join(["pizero", "eval", *arguments])
    data = evaluation_report(f"Evaluation of {opened.name}", results, settings, throughput, comparison, made_by)
    write_report(output / "report.html", data)
    if args.json:
        print(json.dumps(result_json(data)))
        return 0
    print_rows(data.rows, data.policy_name)
    if comparison:
        print_comparison(comparison)
    for error in data.errors:
        print(f"error in {error}", file=sys.stderr)
    print(f"wrote {output / 'report.html'}")
    return 0


def _play(
    args: Evaluate, tasks: Sequence[str], opened: OpenPolicy, journal: Journal
) -> tuple[list[EpisodeResult], Throughput | None]:
    """All results, and how fast those came that were played now; None when none was."""
    workers, total = num_workers(args.workers), len(tasks) * args.episodes
    if journal.earlier:
        print(f"{len(journal.earlier)} of {total} episodes were played before", file=sys.stderr)
    policy = Timed(FewSizes(opened.policy, workers) if opened.captures else opened.policy)
    started = time.monotonic()
    with stage("evaluate", "episodes") as report:
        results = evaluate(
            policy,
            tasks,
            args.episodes,
            args.execute_steps,
            args.seed,
            workers,
            args.states,
            prompt_of=dict.fromkeys(tasks, args.instruction) if args.instruction else None,
            video_dir=journal.folder / FILMS if args.videos or args.failures else None,
            videos_per_task=args.videos,
            failures_per_task=args.failures,
            earlier=journal.earlier,
            finished=journal.add,
            patience_s=args.patience,
            progress=report,
        )
    played = total - len(journal.earlier)
    seconds = time.monotonic() - started
    return results, Throughput(played, seconds, policy.seconds, workers) if played else None


def _default_output(policy: str) -> Path:
    if is_address(policy):
        return Path("eval-" + re.sub(r"\W+", "-", policy.split("//")[1]).strip("-"))
    return Path(policy).parent / f"eval-{Path(policy).name}"


def _settings(args: Evaluate, tasks: Sequence[str], opened: OpenPolicy) -> dict[str, Any]:
    """What the episodes depend on; the same for a run that goes on."""
    return {
        "policy": opened.name,
        **opened.identity,
        "robot": opened.policy.embodiment.name,
        "tasks": list(tasks),
        "episodes": args.episodes,
        "seed": args.seed,
        "states": args.states,
        "execute_steps": args.execute_steps,
        "instruction": args.instruction,
        "videos": args.videos,
        "failures": args.failures,
    }
