import multiprocessing
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from toy_env import MAX_STEPS, TOY, make_toy

from pizero.frame import Frame
from pizero.sim.env import SimulatorUnavailableError, eval_seed
from pizero.sim.rollout import MAX_EPISODES, EpisodeResult, evaluate, noise_seed

TASKS = ["toy/a", "toy/b"]


class NoisyPolicy:
    """Walks in a direction drawn from the noise; remembers what it was asked."""

    def __init__(self, horizon: int = 4) -> None:
        self.embodiment = TOY
        self.horizon = horizon
        self.batches: list[list[Frame]] = []
        self.seeds: list[int] = []

    def act_batch(self, frames: Sequence[Frame], seeds: Sequence[int] | None = None) -> np.ndarray:
        assert seeds is not None
        assert len(seeds) == len(frames)
        self.batches.append(list(frames))
        self.seeds.extend(seeds)
        chunks = [np.random.default_rng(seed).uniform(-0.2, 0.6, (self.horizon, 2)) for seed in seeds]
        return np.array(chunks, np.float32)


class StraightPolicy(NoisyPolicy):
    """Walks right at 0.3 a step: reaches the marks on the right (even seeds) and no other."""

    def act_batch(self, frames: Sequence[Frame], seeds: Sequence[int] | None = None) -> np.ndarray:
        super().act_batch(frames, seeds)
        return np.full((len(frames), self.horizon, 2), 0.3, np.float32)


class KillingPolicy(StraightPolicy):
    """Kills the workers when asked for the third time."""

    def act_batch(self, frames: Sequence[Frame], seeds: Sequence[int] | None = None) -> np.ndarray:
        if len(self.batches) == 2:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid or 0, signal.SIGKILL)
                worker.join()
        return super().act_batch(frames, seeds)


def outcome(results: Sequence[EpisodeResult]) -> list[EpisodeResult]:
    """The results without their times."""
    return [replace(result, seconds=0.0) for result in results]


def test_outcomes_do_not_depend_on_the_number_of_workers() -> None:
    runs, seeds = [], []
    for workers in (1, 2, 3):
        policy = NoisyPolicy()
        runs.append(outcome(evaluate(policy, TASKS, 4, execute_steps=3, workers=workers, make_env=make_toy)))
        seeds.append(sorted(policy.seeds))
    assert runs[0] == runs[1] == runs[2]
    assert seeds[0] == seeds[1] == seeds[2]
    assert len(set(seeds[0])) == len(seeds[0]) / 2  # two tasks share seeds, nothing else does
    assert len({result.steps for result in runs[0]}) > 1


def test_another_seed_plays_other_episodes() -> None:
    one, other = (
        evaluate(StraightPolicy(), TASKS[:1], 3, execute_steps=4, seed=seed, make_env=make_toy) for seed in (0, 1)
    )
    assert [result.seed for result in one] == [eval_seed(i) for i in range(3)]
    assert [result.seed for result in other] == [eval_seed(MAX_EPISODES + i) for i in range(3)]


def test_success_and_steps_are_counted() -> None:
    results = evaluate(StraightPolicy(), TASKS, 4, execute_steps=4, make_env=make_toy)
    assert [result.task for result in results] == ["toy/a"] * 4 + ["toy/b"] * 4
    for result in results:
        mark = np.random.default_rng(result.seed).uniform(2, 4)
        even = result.seed % 2 == 0
        assert result.success == even
        assert result.steps == (int(np.floor((mark - 0.3) / 0.3)) + 1 if even else MAX_STEPS)
        assert (result.error, result.prompt) == (None, f"go to the mark of {result.task}")


def test_pictures_are_taken_only_for_planning() -> None:
    policy = StraightPolicy(horizon=10)
    [result] = evaluate(policy, TASKS[:1], 1, execute_steps=5, workers=1, make_env=make_toy)
    renders = [frame.state[1] for batch in policy.batches for frame in batch]
    assert renders == list(range(1, int(np.ceil(result.steps / 5)) + 1))


def test_the_policy_sees_where_the_executed_part_of_the_chunk_led() -> None:
    policy = StraightPolicy(horizon=10)
    evaluate(policy, TASKS[:1], 1, execute_steps=2, workers=1, max_steps=6, make_env=make_toy)
    assert [frame.state[0] for batch in policy.batches for frame in batch] == pytest.approx([0.0, 0.6, 1.2])


def test_a_batch_holds_a_frame_of_every_busy_worker() -> None:
    policy = StraightPolicy()
    evaluate(policy, TASKS[:1], 3, execute_steps=4, workers=3, max_steps=4, make_env=make_toy)
    assert [len(batch) for batch in policy.batches] == [3]


