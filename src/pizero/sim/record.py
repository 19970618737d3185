"""One attempt at a demonstration: the expert acts, the robot is perturbed, and what is solved goes into a folder."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from pizero.frame import Frame
from pizero.sim.attempt import Outcome, write_outcome
from pizero.sim.env import NUM_SEEDS, Env, SimulatorUnavailableError
from pizero.sim.perturb import Perturbation
from pizero.sim.workers import Serve

HOLD_STEPS, HOLD_STEPS_SLOW = 3, 5
"""Steps recorded after the expert is done, without noise, so that the policy learns to stand still. More for slow
robots: their benchmarks (SimplerEnv, 5 Hz) go on to the last step, whose state decides."""
SLOW_HZ = 20.0
"""Control rates up to this are slow."""


@dataclass(frozen=True)
class Job:
    """One attempt."""

    task: str
    attempt: int
    seed: int
    """A training seed."""
    noise: float
    disturbances: float
    folder: Path
    """Where the attempt goes."""


class CrashedError(RuntimeError):
    """A simulator raised something: says where."""


def server(make_env: Callable[[str], Env]) -> Serve:
    """What a worker runs: it answers each Job with an Outcome, or with the exception that ends all."""
    return partial(_serve, make_env)


def hold_steps(rate_hz: float | None) -> int:
    """Steps recorded after the expert is done, for a robot of this control rate."""
    return HOLD_STEPS_SLOW if rate_hz is not None and rate_hz <= SLOW_HZ else HOLD_STEPS


def _serve(make_env: Callable[[str], Env], pipe: Connection) -> None:
    env: Env | None = None
    while True:
        try:
            job: Job = pipe.recv()
        except EOFError:
            break
        try:
            if env is None or env.task.name != job.task:
                if env is not None:
                    env.close()
                    env = None
                env = make_env(job.task)
            pipe.send(attempt(env, job))
        except (ValueError, SimulatorUnavailableError) as error:
            pipe.send(error)
        except Exception as error:
            pipe.send(CrashedError(f"{job.task}, seed {job.seed}: {type(error).__name__}: {error}"))
    if env is not None:
        env.close()


def attempt(env: Env, job: Job) -> Outcome:
    """Let the expert try; its folder appears when everything is in it, with an episode only if that was solved."""
    from pizero.data.lerobot_episode import check_episode, write_episode  # brings PyAV, which only collecting needs

    perturbation = Perturbation(
        env.embodiment, env.noise_scale, env.task.max_steps, job.seed, job.noise, job.disturbances
    )
    frames, actions = _record(env, job.seed, perturbation)
    outcome = Outcome(bool(frames), len(frames), env.embodiment)
    aside = job.folder.with_name(job.folder.name + ".part")
    if aside.exists():  # left by a worker that was killed
        shutil.rmtree(aside)
    aside.mkdir(parents=True)
    if frames:
        sizes = {camera: image.shape[:2] for camera, image in frames[0].images.items()}
        numbers = np.array(actions, np.float32)
        extra: dict[str, int | float | str] = {"task": job.task, "seed": job.seed, "noise": perturbation.noise}
        extra["disturbance"] = perturbation.disturbance
        check_episode(f"{job.task}, seed {job.seed}", env.embodiment, sizes, frames, numbers)
        write_episode(aside, env.embodiment, frames, numbers, extra)
    write_outcome(aside, outcome)
    os.replace(aside, job.folder)
    return outcome


def _record(env: Env, seed: int, perturbation: Perturbation) -> tuple[list[Frame], list[np.ndarray]]:
    """Frames, and what the expert would do on seeing each; none when it does not solve the task in time.

    Solved means, as in an evaluation: by the task's rules the episode ended as a success, or would, if the robot went
    on standing still.
    """
    assert 0 <= seed < NUM_SEEDS, "only training seeds are recorded"
    frames: list[Frame] = []
    actions: list[np.ndarray] = []

    def see() -> np.ndarray:
        frames.append(env.frame())
        actions.append(env.expert_action())
        return actions[-1]

    env.reset(seed)  # never a state of the benchmark's
    for _ in range(env.task.max_steps):
        step = env.step(perturbation.executed(see()))
        if env.expert_done():
            break
    else:
        return [], []
    is_over = step.done
    for _ in range(hold_steps(env.embodiment.control_rate_hz)):
        step = env.step(see())
    return (frames, actions) if is_over or step.success else ([], [])
