"""Demonstrations of a scripted expert, as a data set.

The robot executes the expert's action, perturbed (`pizero.sim.perturb`); recorded is what the expert would have done.
Episodes that the expert does not solve are left out and counted. Workers own the simulators and write each attempt,
its pictures encoded, to a folder of its own; when there are enough, they are joined to one data set. So a collection
that was killed goes on where it was.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pizero import __version__
from pizero.sim import env as env_module
from pizero.sim.attempt import AttemptFolder, Attempts, Outcome
from pizero.sim.env import Env, train_seed
from pizero.sim.record import Job, server
from pizero.sim.workers import Died, Workers

MAX_ATTEMPTS = 100_000
"""Episodes tried per task and `seed`; collections with different seeds share no episode."""
TRIES_PER_EPISODE = 5
"""When this many attempts per wanted episode do not suffice, the expert cannot do the task under that noise."""
PATIENCE_S = 1800.0
"""How long an attempt may take, the making of its environment included. The longest takes minutes where a busy
processor renders."""
ABOUT = "meta/collection.json"
"""File of the data set that says how it was made."""

Progress = Callable[[int, int, str], None]
"""Called with (done, total, note)."""


@dataclass(frozen=True)
class TaskResult:
    """What was recorded of one task."""

    task: str
    """Name of the task."""
    kept: int
    """Episodes in the data set."""
    failed: int
    """Episodes that the expert did not solve, left out."""
    frames: int
    """Frames in the data set."""


@dataclass(frozen=True)
class CollectResult:
    """What a collection wrote."""

    root: Path
    """The data set's folder."""
    tasks: tuple[TaskResult, ...]
    """One entry per task, in order."""


def collect(
    tasks: Sequence[str],
    root: Path,
    episodes: int,
    seed: int = 0,
    workers: int = 2,
    noise: float = 0.8,
    progress: Progress | None = None,
    make_env: Callable[[str], Env] = env_module.make_env,
    disturbances: float = 0.0,
    overwrite: bool = False,
) -> CollectResult:
    """Write `episodes` solved episodes of each task to a LeRobot data set at `root`.

    noise: largest deviation of the noise in an episode, in the environment's noise scale; 0 records the pure expert.
    Each episode draws its own deviation between 0 and this. Gripper actions stay clean.
    make_env: another simulator (a function of a module, since workers import it).
    disturbances: chance, for each episode, that the robot is pushed off or made to let go once (`pizero.sim.perturb`).
    The episode's `extra` says its task, seed, noise and disturbance.
    overwrite: replace the data set at `root`, once the new one is complete, and start anew if one was left unfinished.

    Episodes and their order depend on (tasks, episodes, seed, noise, disturbances) alone. Until the data set is
    complete, attempts are in `root`.part: the same call goes on with them, also with other tasks or another number of
    episodes. Raises ValueError for arguments that do not fit, attempts with other settings there, or a task that the
    expert cannot do under that noise, RuntimeError when a simulator crashes.
    """
    _check(tasks, root, episodes, workers, noise, disturbances, overwrite)
    settings = {"seed": seed, "noise": float(noise), "disturbances": float(disturbances), "pizero": __version__}
    folder = AttemptFolder(root.with_name(root.name + ".part"), settings, overwrite)
    attempts = {task: Attempts(episodes, folder.made(task)) for task in tasks}
    try:
        _Collection(folder, attempts, settings, episodes, progress).run(workers, make_env)
    finally:
        folder.remove_if_empty()
    result = CollectResult(
        root, tuple(TaskResult(task, len(a.solved), a.num_failed, a.num_frames) for task, a in attempts.items())
    )
    _join(folder, attempts, root, {"settings": settings, "episodes": episodes, "failed": _failed(attempts)})
    return result


def _check(
    tasks: Sequence[str], root: Path, episodes: int, workers: int, noise: float, disturbances: float, overwrite: bool
) -> None:
    if episodes < 1 or not tasks:
        raise ValueError(f"{episodes} episodes of {len(tasks)} tasks are nothing to collect")
    if len(set(tasks)) != len(tasks):
        raise ValueError(f"a task is named twice: {', '.join(tasks)}")
    if workers < 1:
        raise ValueError(f"workers is {workers}, must be at least 1")
    if not 0 <= noise < float("inf"):
        raise ValueError(f"noise is {noise}, must be 0 or more")
    if not 0 <= disturbances <= 1:
        raise ValueError(f"disturbances is {disturbances}, must be a chance, from 0 to 1")
    if root.exists() and not overwrite:
        raise ValueError(f"{root} exists already; choose another folder, or --overwrite to replace it")
    if root.exists() and not (root / "meta/info.json").is_file():
        raise ValueError(f"{root} is no data set, and is not replaced; choose another folder")


