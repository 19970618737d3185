"""One episode in a worker's process, which asks the policy over a pipe what to do."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

import numpy as np
from jaxtyping import Float32

from pizero.embodiment import Embodiment
from pizero.frame import Frame
from pizero.sim.env import Env, SimulatorUnavailableError, Step
from pizero.sim.film import EpisodeFilm
from pizero.sim.outcome import EpisodeResult
from pizero.sim.schedule import Job

Ask = Callable[[Frame, int], Float32[np.ndarray, "t a"]]
"""ask(frame, number of the plan): the chunk that the policy plans there."""


@dataclass(frozen=True)
class Waiting:
    """A worker's question: what to do from here on?"""

    frame: Frame
    """What the robot sees."""
    plan: int
    """Number of the plan in its episode, from 0."""


class RefusedError(ValueError):
    """The evaluation as a whole makes no sense: ends it, where any other exception ends an episode."""


def serve(make_env: Callable[[str], Env], embodiment: Embodiment, pipe: Connection) -> None:
    """In a worker: plays the jobs that come until it is told to leave (None) or the pipe is closed.

    Answers with Waiting (and is then given a chunk), an EpisodeResult, or the exception that shall end the evaluation.
    """
    env: Env | None = None

    def ask(frame: Frame, plan: int) -> Float32[np.ndarray, "t a"]:
        pipe.send(Waiting(frame, plan))
        return pipe.recv()

    while (job := _receive(pipe)) is not None:
        start = time.perf_counter()
        try:
            env = _env_for(job, env, make_env, embodiment)
            pipe.send(play_episode(env, job, ask))
        except EOFError:
            break
        except (RefusedError, SimulatorUnavailableError) as error:
            pipe.send(error)
        except Exception as error:
            env = None
            pipe.send(job.failed(f"{type(error).__name__}: {error}", time.perf_counter() - start))
    if env is not None:
        env.close()


def play_episode(env: Env, job: Job, ask: Ask) -> EpisodeResult:
    """Plays the job's episode, filming it where it says so."""
    start = time.perf_counter()
    film = None if job.film is None else EpisodeFilm(env, job)
    env.reset(job.seed, job.state)
    steps = plans = 0
    first_success: int | None = None
    step = Step(success=False, done=False)
    while not step.done and steps < job.max_steps:
        frame = replace(env.frame(), prompt=job.prompt)
        chunk = ask(frame, plans)
        plans += 1
        if film is not None:
            film.plan(frame, chunk)
        for action in chunk[: job.execute_steps]:
            if film is not None:
                film.look(action)
            step = env.step(action)
            steps += 1
            if step.success and first_success is None:
                first_success = steps
            if step.done or steps == job.max_steps:
                break
    return EpisodeResult(
        task=job.task,
        episode=job.episode,
        seed=job.seed,
        state=job.state,
        success=step.success,
        steps=steps,
        first_success=first_success,
        plans=plans,
        seconds=time.perf_counter() - start,
        prompt=job.prompt,
        attempts=job.attempt,
        video=None if film is None else film.write(step.success),
    )


def _receive(pipe: Connection) -> Job | None:
    try:
        return pipe.recv()
    except EOFError:
        return None


def _env_for(job: Job, last: Env | None, make_env: Callable[[str], Env], embodiment: Embodiment) -> Env:
    """The last environment when it has the job's task, or a new one."""
    if last is not None and last.task.name == job.task:
        return last
    if last is not None:
        last.close()
    try:
        env = make_env(job.task)
    except ValueError as error:
        raise RefusedError(str(error)) from error
    if difference := env.embodiment.difference(embodiment):
        raise RefusedError(f"the policy is for another robot than {job.task} (first the task's): {difference}")
    return env
