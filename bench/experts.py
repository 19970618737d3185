"""How often the scripted experts solve their tasks, and how long they take; nothing is rendered.

    python bench/experts.py simpler libero-object --episodes 50 --workers 2
    python bench/experts.py simpler --states benchmark --episodes 24
    python bench/experts.py libero-spatial --noise 0.5 --disturbances 0.3     # as `pizero collect` perturbs them

Each episode is played to its end by the task's own rules (`Step.done`), and is solved if its last state is. Initial
states are those of training episodes (drawn), or the benchmark's own. Steps are those until the expert was done in the
solved episodes; seconds are of one process, and grow when there are more workers than cores. Prints a table and one
JSON line last.
"""

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from machine import about

from pizero.progress import stage
from pizero.sim.assets import use_assets
from pizero.sim.env import Env, eval_seed, expand_tasks, find_task, make_env, train_seed
from pizero.sim.interval import wilson
from pizero.sim.perturb import Perturbation
from pizero.sim.workers import Died, Workers


@dataclass(frozen=True)
class Job:
    """Some episodes of one task."""

    task: str
    seed: int
    state: int | None
    noise: float
    disturbances: float


@dataclass(frozen=True)
class Played:
    """One episode of an expert."""

    success: bool
    steps: int
    steps_until_done: int | None
    """Steps until the expert had nothing left to do; None: it always had."""
    seconds: float
    disturbance: str


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="+", help="names of tasks, or of groups such as libero-object")
    parser.add_argument("--episodes", type=int, default=50, help="of each task")
    parser.add_argument("--states", choices=("drawn", "benchmark"), default="drawn")
    parser.add_argument("--noise", type=float, default=0.0, help="largest deviation, as `pizero collect --noise`")
    parser.add_argument("--disturbances", type=float, default=0.0, help="chance for each episode")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--assets", type=Path)
    args = parser.parse_args()
    if args.assets:
        use_assets(args.assets)
    jobs = [job for task in expand_tasks(args.tasks) for job in episodes_of(task, args)]
    started = time.perf_counter()
    results = play_all(jobs, args.workers)
    rows = [row(task, played) for task, played in results.items()]
    print_table(rows)
    line = {"benchmark": "experts", "rows": rows, "states": args.states, "noise": args.noise}
    line |= {"disturbances": args.disturbances, "workers": args.workers, "seconds": time.perf_counter() - started}
    print(json.dumps(line | about()))
    return 0


def episodes_of(task: str, args: argparse.Namespace) -> list[Job]:
    """The episodes to play: drawn as training episodes are, or prescribed, each in turn."""
    num_states = find_task(task).num_states
    if args.states == "drawn":
        starts = [(train_seed(i), None) for i in range(args.episodes)]
    elif num_states:
        starts = [(eval_seed(i), i % num_states) for i in range(args.episodes)]
    else:
        raise ValueError(f"{task} has no prescribed initial states; --states drawn")
    return [Job(task, seed, state, args.noise, args.disturbances) for seed, state in starts]


def play_all(jobs: list[Job], workers: int) -> dict[str, list[Played | str]]:
    """By task, what became of its episodes; a text where the simulator crashed. Workers stay with their task."""
    todo: dict[str, list[Job]] = defaultdict(list)
    for job in reversed(jobs):
        todo[job.task].append(job)
    results: dict[str, list[Played | str]] = {job.task: [] for job in jobs}
    current: dict[int, Job] = {}
    with Workers(min(workers, len(jobs)), serve) as pool, stage("experts", "episodes") as report:

        def feed(worker: int, last: str | None) -> None:
            waiting = [task for task in todo if todo[task]]
            if waiting:
                task = last if last in waiting else max(waiting, key=lambda name: len(todo[name]))
                current[worker] = todo[task].pop()
                pool.send(worker, current[worker])

        for worker, task in zip(range(min(workers, len(jobs))), list(todo) * workers, strict=False):
            feed(worker, task)
        while current:
            for worker, answer in pool.next_answers():
                job = current.pop(worker)
                results[job.task].append(answer.reason if isinstance(answer, Died) else answer)
                feed(worker, job.task)
                done = sum(map(len, results.values()))
                solved = sum(isinstance(each, Played) and each.success for each in results[job.task])
                report(done, len(jobs), f"{job.task}: {solved} of {len(results[job.task])}")
    return results


def serve(pipe: Connection) -> None:
    """In a worker: plays what it is sent."""
    env: Env | None = None
    while True:
        try:
            job: Job = pipe.recv()
        except EOFError:
            return
        try:
            if env is None or env.task.name != job.task:
                if env is not None:
                    env.close()
                    env = None
                env = make_env(job.task)
            pipe.send(play(env, job))
        except Exception as error:  # counted, and shown in the table
            pipe.send(f"{type(error).__name__}: {error}")


def play(env: Env, job: Job) -> Played:
    """One episode, perturbed until the expert is done."""
    started = time.perf_counter()
    env.reset(job.seed, job.state)
    perturbation = Perturbation(
        env.embodiment, env.noise_scale, env.task.max_steps, job.seed, job.noise, job.disturbances
    )
    steps, until_done = 0, None
    while True:
        action = env.expert_action()
        step = env.step(perturbation.executed(action) if until_done is None else action)
        steps += 1
        if until_done is None and env.expert_done():
            until_done = steps
        if step.done:
            seconds = time.perf_counter() - started
            return Played(step.success, steps, until_done, seconds, perturbation.disturbance)


def row(task: str, results: list[Played | str]) -> dict[str, object]:
    """One line of the table."""
    played = [result for result in results if isinstance(result, Played)]
    errors = [result for result in results if isinstance(result, str)]
    solved = [result for result in played if result.success]
    steps = [result.steps_until_done or result.steps for result in solved]
    seconds = [result.seconds for result in played]
    return {
        "task": task,
        "solved": len(solved),
        "episodes": len(played),
        "interval": wilson(len(solved), len(played)) if played else None,
        "median_steps": statistics.median(steps) if steps else None,
        "largest_steps": max(steps) if steps else None,
        "max_steps": find_task(task).max_steps,
        "seconds_per_episode": statistics.mean(seconds) if seconds else None,
        "ms_per_step": 1e3 * sum(seconds) / sum(result.steps for result in played) if played else None,
        "disturbed": sum(result.disturbance != "none" for result in played),
        "errors": errors,
    }


def print_table(rows: list[dict[str, object]]) -> None:
    """For people."""
    print(
        f"{'task':30} {'solved':>9} {'95 %':>12} {'steps':>11} {'of':>4} {'s/episode':>9} {'ms/step':>8} {'errors':>6}"
    )
    for each in rows:
        low, high = each["interval"] or (float("nan"), float("nan"))
        steps = f"{each['median_steps'] or 0:.0f}, {each['largest_steps'] or 0}"
        solved = f"{each['solved']}/{each['episodes']}"
        print(
            f"{each['task']:30} {solved:>9} {100 * low:4.0f} - {100 * high:3.0f}% {steps:>11} {each['max_steps']:>4} "
            f"{each['seconds_per_episode'] or 0:9.2f} {each['ms_per_step'] or 0:8.1f} {len(each['errors']):>6}"
        )
        for error in sorted(set(each["errors"])):
            print(f"    {error}")


if __name__ == "__main__":
    sys.exit(main())
