"""Which episodes an evaluation plays, and which worker plays which."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pizero.sim.env import Task, eval_seed
from pizero.sim.outcome import EpisodeResult

MAX_EPISODES = 10_000
"""Episodes per task of one evaluation; evaluations with different seeds share no episode."""

States = Literal["benchmark", "drawn"]
"""Where initial states come from: "benchmark": those that a task prescribes, one after the other and then again from
the first (a task that prescribes none draws); "drawn": a seed draws each."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One episode to play."""

    task: str
    """Name of the task."""
    episode: int
    """Its number among those of the task."""
    seed: int
    """For the environment and the policy's noise."""
    state: int | None
    """Number of the benchmark's initial state; None: the seed draws one."""
    execute_steps: int
    """Actions of a chunk that are executed before the policy plans anew."""
    max_steps: int
    """Control steps after which the episode ends."""
    prompt: str
    """The instruction to give."""
    film: Path | None = None
    """Where to film it: a path without the outcome and the ending, which are added; None: not filmed."""
    attempt: int = 1
    """How often it has been started, this time included."""

    def failed(self, error: str, seconds: float = 0.0) -> EpisodeResult:
        """Its result when the simulator crashed."""
        return EpisodeResult(
            task=self.task,
            episode=self.episode,
            seed=self.seed,
            state=self.state,
            success=False,
            steps=0,
            error=error,
            seconds=seconds,
            attempts=self.attempt,
        )


def make_jobs(
    tasks: Sequence[Task],
    episodes: int,
    execute_steps: int,
    seed: int = 0,
    states: States = "benchmark",
    max_steps: int | None = None,
    prompts: Mapping[str, str] | None = None,
) -> list[Job]:
    """`episodes` jobs for each task, by task and then by episode.

    prompts: task's name -> instruction that is given instead of its own. Raises ValueError for numbers out of range and
    for a task that is named twice.
    """
    if not 1 <= episodes <= MAX_EPISODES:
        raise ValueError(f"episodes is {episodes}, must be in 1 ... {MAX_EPISODES}")
    if execute_steps < 1:
        raise ValueError(f"execute_steps is {execute_steps}, must be at least 1")
    for task in tasks:
        if max_steps is not None and not 1 <= max_steps <= task.max_steps:
            raise ValueError(f"max_steps is {max_steps}, must be in 1 ... {task.max_steps} for {task.name}")
    if twice := [name for name, count in Counter(task.name for task in tasks).items() if count > 1]:
        raise ValueError(f"a task is named twice: {', '.join(twice)}")
    return [
        Job(
            task=task.name,
            episode=index,
            seed=eval_seed(seed * MAX_EPISODES + index),
            state=index % task.num_states if states == "benchmark" and task.num_states else None,
            execute_steps=execute_steps,
            max_steps=max_steps or task.max_steps,
            prompt=(prompts or {}).get(task.name, task.prompt),
        )
        for task in tasks
        for index in range(episodes)
    ]


class Schedule:
    """Who plays which job. A worker keeps its task while that has jobs, since building an environment takes long.

    What it gives depends on the jobs and on the order of the questions alone.
    """

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._todo: dict[str, deque[Job]] = {}
        for job in jobs:
            self._todo.setdefault(job.task, deque()).append(job)
        self._task_of: dict[int, str] = {}

    def next(self, worker: int) -> Job | None:
        """The worker's next job; None when all are given out."""
        waiting = {task: len(jobs) for task, jobs in self._todo.items() if jobs}
        if not waiting:
            return None
        task = self._task_of.get(worker)
        if task not in waiting:
            busy = Counter(other for each, other in self._task_of.items() if each != worker)
            task = max(waiting, key=lambda name: waiting[name] / (busy[name] + 1))  # the first of equals
            self._task_of[worker] = task
        return self._todo[task].popleft()