class _Collection:
    """Gives workers attempts to make until every task has its episodes.

    A worker stays with its task while there are attempts to make, since an environment takes seconds to build.
    """

    def __init__(
        self,
        folder: AttemptFolder,
        attempts: Mapping[str, Attempts],
        settings: Mapping[str, Any],
        episodes: int,
        progress: Progress | None,
    ) -> None:
        self._folder, self._attempts, self._settings = folder, attempts, settings
        self._episodes, self._progress = episodes, progress
        self._current: dict[int, Job] = {}
        self._task_of: dict[int, str] = {}
        self._died: set[tuple[str, int]] = set()

    def run(self, workers: int, make_env: Callable[[str], Env]) -> None:
        """Makes the attempts. Raises what `collect` says."""
        for task in self._attempts:
            self._check_task(task)
        num_todo = sum(len(attempts.todo) for attempts in self._attempts.values())
        if not num_todo:
            return
        with Workers(min(workers, num_todo), server(make_env)) as pool:
            for worker in range(min(workers, num_todo)):
                self._feed(pool, worker)
            while self._current:
                for worker, answer in pool.next_answers(PATIENCE_S):
                    self._take(self._current.pop(worker), answer)
                    self._feed(pool, worker)

    def _feed(self, pool: Workers, worker: int) -> None:
        task = self._next_task(worker)
        if task is None:
            return
        attempt = self._attempts[task].todo.popleft()
        seed, noise, disturbances = (self._settings[key] for key in ("seed", "noise", "disturbances"))
        job_seed = train_seed(seed * MAX_ATTEMPTS + attempt)
        job = Job(task, attempt, job_seed, noise, disturbances, self._folder.place(task, attempt))
        self._current[worker], self._task_of[worker] = job, task
        pool.send(worker, job)

    def _next_task(self, worker: int) -> str | None:
        """The worker's own task, else the one with the most attempts to make for each worker that has it."""
        own = self._task_of.get(worker)
        if own is not None and self._attempts[own].todo:
            return own
        busy = Counter(job.task for job in self._current.values())
        return max(
            (task for task, attempts in self._attempts.items() if attempts.todo),
            key=lambda task: len(self._attempts[task].todo) / (1 + busy[task]),
            default=None,
        )

    def _take(self, job: Job, answer: Any) -> None:
        key = (job.task, job.attempt)
        match answer:
            case Outcome():
                self._attempts[job.task].add(job.attempt, answer)
                self._check_task(job.task)
                self._report(job.task)
            case Died() if key not in self._died:  # once may be bad luck, such as a lack of memory
                self._died.add(key)
                self._attempts[job.task].todo.appendleft(job.attempt)
            case Died():
                raise RuntimeError(f"{job.task}, seed {job.seed}: {answer.reason}, twice")
            case _:
                raise answer

    def _check_task(self, task: str) -> None:
        attempts = self._attempts[task]
        if attempts.planned > min(TRIES_PER_EPISODE * self._episodes, MAX_ATTEMPTS):
            noise, disturbances = self._settings["noise"], self._settings["disturbances"]
            disturbed = f" and disturbances {disturbances}" if disturbances else ""
            raise ValueError(
                f"the expert of {task} solved fewer than {self._episodes} of {attempts.planned - 1} episodes with "
                f"noise {noise}{disturbed}; lower the noise, or leave the task out"
            )
        robots = {each: next(iter(a.outcomes.values())).robot for each, a in self._attempts.items() if a.outcomes}
        for other, robot in robots.items():
            if task in robots and robot != robots[task]:
                raise ValueError(
                    f"{task} is for the robot {robots[task].name}, {other} for {robot.name}; a data set has one robot: "
                    "collect them apart"
                )

    def _report(self, task: str) -> None:
        if self._progress is not None:
            kept, failed = len(self._attempts[task].solved), self._attempts[task].num_failed
            done = sum(len(attempts.solved) for attempts in self._attempts.values())
            self._progress(done, self._episodes * len(self._attempts), f"{task}: {kept} kept, {failed} left out")


def _failed(attempts: Mapping[str, Attempts]) -> dict[str, int]:
    return {task: each.num_failed for task, each in attempts.items()}


def _join(folder: AttemptFolder, attempts: Mapping[str, Attempts], root: Path, about: Mapping[str, Any]) -> None:
    """Make the data set of all solved attempts, put it to `root`, and remove the attempts."""
    from pizero.data.lerobot_episode import read_episode  # bring pyarrow and PyAV, which workers need not import
    from pizero.data.lerobot_writer import LeRobotWriter

    joined = folder.folder / "dataset"
    if joined.exists():  # of a run that was killed in the next lines
        shutil.rmtree(joined)
    places = [folder.place(task, attempt) for task, each in attempts.items() for attempt in each.solved]
    robot = next(outcome.robot for each in attempts.values() for outcome in each.outcomes.values())
    with LeRobotWriter(joined, robot, read_episode(places[0]).sizes) as writer:
        for place in places:
            writer.add_encoded(read_episode(place))
    (joined / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    if root.exists():
        shutil.rmtree(root)
    os.replace(joined, root)
    shutil.rmtree(folder.folder)
