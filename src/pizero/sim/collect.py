"""Demonstrations of a scripted expert, as a data set.

The robot executes the expert's action plus noise that lasts over several steps; recorded is what the expert would have
done. So the data shows how to come back to the path, which a policy that has strayed from it needs (DART, Laskey et
al., CoRL 2017). How much noise there is differs from episode to episode. Episodes that the expert does not solve are
left out and counted.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from pizero.embodiment import Embodiment
from pizero.frame import Frame
from pizero.sim import env as env_module
from pizero.sim.env import Env, SimulatorUnavailableError, train_seed
from pizero.sim.workers import Died, Workers

MAX_ATTEMPTS = 100_000
"""Episodes tried per task and `seed`; collections with different seeds share no episode."""
NOISE_MEMORY = 0.8
"""How much of a step's noise is left in the next: 1/e after 4.5 steps."""
NOISE_KICK = 0.6
"""Fresh noise per step. With the memory above this makes the noise's deviation equal the episode's scale."""
HOLD_STEPS = 3
"""Steps recorded after success, without noise: what the expert does when it is done."""
TRIES_PER_EPISODE = 5
"""When this many attempts per wanted episode do not suffice, the expert cannot do the task under that noise."""

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
) -> CollectResult:
    """Write `episodes` solved episodes of each task to a LeRobot data set at `root`.

    noise: largest deviation of the noise in an episode, in half the range of an action; 0 records the pure expert. Each
    episode draws its own deviation between 0 and this. Gripper actions stay clean.
    make_env: another simulator (a function of a module, since workers import it).

    Episodes and their order depend on (tasks, episodes, seed, noise) alone. Raises ValueError for arguments that do not
    fit or a task that the expert cannot do under that noise, RuntimeError when a simulator crashes; then nothing is
    written.
    """
    if episodes < 1 or not tasks:
        raise ValueError(f"{episodes} episodes of {len(tasks)} tasks are nothing to collect")
    if len(set(tasks)) != len(tasks):
        raise ValueError(f"a task is named twice: {', '.join(tasks)}")
    if noise < 0:
        raise ValueError(f"noise is {noise}, must be 0 or more")
    workers = min(workers, episodes * len(tasks))
    counts = {task: TaskResult(task, 0, 0, 0) for task in tasks}
    add_episode: Callable[[str, _Recording], Future[None]] | None = None
    with ExitStack() as stack:
        pool = stack.enter_context(Workers(workers, partial(_serve, make_env)))
        writing: deque[Future[None]] = deque()
        for task, recording in _recordings(pool, workers, tasks, episodes, seed, noise):
            count = counts[task]
            if not recording.frames:
                counts[task] = replace(count, failed=count.failed + 1)
                continue
            if add_episode is None:
                add_episode = _open(stack, root, recording)
            writing.append(add_episode(task, recording))
            if len(writing) > workers:
                writing.popleft().result()
            count = replace(count, kept=count.kept + 1, frames=count.frames + len(recording.frames))
            counts[task] = count
            if progress is not None:
                done = sum(each.kept for each in counts.values())
                note = f"{task}: {count.kept} kept, {count.failed} left out"
                progress(done, episodes * len(tasks), note)
        while writing:
            writing.popleft().result()
    return CollectResult(root, tuple(counts.values()))


@dataclass(frozen=True)
class _Job:
    """One attempt."""

    task: str
    attempt: int
    seed: int
    noise: float


@dataclass(frozen=True)
class _Recording:
    """A solved episode, or one without frames that the expert did not solve."""

    seed: int
    embodiment: Embodiment
    frames: list[Frame]
    actions: Float32[np.ndarray, "n a"]


def _open(stack: ExitStack, root: Path, first: _Recording) -> Callable[[str, _Recording], "Future[None]"]:
    """A function that adds an episode to the data set at `root`, in a thread, so that workers are fed meanwhile."""
    from pizero.data.lerobot_writer import LeRobotWriter  # brings pyarrow and PyAV, which workers do not need

    sizes = {camera: image.shape[:2] for camera, image in first.frames[0].images.items()}
    writer = stack.enter_context(LeRobotWriter(root, first.embodiment, sizes))
    thread = stack.enter_context(ThreadPoolExecutor(1))  # ends before the writer does

    def add_episode(task: str, recording: _Recording) -> "Future[None]":
        extra: dict[str, int | str] = {"task": task, "seed": recording.seed}
        return thread.submit(writer.add_episode, recording.frames, recording.actions, extra)

    return add_episode


