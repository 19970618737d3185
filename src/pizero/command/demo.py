"""`pizero demo`: demonstrations, training and closed-loop evaluation of a small pi0, with a report at the end."""

import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pizero.command.parse import num_workers, parse
from pizero.command.table import print_rows
from pizero.data.lerobot import LeRobotDataset
from pizero.data.stats import compute_stats
from pizero.frame import save_frame
from pizero.model.pi0 import Pi0
from pizero.model.summary import summarise
from pizero.policy.pi0_policy import MeanActionPolicy, Pi0Policy
from pizero.progress import Report
from pizero.progress import stage as progress_stage
from pizero.sim.collect import collect
from pizero.sim.env import find_task
from pizero.sim.outcome import EpisodeResult
from pizero.sim.plot import Curve, Plot
from pizero.sim.report import RESULT_FILE, write_report
from pizero.sim.result import Command, Film, ReportData, Stage, task_rows
from pizero.sim.rollout import ChunkPolicy, evaluate
from pizero.train.config import TrainConfig
from pizero.train.log import METRICS, Progress
from pizero.train.loop import train
from pizero.train.preset import demo as demo_preset
from pizero.weights.checkpoint import Checkpoint, load_checkpoint

OTHER_TASK = {
    "metaworld/faucet-open": "metaworld/faucet-close",
    "metaworld/faucet-close": "metaworld/faucet-open",
    "metaworld/window-open": "metaworld/window-close",
    "metaworld/window-close": "metaworld/window-open",
}
"""Two tasks on one object: told the other one, a policy that listens does not solve the scene's own."""
NOISE = 0.6
"""Of the expert's actions while it is recorded (see `pizero collect`)."""
UNTRAINED_SEED = 1
"""Of the weights of the untrained baseline."""


@dataclass(frozen=True)
class Demo:
    """Record demonstrations, train a small pi0 on them, and let it act, on the CPU, in a quarter of an hour."""

    output: Path = Path("runs/demo")
    """Folder of everything that the demo makes; the one of an earlier demo is replaced when this one is done."""
    tasks: tuple[str, ...] = (
        "metaworld/window-open",
        "metaworld/window-close",
        "metaworld/button-press-topdown",
        "metaworld/handle-press-side",
    )
    """Tasks of the one policy; `pizero show tasks` lists them all."""
    demonstrations: int = 80
    """Demonstrations per task."""
    train_seconds: float = 480.0
    """Time to train; the learning rate falls to its end in it."""
    episodes: int = 30
    """Evaluation episodes per task, for the policy and each baseline, from initial states that no demonstration has."""
    seed: int = 0
    """Of everything."""
    workers: int = 0
    """Simulator processes. 0: one per core."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit code."""
    args = parse(Demo, "demo", arguments)
    for task in args.tasks:
        find_task(task)
    if args.output.exists() and not (args.output / RESULT_FILE).is_file():
        raise ValueError(f"{args.output} exists and is not the folder of an earlier demo; choose another --output")
    part = args.output.with_name(args.output.name + ".part")
    if part.exists():  # left by a demo that was stopped
        shutil.rmtree(part)
    part.mkdir(parents=True)
    run_demo(args, part)
    if args.output.exists():
        shutil.rmtree(args.output)
    os.replace(part, args.output)
    print(f"\nreport: {args.output / 'report.html'}")
    return 0


def run_demo(args: Demo, folder: Path) -> None:
    """Everything, into `folder`; prints the success table last."""
    clock = Clock()
    config = replace(
        demo_preset(),
        data=replace(demo_preset().data, root=folder / "dataset"),
        output=folder / "train",
        max_seconds=args.train_seconds,
        seed=args.seed,
    )
    with clock.stage("collect demonstrations", "episodes") as report:
        workers = num_workers(args.workers)
        recorded = collect(args.tasks, folder / "dataset", args.demonstrations, args.seed, workers, NOISE, report)
    with clock.stage("train", "steps") as report:
        result = train(config, lambda p: report(p.metrics.step, p.metrics.step / max(p.fraction, 1e-9), _note(p)))
    if result.exit_code:
        raise KeyboardInterrupt
    checkpoint = folder / "checkpoint"
    shutil.copytree(result.checkpoint, checkpoint, ignore=shutil.ignore_patterns("train_state", "train.json"))

    policies = make_policies(checkpoint, folder / "dataset", config)
    results = {
        name: play(args, clock, name, policy, folder / "videos" if name == "trained" else None)
        for name, policy in policies.items()
    }
    swapped = {task: OTHER_TASK[task] for task in args.tasks if OTHER_TASK.get(task) in args.tasks}
    if swapped:
        results["told the other task"] = play(args, clock, "told otherwise", policies["trained"], None, swapped)
    rows = task_rows(results["trained"], {name: r for name, r in results.items() if name != "trained"})
    with clock.stage("write the report", "files"):
        save_frame(folder / "frame.npz", LeRobotDataset(folder / "dataset").frame(0))
        data = ReportData(
            title="A small pi0, trained from scratch on this machine",
            summary=(
                f"One policy for {len(args.tasks)} tasks, from {sum(t.kept for t in recorded.tasks)} demonstrations "
                f"of a scripted expert ({sum(t.frames for t in recorded.tasks):,} frames). It sees one camera picture, "
                "four numbers of the robot's own state and the instruction, and plans chunks of actions."
            ),
            policy_name="trained",
            rows=rows,
            plots=(loss_plot(folder / "train" / METRICS),),
            strips=make_strips(results["trained"]),
            videos=tuple(
                Film(r.video, f"{find_task(r.task).prompt}: {'solved' if r.success else 'not solved'}, {r.steps} steps")
                for r in results["trained"]
                if r.video
            ),
            commands=next_commands(args),
            settings={
                "parameters": f"{sum(part.num_parameters for part in summarise(config.model)):,}",
                "optimiser steps": f"{result.step:,} of {config.batch_size} observations",
                "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
                "seed": str(args.seed),
            },
            stages=tuple(clock.stages),
        )
    write_report(folder / "report.html", data)
    print_rows(rows, "trained")


