"""Success of a policy, counted in closed loop: workers own the simulators, the policy runs here on what they see.

A policy plans a chunk of actions, `execute_steps` of them are executed, then it plans again. Pictures are rendered only
for planning (and for films). In each round every busy worker answers, with a frame or with the end of its episode, and
the frames make one batch: so batches are large, and what is in them depends on nothing but the arguments.

The outcome of an episode depends on (task, seed, state) and the policy alone: noise of plan k comes from (episode seed,
k). With another number of workers, or when a run goes on that was stopped, the rows meet in other batches; a policy
whose rounding depends on its batch may then differ in the last bit, and once in a while an episode with it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from pizero.embodiment import Embodiment
from pizero.frame import Frame
from pizero.sim import env as env_module
from pizero.sim.env import Env, SimulatorUnavailableError, Task
from pizero.sim.episode import RefusedError, Waiting, serve
from pizero.sim.film import film_path, film_stem
from pizero.sim.outcome import EpisodeResult
from pizero.sim.schedule import Job, Schedule, States, make_jobs
from pizero.sim.workers import Died, Workers

MAX_ATTEMPTS = 2
"""How often an episode is started: once more after the simulator has crashed under it."""
PATIENCE_S = 300.0
"""How long a worker may take to answer, the making of an environment included; then it is taken to hang."""

Progress = Callable[[int, int, str], None]
"""Called with (done, total, note)."""


@runtime_checkable
class ChunkPolicy(Protocol):
    """A policy that takes many frames at once."""

    embodiment: Embodiment
    """The robot that it is for."""

    def act_batch(self, frames: Sequence[Frame], seeds: Sequence[int] | None = None) -> Float32[np.ndarray, "b t a"]:
        """One action chunk per frame, in real units; the noise of row i comes from seeds[i]."""
        ...


@dataclass(frozen=True)
class Simulator:
    """Where tasks and their environments come from; by default all that this project has."""

    find_task: Callable[[str], Task] = env_module.find_task
    """The task of a name; ValueError when there is none."""
    make_env: Callable[[str], Env] = env_module.make_env
    """An environment for the task of a name: a function of a module, since workers import it."""


def evaluate(
    policy: ChunkPolicy,
    tasks: Sequence[str],
    episodes: int,
    execute_steps: int,
    seed: int = 0,
    workers: int = 2,
    states: States = "benchmark",
    max_steps: int | None = None,
    prompt_of: Mapping[str, str] | None = None,
    video_dir: Path | None = None,
    videos_per_task: int = 2,
    failures_per_task: int = 0,
    earlier: Sequence[EpisodeResult] = (),
    finished: Callable[[EpisodeResult], None] | None = None,
    patience_s: float = PATIENCE_S,
    progress: Progress | None = None,
    simulator: Simulator | None = None,
) -> list[EpisodeResult]:
    """Results of `episodes` per task, by task and then by episode.

    states: where initial states come from, see `States`.
    max_steps: ends episodes earlier than the tasks do.
    prompt_of: task -> task whose instruction is given instead, as a control of whether the policy listens.
    video_dir: films the first `videos_per_task` episodes of each task there, each with a strip of stills of the same
    name as .png; then plays the first `failures_per_task` unfilmed failures of each task once more, to film them.
    earlier: results of the same evaluation, which are taken over instead of played.
    finished: called with each result as soon as there is one.
    patience_s: seconds after which a worker that does not answer is killed.

    Raises ValueError for arguments that do not fit, and SimulatorUnavailableError. Whatever else goes wrong in an
    episode, a simulator that raises, dies or hangs: its process is replaced and the episode repeated once; then it
    becomes the episode's `error`, and the others go on.
    """
    simulator = simulator or Simulator()
    prompts = {task: simulator.find_task(other).prompt for task, other in (prompt_of or {}).items()}
    found = [simulator.find_task(task) for task in tasks]
    jobs = make_jobs(found, episodes, execute_steps, seed, states, max_steps, prompts)
    if video_dir is not None:
        jobs = [replace(job, film=film_stem(video_dir, job)) if job.episode < videos_per_task else job for job in jobs]
    known = {result.key: result for result in earlier}
    new = [job for job in jobs if _key(job) not in known]
    play = partial(_play, policy, simulator, workers, patience_s, progress)
    known |= {result.key: result for result in play(new, finished)}
    results = [known[_key(job)] for job in jobs]
    if video_dir is None:
        return results
    again = _failures(jobs, results, video_dir, failures_per_task)
    films = {_key(job): film_path(job.film, success=False) for job in again if job.film}
    play([job for job in again if not films[_key(job)].exists()], None)
    return [replace(r, video=films[r.key]) if r.key in films and films[r.key].exists() else r for r in results]


def noise_seed(episode_seed: int, plan: int) -> int:
    """Seed of the noise of an episode's plan number `plan`, in [0, 2**63)."""
    return int(np.random.SeedSequence([episode_seed, plan]).generate_state(1, np.uint64)[0] >> 1)


