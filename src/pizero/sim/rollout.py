"""Success of a policy, counted in closed loop: workers own the simulators, the policy runs here on what they see.

A policy plans a chunk of actions, `execute_steps` of them are executed, then it plans again. Pictures are rendered only
for planning (and for videos). In each round every busy worker answers, with a frame or with the end of its episode, and
the frames make one batch: so batches are large, and what is in them depends on nothing but the arguments.

The outcome of an episode depends on (task, seed) and the policy alone: noise of plan k comes from (episode seed, k).
With another number of workers the rows meet in other batches; a policy whose rounding depends on its batch may then
differ in the last bit, and once in a while an episode with it.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from pizero.embodiment import Embodiment
from pizero.frame import Frame
from pizero.sim import env as env_module
from pizero.sim.env import Env, SimulatorUnavailableError, Step, eval_seed, find_task
from pizero.sim.video import write_strip, write_video
from pizero.sim.workers import Died, Workers

MAX_EPISODES = 10_000
"""Episodes per task of one evaluation; evaluations with different seeds share no episode."""
VIDEO_SIZE = 256
"""Pixels of a video, both ways."""
VIDEO_FPS = 20
"""Pictures a second when played."""
VIDEO_STEPS_PER_SECOND = 40
"""Control steps that pass in a second of a video, at most: a faster robot is shown in slow motion, skipping steps."""

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
class EpisodeResult:
    """How one episode ended."""

    task: str
    """Name of the task."""
    seed: int
    """What the environment was reset with."""
    success: bool
    """Solved within the task's steps. False after an error."""
    steps: int
    """Control steps executed; 0 after an error."""
    error: str | None
    """Why the episode did not count: a crash of the simulator or its process says nothing about the policy."""
    seconds: float
    """From reset to the end, waiting for the policy included."""
    prompt: str = ""
    """The instruction given. Empty after an error."""
    video: Path | None = None
    """The film of it, where one was asked for."""


def evaluate(
    policy: ChunkPolicy,
    tasks: Sequence[str],
    episodes: int,
    execute_steps: int,
    seed: int = 0,
    workers: int = 2,
    max_steps: int | None = None,
    prompt_of: Mapping[str, str] | None = None,
    video_dir: Path | None = None,
    videos_per_task: int = 2,
    progress: Progress | None = None,
    make_env: Callable[[str], Env] = env_module.make_env,
) -> list[EpisodeResult]:
    """Results of `episodes` per task, by task and then by episode.

    max_steps: ends episodes earlier than the tasks do.
    prompt_of: task -> task whose instruction is given instead, as a control of whether the policy listens.
    video_dir: films the first `videos_per_task` episodes of each task there, each with a strip of stills of the same
    name as .png.
    make_env: another simulator (a function of a module, since workers import it).

    Raises ValueError for arguments that do not fit, and SimulatorUnavailableError; whatever else goes wrong in an
    episode becomes its `error`, and the others go on.
    """
    if not 1 <= episodes <= MAX_EPISODES:
        raise ValueError(f"episodes is {episodes}, must be in 1 ... {MAX_EPISODES}")
    if execute_steps < 1:
        raise ValueError(f"execute_steps is {execute_steps}, must be at least 1")
    jobs = [
        _Job(
            task=task,
            seed=eval_seed(seed * MAX_EPISODES + index),
            prompt=None if prompt_of is None or task not in prompt_of else find_task(prompt_of[task]).prompt,
            max_steps=max_steps,
            video=None
            if video_dir is None or index >= videos_per_task
            else video_dir / f"{task.replace('/', '-')}-{index}.mp4",
        )
        for task in tasks
        for index in range(episodes)
    ]
    done: dict[int, EpisodeResult] = {}
    todo = deque(range(len(jobs)))
    current: dict[int, int] = {}  # worker -> job

    with Workers(min(workers, len(jobs) or 1), partial(_serve, make_env, policy.embodiment)) as pool:

        def next_job(worker: int) -> None:
            if todo:
                current[worker] = todo.popleft()
                pool.send(worker, jobs[current[worker]])

        def finish(worker: int, result: EpisodeResult) -> None:
            job = current.pop(worker)
            done[job] = result
            if progress is not None:
                progress(len(done), len(jobs), _note(result.task, done.values()))
            next_job(worker)

        for worker in range(min(workers, len(jobs))):
            next_job(worker)
        while current:
            waiting: list[tuple[int, _Waiting]] = []
            for worker, answer in pool.answers():
                job = jobs[current[worker]]
                match answer:
                    case _Waiting():
                        waiting.append((worker, answer))
                    case EpisodeResult():
                        finish(worker, answer)
                    case Died():
                        finish(worker, EpisodeResult(job.task, job.seed, False, 0, answer.reason, 0.0))
                    case _RefusedError() | SimulatorUnavailableError():
                        raise answer
            if waiting:
                frames = [wait.frame for _, wait in waiting]
                seeds = [noise_seed(jobs[current[worker]].seed, wait.plan) for worker, wait in waiting]
                chunks = policy.act_batch(frames, seeds)
                if execute_steps > chunks.shape[1]:
                    raise ValueError(f"execute_steps is {execute_steps}, but the policy plans {chunks.shape[1]} steps")
                for (worker, _), chunk in zip(waiting, chunks, strict=True):
                    pool.send(worker, np.asarray(chunk[:execute_steps], np.float32))
    return [done[job] for job in range(len(jobs))]