def test_max_steps_ends_an_episode_within_a_chunk() -> None:
    results = evaluate(StraightPolicy(), TASKS[:1], 2, execute_steps=4, max_steps=3, make_env=make_toy)
    assert [(result.steps, result.success) for result in results] == [(3, False)] * 2


@pytest.mark.parametrize(
    ("task", "error"), [("toy/raises", "RuntimeError: the simulator broke"), ("toy/dies", "worker died (exit code 3)")]
)
def test_a_crash_is_an_error_of_its_episode_and_the_others_go_on(task: str, error: str) -> None:
    results = evaluate(StraightPolicy(), [task, "toy/b"], 4, execute_steps=4, workers=2, make_env=make_toy)
    for result in results:
        broken = result.task == task and result.seed % 2 == 1
        assert result.error == (error if broken else None)
        assert result.success == (result.seed % 2 == 0)
    assert len(results) == 8


def test_workers_killed_from_outside_are_replaced() -> None:
    results = evaluate(KillingPolicy(), TASKS, 3, execute_steps=4, workers=2, make_env=make_toy)
    errors = [result.error for result in results if result.error]
    assert errors == ["worker died (exit code -9)"] * 2
    assert [result.success for result in results if not result.error] == [
        result.seed % 2 == 0 for result in results if not result.error
    ]


def test_the_instruction_of_another_task_can_be_given() -> None:
    policy = StraightPolicy()
    prompts = {"toy/a": "metaworld/faucet-close"}
    results = evaluate(policy, TASKS, 1, execute_steps=4, workers=1, prompt_of=prompts, make_env=make_toy)
    assert [result.prompt for result in results] == ["close the faucet", "go to the mark of toy/b"]
    assert {frame.prompt for batch in policy.batches for frame in batch} == {result.prompt for result in results}


def test_progress_says_how_many_are_done_and_solved() -> None:
    notes: list[tuple[int, int, str]] = []
    tasks = ["toy/raises"]
    evaluate(StraightPolicy(), tasks, 4, 4, workers=1, make_env=make_toy, progress=lambda *note: notes.append(note))
    assert [note[:2] for note in notes] == [(i, 4) for i in range(1, 5)]
    assert notes[-1][2] == "toy/raises: 2 of 2 solved, 2 errors"


def test_the_first_episodes_are_filmed(tmp_path: Path) -> None:
    arguments = {"execute_steps": 4, "video_dir": tmp_path, "videos_per_task": 1, "make_env": make_toy}
    results = evaluate(StraightPolicy(), TASKS, 2, **arguments)
    assert [result.video for result in results] == [tmp_path / "toy-a-0.mp4", None, tmp_path / "toy-b-0.mp4", None]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"toy-{t}-0.{kind}" for t in "ab" for kind in ("mp4", "png")
    )
    with av.open(str(tmp_path / "toy-a-0.mp4")) as container:
        pictures = sum(1 for _ in container.decode(video=0))
    assert (
        pictures == int(np.ceil(results[0].steps / 2)) + 10
    )  # every second step at 80 Hz, then half a second of the end


def test_a_policy_for_another_robot_is_refused() -> None:
    policy = StraightPolicy()
    policy.embodiment = replace(TOY, control_rate_hz=20.0)
    with pytest.raises(ValueError, match=r"another robot than toy/a .*: control_rate_hz: 80.0 against 20.0"):
        evaluate(policy, TASKS, 1, execute_steps=4, make_env=make_toy)


def test_what_does_not_fit_is_refused() -> None:
    policy = StraightPolicy(horizon=4)
    with pytest.raises(ValueError, match="execute_steps is 5, but the policy plans 4 steps"):
        evaluate(policy, TASKS, 1, execute_steps=5, make_env=make_toy)
    with pytest.raises(ValueError, match="execute_steps is 0"):
        evaluate(policy, TASKS, 1, execute_steps=0, make_env=make_toy)
    with pytest.raises(ValueError, match="episodes is 0"):
        evaluate(policy, TASKS, 0, execute_steps=4, make_env=make_toy)
    with pytest.raises(ValueError, match=f"max_steps is 31, must be in 1 ... {MAX_STEPS} for toy/a"):
        evaluate(policy, TASKS, 1, execute_steps=4, max_steps=31, make_env=make_toy)
    with pytest.raises(ValueError, match="there is no task 'metaworld/faucet'"):
        evaluate(policy, ["metaworld/faucet"], 1, execute_steps=4)


def test_a_machine_without_the_simulator_ends_the_evaluation() -> None:
    with pytest.raises(SimulatorUnavailableError, match="buy one"):
        evaluate(StraightPolicy(), ["toy/none"], 3, execute_steps=4, make_env=make_toy)


def test_noise_seeds_of_plans_and_episodes_differ() -> None:
    seeds = {noise_seed(eval_seed(episode), plan) for episode in range(50) for plan in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 2**63 for seed in seeds)