def _key(job: Job) -> tuple[str, int, int, int | None]:
    return job.task, job.episode, job.seed, job.state


def _failures(jobs: Sequence[Job], results: Sequence[EpisodeResult], video_dir: Path, per_task: int) -> list[Job]:
    """The jobs of the first failures of each task that have no film, to be filmed."""
    chosen: Counter[str] = Counter()
    again = []
    for job, result in zip(jobs, results, strict=True):
        if result.success or result.error or result.video or chosen[job.task] == per_task:
            continue
        chosen[job.task] += 1
        again.append(replace(job, film=film_stem(video_dir, job)))
    return again


def _play(
    policy: ChunkPolicy,
    simulator: Simulator,
    workers: int,
    patience_s: float,
    progress: Progress | None,
    jobs: Sequence[Job],
    finished: Callable[[EpisodeResult], None] | None,
) -> list[EpisodeResult]:
    """Results of the jobs, in no order."""
    if not jobs:
        return []
    results: list[EpisodeResult] = []

    def finish(result: EpisodeResult) -> None:
        results.append(result)
        if finished is not None:
            finished(result)
        if progress is not None:
            progress(len(results), len(jobs), _note(result.task, results))

    count = min(workers, len(jobs))
    with Workers(count, partial(serve, simulator.make_env, policy.embodiment)) as pool:
        _Rounds(policy, pool, Schedule(jobs), finish).play(count, patience_s)
    return results


class _Rounds:
    """The rounds of question and answer between the workers and the policy."""

    def __init__(
        self, policy: ChunkPolicy, pool: Workers, schedule: Schedule, finish: Callable[[EpisodeResult], None]
    ) -> None:
        self._policy, self._pool, self._schedule, self._finish = policy, pool, schedule, finish
        self._current: dict[int, Job] = {}
        self._leaving: set[int] = set()  # workers whose simulator broke, and who were told to end

    def play(self, workers: int, patience_s: float) -> None:
        """Until every job has its result."""
        for worker in range(workers):
            self._start(worker)
        while self._current or self._leaving:
            waiting: list[tuple[int, Waiting]] = []
            for worker, answer in self._pool.answers(patience_s):
                if isinstance(answer, Waiting):
                    waiting.append((worker, answer))
                else:
                    self._end(worker, answer)
            if waiting:
                self._answer(waiting)

    def _start(self, worker: int) -> None:
        """Gives a worker its job once more, or the next one."""
        job = self._current.get(worker) or self._schedule.next(worker)
        if job is not None:
            self._current[worker] = job
            self._pool.send(worker, job)

    def _end(self, worker: int, answer: Any) -> None:
        match answer:
            case EpisodeResult(error=None):
                del self._current[worker]
                self._finish(answer)
                self._start(worker)
            case EpisodeResult():
                self._break(worker, answer)
                self._leaving.add(worker)
                self._pool.send(worker, None)  # a broken simulator may have broken its process
            case Died() if worker in self._leaving:
                self._leaving.remove(worker)
                self._start(worker)
            case Died():
                self._break(worker, self._current[worker].failed(answer.reason))
                self._start(worker)
            case RefusedError() | SimulatorUnavailableError():
                raise answer
            case _:
                raise AssertionError(f"a worker answered {answer!r}")

    def _break(self, worker: int, result: EpisodeResult) -> None:
        """Leaves the job to be repeated, or counts its error."""
        job = self._current.pop(worker)
        if job.attempt < MAX_ATTEMPTS:
            self._current[worker] = replace(job, attempt=job.attempt + 1)
        else:
            self._finish(result)

    def _answer(self, waiting: Sequence[tuple[int, Waiting]]) -> None:
        """Asks the policy for one batch of chunks."""
        frames = [wait.frame for _, wait in waiting]
        seeds = [noise_seed(self._current[worker].seed, wait.plan) for worker, wait in waiting]
        chunks = self._policy.act_batch(frames, seeds)
        for (worker, _), chunk in zip(waiting, chunks, strict=True):
            if self._current[worker].execute_steps > len(chunk):
                execute_steps = self._current[worker].execute_steps
                raise ValueError(f"execute_steps is {execute_steps}, but the policy plans {len(chunk)} steps")
            self._pool.send(worker, np.asarray(chunk, np.float32))


def _note(task: str, results: Iterable[EpisodeResult]) -> str:
    of_task = [result for result in results if result.task == task]
    solved = sum(result.success for result in of_task)
    errors = sum(result.error is not None for result in of_task)
    return f"{task}: {solved} of {len(of_task) - errors} solved" + (f", {errors} errors" if errors else "")
