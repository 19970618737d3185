import multiprocessing
import os
import signal
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from toy_env import MAX_STEPS, STATES, TOY, find_toy, make_toy

from pizero.frame import Frame
from pizero.sim.env import SimulatorUnavailableError, eval_seed
from pizero.sim.outcome import EpisodeResult
from pizero.sim.rollout import Simulator, evaluate, noise_seed
from pizero.sim.schedule import MAX_EPISODES

TASKS = ["toy/a", "toy/b"]
SIMULATOR = Simulator(find_toy, make_toy)


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


class PidPolicy(StraightPolicy):
    """Remembers in which process each episode began."""

    def __init__(self) -> None:
        super().__init__()
        self.pids: list[int | None] = []

    def act_batch(self, frames: Sequence[Frame], seeds: Sequence[int] | None = None) -> np.ndarray:
        if frames[0].state[0] == 0:
            self.pids += [worker.pid for worker in multiprocessing.active_children()]
        return super().act_batch(frames, seeds)


def outcome(results: Iterable[EpisodeResult]) -> list[EpisodeResult]:
    """The results without their times."""
    return [replace(result, seconds=0.0) for result in results]


def test_outcomes_do_not_depend_on_the_number_of_workers() -> None:
    runs, seeds = [], []
    for workers in (1, 2, 3):
        policy = NoisyPolicy()
        runs.append(outcome(evaluate(policy, TASKS, 4, execute_steps=3, workers=workers, simulator=SIMULATOR)))
        seeds.append(sorted(policy.seeds))
    assert runs[0] == runs[1] == runs[2]
    assert seeds[0] == seeds[1] == seeds[2]
    assert len(set(seeds[0])) == len(seeds[0]) / 2  # two tasks share seeds, nothing else does
    assert len({result.steps for result in runs[0]}) > 1


def test_another_seed_plays_other_episodes() -> None:
    one, other = (
        evaluate(StraightPolicy(), TASKS[:1], 3, execute_steps=4, seed=seed, simulator=SIMULATOR) for seed in (0, 1)
    )
    assert [result.seed for result in one] == [eval_seed(i) for i in range(3)]
    assert [result.seed for result in other] == [eval_seed(MAX_EPISODES + i) for i in range(3)]


def steps_to(mark: float) -> int:
    """How many steps of the StraightPolicy bring the toy to the mark."""
    return int(np.floor((mark - 0.3) / np.float32(0.3))) + 1