def noise_seed(episode_seed: int, plan: int) -> int:
    """Seed of the noise of an episode's plan number `plan`, in [0, 2**63)."""
    return int(np.random.SeedSequence([episode_seed, plan]).generate_state(1, np.uint64)[0] >> 1)


@dataclass(frozen=True)
class _Job:
    """One episode to play."""

    task: str
    seed: int
    prompt: str | None
    max_steps: int | None
    video: Path | None


@dataclass(frozen=True)
class _Waiting:
    """The worker's question: what to do from here on?"""

    frame: Frame
    plan: int


class _RefusedError(ValueError):
    """The evaluation as a whole makes no sense: ends it, where any other exception ends an episode."""


def _note(task: str, results: Iterable[EpisodeResult]) -> str:
    of_task = [result for result in results if result.task == task]
    solved = sum(result.success for result in of_task)
    errors = sum(result.error is not None for result in of_task)
    return f"{task}: {solved} of {len(of_task) - errors} solved" + (f", {errors} errors" if errors else "")


def _serve(make_env: Callable[[str], Env], embodiment: Embodiment, pipe: Connection) -> None:
    """In a worker: plays jobs until the pipe is closed.

    Answers with _Waiting, EpisodeResult, or the exception that shall end the evaluation.
    """
    env: Env | None = None
    while True:
        start = time.perf_counter()
        try:
            job: _Job = pipe.recv()
            start = time.perf_counter()
            env = _env_for(job, env, make_env, embodiment)
            pipe.send(_play(env, job, pipe))
        except EOFError:
            break
        except (_RefusedError, SimulatorUnavailableError) as error:
            pipe.send(error)
        except Exception as error:
            env = None
            reason = f"{type(error).__name__}: {error}"
            pipe.send(EpisodeResult(job.task, job.seed, False, 0, reason, time.perf_counter() - start))
    if env is not None:
        env.close()


def _env_for(job: _Job, last: Env | None, make_env: Callable[[str], Env], embodiment: Embodiment) -> Env:
    """The last environment when it has the job's task, or a new one."""
    if last is not None and last.task.name == job.task:
        return last
    if last is not None:
        last.close()
    try:
        env = make_env(job.task)
    except ValueError as error:
        raise _RefusedError(str(error)) from error
    if difference := env.embodiment.difference(embodiment):
        raise _RefusedError(f"the policy is for another robot than {job.task} (first the task's): {difference}")
    if job.max_steps is not None and not 1 <= job.max_steps <= env.task.max_steps:
        raise _RefusedError(f"max_steps is {job.max_steps}, must be in 1 ... {env.task.max_steps} for {job.task}")
    return env


def _play(env: Env, job: _Job, pipe: Connection) -> EpisodeResult:
    start = time.perf_counter()
    film = None if job.video is None else _Film(env)
    env.reset(job.seed)
    max_steps = job.max_steps or env.task.max_steps
    steps, plan = 0, 0
    step = Step(success=False, done=False)
    while not step.done and steps < max_steps:
        frame = env.frame() if job.prompt is None else replace(env.frame(), prompt=job.prompt)
        pipe.send(_Waiting(frame, plan))
        plan += 1
        for action in pipe.recv():
            if film is not None:
                film.look(steps)
            step = env.step(action)
            steps += 1
            if step.done or steps == max_steps:
                break
    if film is not None and job.video is not None:
        film.write(job.video)
    seconds = time.perf_counter() - start
    prompt = job.prompt or env.task.prompt
    return EpisodeResult(job.task, job.seed, step.success, steps, None, seconds, prompt, job.video)


class _Film:
    """Pictures of an episode at the video's rate."""

    def __init__(self, env: Env) -> None:
        self._env = env
        rate = env.embodiment.control_rate_hz
        self._every = 1 if rate is None else max(1, round(rate / VIDEO_STEPS_PER_SECOND))
        self._pictures: list[np.ndarray] = []

    def look(self, step: int) -> None:
        if step % self._every == 0:
            self._pictures.append(self._env.picture(VIDEO_SIZE))

    def write(self, path: Path) -> None:
        """The film, with the last state held for half a second, and a strip of it."""
        last = self._env.picture(VIDEO_SIZE)
        write_video(path, [*self._pictures, *[last] * (VIDEO_FPS // 2)], VIDEO_FPS)
        write_strip(path.with_suffix(".png"), [*self._pictures, last])
