"""`pizero eval`: success of a policy in closed loop."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from pizero.command.parse import num_workers, parse
from pizero.command.policy import load_policy
from pizero.command.table import print_rows


@dataclass(frozen=True)
class Evaluate:
    """Let a policy act in a simulator, count successes, film some episodes, and write a report."""

    checkpoint: Positional[Path]
    """Folder of a checkpoint."""
    task: tuple[str, ...]
    """Names of tasks; `pizero show tasks` lists them."""
    output: Path | None = None
    """Folder for report.html, result.json and videos. None: <checkpoint>/../eval-<checkpoint's name>."""
    episodes: int = 25
    """Episodes per task, from initial states that no demonstration has."""
    seed: int = 0
    """Of initial states and of the policy's noise; the same seed gives the same outcomes."""
    execute_steps: int = 5
    """Actions of a chunk that are executed before the policy plans anew."""
    robot: str | None = None
    """Name of the robot, of a checkpoint that was trained on several. None: the first."""
    num_steps: int = 10
    """Euler steps per chunk."""
    instruction: str | None = None
    """Name of a task whose instruction is given in place of each task's own, as a control."""
    videos: int = 2
    """Episodes per task that are filmed."""
    workers: int = 0
    """Simulator processes. 0: one per core."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1" ...; "auto" is cuda where there is one."""
    json: bool = False
    """Print the result as JSON for programs."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit code."""
    args = parse(Evaluate, "eval", arguments)
    from pizero.progress import stage
    from pizero.sim.env import find_task
    from pizero.sim.report import Film, ReportData, Stage, result_json, task_rows, write_report
    from pizero.sim.rollout import evaluate as play

    for task in (*args.task, *([args.instruction] if args.instruction else [])):
        find_task(task)
    output = args.output or args.checkpoint.parent / f"eval-{args.checkpoint.name}"
    policy = load_policy(args.checkpoint, args.device, args.num_steps, args.robot)
    started = time.monotonic()
    with stage("evaluate", "episodes") as report:
        results = play(
            policy,
            args.task,
            args.episodes,
            args.execute_steps,
            args.seed,
            num_workers(args.workers),
            prompt_of=dict.fromkeys(args.task, args.instruction) if args.instruction else None,
            video_dir=output / "videos" if args.videos else None,
            videos_per_task=args.videos,
            progress=report,
        )
    films = [
        Film(r.video, f"{r.task}, seed {r.seed}: {'solved' if r.success else 'not solved'}") for r in results if r.video
    ]
    data = ReportData(
        title=f"Evaluation of {args.checkpoint.name}",
        rows=task_rows(results),
        videos=tuple(films),
        stages=(Stage("evaluate", time.monotonic() - started, f"{len(results)} episodes"),),
        settings={
            "checkpoint": str(args.checkpoint),
            "instruction": args.instruction or "each task's own",
            "seed": str(args.seed),
            "execute steps": str(args.execute_steps),
            "Euler steps": str(args.num_steps),
        },
    )
    write_report(output / "report.html", data)
    if args.json:
        print(json.dumps(result_json(data)))
        return 0
    print_rows(data.rows, data.policy_name)
    for failed in (r for r in results if r.error):
        print(f"error in {failed.task}, seed {failed.seed}: {failed.error}", file=sys.stderr)
    print(f"wrote {output / 'report.html'}")
    return 0