class _CrashedError(RuntimeError):
    """A simulator raised something: says where."""


def _recordings(
    pool: Workers, workers: int, tasks: Sequence[str], episodes: int, seed: int, noise: float
) -> Iterator[tuple[str, _Recording]]:
    """Attempts of each task in order, until `episodes` of them are solved."""

    def job(task: str, attempt: int) -> _Job:
        return _Job(task, attempt, train_seed(seed * MAX_ATTEMPTS + attempt), noise)

    num_attempts = dict.fromkeys(tasks, episodes)
    todo = deque(job(task, attempt) for task in tasks for attempt in range(episodes))
    current: dict[int, _Job] = {}
    done: dict[tuple[str, int], _Recording] = {}
    died: set[tuple[str, int]] = set()

    def feed(worker: int) -> None:
        if todo:
            current[worker] = todo.popleft()
            pool.send(worker, current[worker])

    def receive() -> None:
        for worker, answer in pool.next_answers():
            last = current.pop(worker)
            key = (last.task, last.attempt)
            match answer:
                case _Recording():
                    done[key] = answer
                    if not answer.frames:
                        todo.appendleft(job(last.task, num_attempts[last.task]))
                        num_attempts[last.task] += 1
                        _check_attempts(last.task, num_attempts[last.task], episodes, noise)
                case Died() if key not in died:  # once may be bad luck, such as a lack of memory
                    died.add(key)
                    todo.appendleft(last)
                case Died():
                    raise RuntimeError(f"{last.task}, seed {last.seed}: {answer.reason}, twice")
                case _:
                    raise answer
            feed(worker)

    for worker in range(workers):
        feed(worker)
    for task in tasks:
        attempt = 0
        while attempt < num_attempts[task]:
            while (task, attempt) not in done:
                receive()
            yield task, done.pop((task, attempt))
            attempt += 1


def _check_attempts(task: str, attempts: int, episodes: int, noise: float) -> None:
    if attempts > min(TRIES_PER_EPISODE * episodes, MAX_ATTEMPTS):
        raise ValueError(
            f"the expert of {task} solved fewer than {episodes} of {attempts - 1} episodes with noise {noise}; "
            "lower the noise"
        )


def _serve(make_env: Callable[[str], Env], pipe: Connection) -> None:
    """In a worker: records until the pipe is closed. Answers with a _Recording or the exception that ends all."""
    env: Env | None = None
    while True:
        try:
            job: _Job = pipe.recv()
        except EOFError:
            break
        try:
            if env is None or env.task.name != job.task:
                if env is not None:
                    env.close()
                env = make_env(job.task)
            pipe.send(_record(env, job))
        except (ValueError, SimulatorUnavailableError) as error:
            pipe.send(error)
        except Exception as error:
            pipe.send(_CrashedError(f"{job.task}, seed {job.seed}: {type(error).__name__}: {error}"))
    if env is not None:
        env.close()


def _record(env: Env, job: _Job) -> _Recording:
    robot = env.embodiment
    low, high = np.array(robot.action_low, np.float32), np.array(robot.action_high, np.float32)
    generator = np.random.default_rng([job.seed, 1])  # not the stream that may have laid out the scene
    scale = generator.uniform(0, job.noise) * np.array(env.noise_scale)
    drift = np.zeros(len(scale))
    frames: list[Frame] = []
    actions: list[np.ndarray] = []
    env.reset(job.seed)
    solved_for = -1  # steps since success
    while solved_for < HOLD_STEPS:
        frames.append(env.frame())
        action = env.expert_action()
        actions.append(action)
        drift = NOISE_MEMORY * drift + NOISE_KICK * generator.standard_normal(len(scale))
        noisy = action + scale * drift
        noisy = (np.clip(noisy, low, high) if robot.action_low else noisy).astype(np.float32)
        step = env.step(action if solved_for >= 0 else noisy)
        if solved_for >= 0 or env.expert_done():
            solved_for += 1
        elif step.done:
            frames, actions = [], []
            break
    return _Recording(job.seed, robot, frames, np.array(actions, np.float32).reshape(-1, len(scale)))