def test_success_and_steps_are_counted() -> None:
    results = evaluate(StraightPolicy(), TASKS, 4, execute_steps=4, states="drawn", simulator=SIMULATOR)
    assert [(result.task, result.episode) for result in results] == [(task, i) for task in TASKS for i in range(4)]
    for result in results:
        mark = np.random.default_rng(result.seed).uniform(2, 4)
        even = result.seed % 2 == 0
        steps = steps_to(mark) if even else MAX_STEPS
        assert (result.success, result.steps, result.plans) == (even, steps, -(-steps // 4))
        assert result.first_success == (steps if even else None)
        assert (result.error, result.prompt) == (None, f"go to the mark of {result.task}")
        assert (result.state, result.attempts) == (None, 1)


def test_the_benchmarks_states_come_in_turn_and_each_episode_has_its_own_noise() -> None:
    policy = StraightPolicy()
    results = evaluate(policy, TASKS[:1], 7, execute_steps=4, workers=2, simulator=SIMULATOR)
    assert [result.state for result in results] == [0, 1, 2, 0, 1, 2, 0]
    assert [result.seed for result in results] == [eval_seed(i) for i in range(7)]
    assert [result.success for result in results] == [STATES[result.state] > 0 for result in results]
    assert [result.steps for result in results if result.success] == [
        steps_to(STATES[result.state]) for result in results if result.success
    ]
    assert len(set(policy.seeds)) == len(policy.seeds)


def test_the_last_state_counts_where_an_episode_does_not_end_with_success() -> None:
    [result] = evaluate(StraightPolicy(), ["toy/lasts"], 1, execute_steps=4, simulator=SIMULATOR)
    assert (result.success, result.steps) == (False, MAX_STEPS)  # it walks on
    assert result.first_success == steps_to(STATES[0])


def test_pictures_are_taken_only_for_planning() -> None:
    policy = StraightPolicy(horizon=10)
    [result] = evaluate(policy, TASKS[:1], 1, execute_steps=5, workers=1, simulator=SIMULATOR)
    renders = [frame.state[1] for batch in policy.batches for frame in batch]
    assert renders == list(range(1, int(np.ceil(result.steps / 5)) + 1))


def test_the_policy_sees_where_the_executed_part_of_the_chunk_led() -> None:
    policy = StraightPolicy(horizon=10)
    evaluate(policy, TASKS[:1], 1, execute_steps=2, workers=1, max_steps=6, simulator=SIMULATOR)
    assert [frame.state[0] for batch in policy.batches for frame in batch] == pytest.approx([0.0, 0.6, 1.2])


def test_a_batch_holds_a_frame_of_every_busy_worker() -> None:
    policy = StraightPolicy()
    evaluate(policy, TASKS[:1], 3, execute_steps=4, workers=3, max_steps=4, simulator=SIMULATOR)
    assert [len(batch) for batch in policy.batches] == [3]


def test_max_steps_ends_an_episode_within_a_chunk() -> None:
    results = evaluate(StraightPolicy(), TASKS[:1], 2, execute_steps=4, max_steps=3, simulator=SIMULATOR)
    assert [(result.steps, result.success) for result in results] == [(3, False)] * 2


@pytest.mark.parametrize(
    ("task", "error"),
    [
        ("toy/raises", "RuntimeError: the simulator broke"),
        ("toy/dies", "worker died (exit code 3)"),
        ("toy/hangs", "no answer for 5 s"),
    ],
)
def test_a_crash_is_an_error_of_its_episode_and_the_others_go_on(task: str, error: str) -> None:
    options = {"states": "drawn", "workers": 2, "patience_s": 5.0, "simulator": SIMULATOR}
    results = evaluate(StraightPolicy(), [task, "toy/b"], 2, execute_steps=4, **options)
    for result in results:
        broken = result.task == task and result.seed % 2 == 1
        assert result.error == (error if broken else None)
        assert result.attempts == (2 if broken else 1)
        assert result.success == (result.seed % 2 == 0)
    assert len(results) == 4


@pytest.mark.parametrize("task", ["toy/raises-once", "toy/dies-once", "toy/hangs-once"])
def test_an_episode_is_repeated_after_a_first_crash(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_DIED", str(tmp_path / "died"))
    options = {"workers": 1, "patience_s": 5.0, "simulator": SIMULATOR}
    broken = evaluate(NoisyPolicy(), [task], 2, execute_steps=4, **options)
    whole = evaluate(NoisyPolicy(), [task], 2, execute_steps=4, **options)
    assert [result.attempts for result in broken] == [2, 1]
    assert outcome(replace(result, attempts=1) for result in broken) == outcome(whole)


def test_after_an_exception_the_simulators_process_is_a_new_one() -> None:
    policy = PidPolicy()
    results = evaluate(policy, ["toy/raises"], 3, execute_steps=4, states="drawn", workers=1, simulator=SIMULATOR)
    assert [result.error is None for result in results] == [True, False, True]
    assert len(set(policy.pids)) == 3


def test_workers_killed_from_outside_are_replaced() -> None:
    results = evaluate(KillingPolicy(), TASKS, 3, execute_steps=4, states="drawn", simulator=SIMULATOR)
    assert [result.error for result in results] == [None] * 6
    assert sum(result.attempts == 2 for result in results) == 2
    assert [result.success for result in results] == [result.seed % 2 == 0 for result in results]


def test_earlier_results_are_taken_over_and_the_rest_is_what_it_would_have_been() -> None:
    whole = evaluate(NoisyPolicy(), TASKS, 4, execute_steps=3, simulator=SIMULATOR)
    earlier = [replace(whole[5], seconds=99.0), whole[0], whole[6]]
    policy, finished = NoisyPolicy(), []
    options = {"earlier": earlier, "finished": finished.append, "simulator": SIMULATOR}
    results = evaluate(policy, TASKS, 4, execute_steps=3, **options)
    assert outcome(results) == outcome(whole)
    assert results[5].seconds == 99.0
    assert sorted(result.key for result in finished) == sorted(whole[i].key for i in (1, 2, 3, 4, 7))
    assert len(policy.seeds) == sum(result.plans for result in finished)


def test_with_everything_played_nothing_starts() -> None:
    whole = evaluate(NoisyPolicy(), TASKS[:1], 2, execute_steps=3, simulator=SIMULATOR)
    policy = NoisyPolicy()
    assert evaluate(policy, TASKS[:1], 2, execute_steps=3, earlier=whole, simulator=SIMULATOR) == whole
    assert policy.batches == []


def test_the_instruction_of_another_task_can_be_given() -> None:
    policy = StraightPolicy()
    prompts = {"toy/a": "metaworld/faucet-close"}
    results = evaluate(policy, TASKS, 1, execute_steps=4, workers=1, prompt_of=prompts, simulator=SIMULATOR)
    assert [result.prompt for result in results] == ["close the faucet", "go to the mark of toy/b"]
    assert {frame.prompt for batch in policy.batches for frame in batch} == {result.prompt for result in results}


def test_progress_says_how_many_are_done_and_solved() -> None:
    notes: list[tuple[int, int, str]] = []
    tasks = ["toy/raises"]
    options = {"states": "drawn", "workers": 1, "simulator": SIMULATOR}
    evaluate(StraightPolicy(), tasks, 4, 4, progress=lambda *note: notes.append(note), **options)
    assert [note[:2] for note in notes] == [(i, 4) for i in range(1, 5)]
    assert notes[-1][2] == "toy/raises: 2 of 2 solved, 2 errors"


def test_the_first_episodes_are_filmed(tmp_path: Path) -> None:
    arguments = {"execute_steps": 4, "video_dir": tmp_path, "videos_per_task": 1, "simulator": SIMULATOR}
    results = evaluate(StraightPolicy(), TASKS, 2, **arguments)
    names = ["toy-a-000-solved", "toy-b-000-solved"]
    assert [result.video for result in results] == [
        *(tmp_path / f"{names[0]}.mp4", None),
        *(tmp_path / f"{names[1]}.mp4", None),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{n}.{kind}" for n in names for kind in ("mp4", "png")]
    with av.open(str(tmp_path / "toy-a-000-solved.mp4")) as container:
        pictures = sum(1 for _ in container.decode(video=0))
    assert (
        pictures == int(np.ceil(results[0].steps / 2)) + 10
    )  # every second step at 80 Hz, then half a second of the end


def test_the_first_failures_are_filmed_when_they_are_known(tmp_path: Path) -> None:
    arguments = {"execute_steps": 4, "video_dir": tmp_path, "videos_per_task": 1, "failures_per_task": 1}
    whole = evaluate(StraightPolicy(), TASKS, 5, simulator=SIMULATOR, execute_steps=4)
    results = evaluate(StraightPolicy(), TASKS, 5, simulator=SIMULATOR, **arguments)
    assert outcome(replace(result, video=None) for result in results) == outcome(whole)
    failures = [result for result in results if not result.success]
    assert [(result.task, result.episode) for result in failures] == [(task, i) for task in TASKS for i in (1, 4)]
    assert [result.video for result in failures] == [
        *(tmp_path / "toy-a-001-failed.mp4", None),
        *(tmp_path / "toy-b-001-failed.mp4", None),
    ]
    assert len(list(tmp_path.glob("*.mp4"))) == 4
    policy = StraightPolicy()  # they are not filmed twice
    again = evaluate(policy, TASKS, 5, earlier=whole, simulator=SIMULATOR, **arguments)
    assert policy.batches == []
    assert [result.video for result in again if not result.success] == [result.video for result in failures]


def test_a_policy_for_another_robot_is_refused() -> None:
    policy = StraightPolicy()
    policy.embodiment = replace(TOY, control_rate_hz=20.0)
    with pytest.raises(ValueError, match=r"another robot than toy/a .*: control_rate_hz: 80.0 against 20.0"):
        evaluate(policy, TASKS, 1, execute_steps=4, simulator=SIMULATOR)


def test_what_does_not_fit_is_refused() -> None:
    policy = StraightPolicy(horizon=4)
    with pytest.raises(ValueError, match="execute_steps is 5, but the policy plans 4 steps"):
        evaluate(policy, TASKS, 1, execute_steps=5, simulator=SIMULATOR)
    with pytest.raises(ValueError, match="execute_steps is 0"):
        evaluate(policy, TASKS, 1, execute_steps=0, simulator=SIMULATOR)
    with pytest.raises(ValueError, match="episodes is 0"):
        evaluate(policy, TASKS, 0, execute_steps=4, simulator=SIMULATOR)
    with pytest.raises(ValueError, match=f"max_steps is 31, must be in 1 ... {MAX_STEPS} for toy/a"):
        evaluate(policy, TASKS, 1, execute_steps=4, max_steps=31, simulator=SIMULATOR)
    with pytest.raises(ValueError, match="named twice: toy/a"):
        evaluate(policy, ["toy/a", "toy/b", "toy/a"], 1, execute_steps=4, simulator=SIMULATOR)
    with pytest.raises(ValueError, match="there is no task 'metaworld/faucet'"):
        evaluate(policy, ["metaworld/faucet"], 1, execute_steps=4)


def test_a_machine_without_the_simulator_ends_the_evaluation() -> None:
    with pytest.raises(SimulatorUnavailableError, match="buy one"):
        evaluate(StraightPolicy(), ["toy/none"], 3, execute_steps=4, simulator=SIMULATOR)


def test_noise_seeds_of_plans_and_episodes_differ() -> None:
    seeds = {noise_seed(eval_seed(episode), plan) for episode in range(50) for plan in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 2**63 for seed in seeds)