class Clock:
    """Runs stages one after the other and remembers how long each took."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []

    @contextmanager
    def stage(self, name: str, unit: str) -> Iterator[Report]:
        """A progress bar for one stage, kept with its time when it ends."""
        started = time.monotonic()
        with progress_stage(name, unit) as report:
            yield report
        self.stages.append(Stage(name, time.monotonic() - started))


def make_policies(checkpoint: Path, dataset: Path, config: TrainConfig) -> dict[str, ChunkPolicy]:
    """The trained policy and the baselines: the same network untrained, and the mean action of the demonstrations."""
    trained = load_checkpoint(checkpoint)
    fresh = Pi0(config.model).init_weights(torch.Generator().manual_seed(UNTRAINED_SEED)).eval()
    mean = compute_stats(LeRobotDataset(dataset)).actions.mean
    return {
        "trained": Pi0Policy(trained),
        "untrained": Pi0Policy(Checkpoint(fresh, trained.transform)),
        "mean action": MeanActionPolicy(trained.transform.config.embodiment, mean, config.model.horizon),
    }


def play(
    args: Demo,
    clock: Clock,
    name: str,
    policy: ChunkPolicy,
    videos: Path | None,
    prompt_of: Mapping[str, str] | None = None,
) -> list[EpisodeResult]:
    """Results of one policy in the evaluation episodes; only of the tasks in `prompt_of` where it is given."""
    tasks = args.tasks if prompt_of is None else tuple(prompt_of)
    with clock.stage(f"evaluate {name}", "episodes") as report:
        return evaluate(
            policy,
            tasks,
            args.episodes,
            execute_steps=5,
            seed=args.seed,
            workers=2 * num_workers(args.workers),
            prompt_of=prompt_of,
            video_dir=videos,
            progress=report,
        )


def loss_plot(metrics: Path) -> Plot:
    """The training loss over the steps."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    curve = Curve("training loss", [line["step"] for line in lines], [line["loss"] for line in lines])
    return Plot("Flow matching loss", "optimiser step", (curve,), log_y=True)


def make_strips(results: Sequence[EpisodeResult]) -> tuple[Film, ...]:
    """One row of stills per task, of its first film (the rollout leaves one beside each)."""
    first = {r.task: r for r in reversed(results) if r.video}
    return tuple(
        Film(r.video.with_suffix(".png"), f"{find_task(task).prompt} ({'solved' if r.success else 'not solved'})")
        for task, r in reversed(first.items())
        if r.video
    )


def next_commands(args: Demo) -> tuple[Command, ...]:
    """What a reader may want to type after the demo."""
    checkpoint, dataset = args.output / "checkpoint", args.output / "dataset"
    return (
        Command(f"pizero show {checkpoint}", "What the policy expects and how large it is."),
        Command(
            f"pizero eval {checkpoint} --task {args.tasks[0]} --episodes 50 --seed 1",
            "Fifty other episodes of one task.",
        ),
        Command(f"pizero act {checkpoint} --frame {args.output / 'frame.npz'}", "The action chunk for one frame."),
        Command(
            f"pizero train demo --data.root {dataset} --max-seconds 1800 --output runs/longer", "Train for longer."
        ),
        Command(
            "pizero collect metaworld/drawer-open metaworld/door-open --root runs/doors --episodes 80",
            "Demonstrations of other tasks; `pizero show tasks` lists all fifty.",
        ),
        Command(f"tensorboard --logdir {args.output / 'train' / 'tensorboard'}", "The curves of the training run."),
    )


def _note(progress: Progress) -> str:
    metrics = progress.metrics
    return f"loss {metrics.loss:.3f}, {metrics.samples_per_s:.0f} samples/s"
