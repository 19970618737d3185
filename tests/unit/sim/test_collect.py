import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_env import MAX_STEPS, STATES, ToyEnv, make_toy

from pizero import __version__
from pizero.data.lerobot import LeRobotDataset
from pizero.sim.collect import ABOUT, CollectResult, TaskResult, collect
from pizero.sim.env import SimulatorUnavailableError, Step, eval_seed, train_seed
from pizero.sim.record import HOLD_STEPS, Job, attempt, hold_steps


def content(root: Path) -> dict[str, str]:
    """Digest of each file."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CollectResult]:
    root = tmp_path_factory.mktemp("toy") / "set"
    return root, collect(["toy/a", "toy/hard"], root, 4, workers=2, noise=0.5, make_env=make_toy)


def test_each_task_has_the_wanted_episodes_and_failures_are_counted(recorded: tuple[Path, CollectResult]) -> None:
    root, result = recorded
    data = LeRobotDataset(root)
    # toy/hard cannot be solved where the seed divides by 3
    seeds = [seed for seed in map(train_seed, range(7)) if seed % 3]
    assert [episode.extra["seed"] for episode in data.episodes] == [*map(train_seed, range(4)), *seeds[:4]]
    assert [episode.extra["task"] for episode in data.episodes] == ["toy/a"] * 4 + ["toy/hard"] * 4
    assert [episode.task for episode in data.episodes] == ["go to the mark of toy/a"] * 4 + [
        "go to the mark of toy/hard"
    ] * 4
    lengths = [episode.length for episode in data.episodes]
    assert result.tasks == (
        TaskResult("toy/a", 4, 0, sum(lengths[:4])),
        TaskResult("toy/hard", 4, 2, sum(lengths[4:])),
    )


def test_the_data_set_does_not_depend_on_the_number_of_workers(
    recorded: tuple[Path, CollectResult], tmp_path: Path
) -> None:
    for workers in (1, 3):
        root = tmp_path / str(workers)
        collect(["toy/a", "toy/hard"], root, 4, workers=workers, noise=0.5, make_env=make_toy)
        assert content(root) == content(recorded[0])


def test_recorded_is_what_the_expert_would_have_done(recorded: tuple[Path, CollectResult]) -> None:
    data = LeRobotDataset(recorded[0])
    moved_otherwise = 0
    for episode in data.episodes:
        env = ToyEnv(str(episode.extra["task"]))
        env.reset(int(episode.extra["seed"]))
        rows = slice(episode.start, episode.start + episode.length)
        states, actions = data.state[rows], data.actions[rows]
        for state, action in zip(states, actions, strict=True):
            env.x = float(state[0])
            np.testing.assert_allclose(action, env.expert_action(), atol=1e-6)
        moved = np.diff(states[:, 0])
        moved_otherwise += int((np.abs(moved - actions[:-1, 0]) > 1e-3).sum())
        assert states[0, 0] == 0
        assert abs(moved).max() <= 0.5 + 1e-6  # clipped to the robot's bounds
        # after success: a few steps of the clean expert
        np.testing.assert_allclose(moved[-HOLD_STEPS + 1 :], actions[-HOLD_STEPS:-1, 0], atol=1e-6)
        assert abs(states[-HOLD_STEPS, 0] - env.mark) < 0.3 <= abs(states[-HOLD_STEPS - 1, 0] - env.mark)
    assert moved_otherwise > 20


def test_noise_is_correlated_has_its_own_scale_per_episode_and_spares_the_gripper(tmp_path: Path) -> None:
    collect(["toy/a"], tmp_path / "set", 40, workers=2, noise=0.2, make_env=make_toy)
    data = LeRobotDataset(tmp_path / "set")
    assert (data.actions[:, 1] == 0.5).all()
    starts = [episode.start for episode in data.episodes]
    assert (np.delete(data.state[:, 2], starts) == 0.5).all()
    scales, products, squares = [], 0.0, 0.0
    for episode in data.episodes:
        rows = slice(episode.start, episode.start + episode.length - HOLD_STEPS)
        noise = np.diff(data.state[rows, 0]) - data.actions[rows, 0][:-1]
        scales.append(noise.std())
        products += (noise[1:] * noise[:-1]).sum()
        squares += (noise**2).sum()
    # largest deviation 0.2 of half the range of 1
    assert 0.02 < np.mean(scales) < 0.1
    assert np.quantile(scales, 0.1) < 0.3 * np.quantile(scales, 0.9)
    assert 0.5 < products / squares < 1


def test_without_noise_the_expert_alone_acts(tmp_path: Path) -> None:
    collect(["toy/a"], tmp_path / "set", 2, workers=1, noise=0.0, make_env=make_toy)
    data = LeRobotDataset(tmp_path / "set")
    for episode in data.episodes:
        rows = slice(episode.start, episode.start + episode.length)
        np.testing.assert_allclose(np.diff(data.state[rows, 0]), data.actions[rows, 0][:-1], atol=1e-6)


def test_another_seed_records_other_episodes(tmp_path: Path) -> None:
    firsts = []
    for seed in (0, 1):
        collect(["toy/a"], tmp_path / str(seed), 2, seed=seed, workers=1, make_env=make_toy)
        firsts.append({episode.extra["seed"] for episode in LeRobotDataset(tmp_path / str(seed)).episodes})
    assert not firsts[0] & firsts[1]


def test_progress_counts_kept_and_failed_episodes(tmp_path: Path) -> None:
    notes: list[tuple[int, int, str]] = []
    collect(
        ["toy/hard"], tmp_path / "set", 3, workers=2, make_env=make_toy, noise=0.1, progress=lambda *n: notes.append(n)
    )
    assert [note[:2] for note in notes][-1] == (3, 3)
    assert sorted(note[0] for note in notes) == [note[0] for note in notes]
    assert notes[-1][2] == "toy/hard: 3 kept, 2 left out"
    assert len(notes) == 5


def test_an_expert_that_keeps_failing_stops_the_collection_and_makes_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expert of toy/impossible solved fewer than 2 of 10 episodes with noise 0.8"):
        collect(["toy/a", "toy/impossible"], tmp_path / "set", 2, workers=2, make_env=make_toy)
    assert [path.name for path in tmp_path.iterdir()] == ["set.part"]
    result = collect(["toy/a"], tmp_path / "set", 2, workers=2, make_env=make_toy)  # without it, it goes on
    assert result.tasks[0].kept == 2
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_broken_simulator_stops_the_collection_and_makes_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="toy/raises, seed 1: RuntimeError: the simulator broke"):
        collect(["toy/raises"], tmp_path / "raises", 3, workers=1, make_env=make_toy)
    with pytest.raises(RuntimeError, match=r"toy/dies, seed 1: worker died \(exit code 3\), twice"):
        collect(["toy/dies"], tmp_path / "dies", 3, workers=1, make_env=make_toy)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dies.part", "raises.part"]


def test_a_simulator_that_is_not_there_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SimulatorUnavailableError, match="buy one"):
        collect(["toy/none"], tmp_path / "set", 3, workers=1, make_env=make_toy)
    assert not list(tmp_path.iterdir())


def test_a_worker_that_died_once_is_given_another_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_DIED", str(tmp_path / "died"))
    result = collect(["toy/dies-once"], tmp_path / "set", 2, workers=1, make_env=make_toy)
    assert (tmp_path / "died").exists()
    assert result.tasks[0].kept == 2
    assert result.tasks[0].frames <= 2 * (MAX_STEPS + HOLD_STEPS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": [], "episodes": 1}, "1 episodes of 0 tasks"),
        ({"tasks": ["toy/a"], "episodes": 0}, "0 episodes of 1 tasks"),
        ({"tasks": ["toy/a", "toy/a"], "episodes": 1}, "named twice"),
        ({"tasks": ["toy/a"], "episodes": 1, "noise": -1.0}, "noise is -1.0"),
        ({"tasks": ["toy/a"], "episodes": 1, "workers": 0}, "workers is 0"),
        ({"tasks": ["toy/a"], "episodes": 1, "disturbances": 1.1}, "disturbances is 1.1, must be a chance"),
        ({"tasks": ["toy/a"], "episodes": 1, "noise": float("nan")}, "noise is nan"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        collect(root=tmp_path / "set", make_env=make_toy, **arguments)
    assert not list(tmp_path.iterdir())


def test_no_episode_starts_in_a_state_of_the_benchmark(recorded: tuple[Path, CollectResult]) -> None:
    marks = []
    for episode in LeRobotDataset(recorded[0]).episodes:
        env = ToyEnv(str(episode.extra["task"]))
        env.reset(int(episode.extra["seed"]))
        marks.append(env.mark)
    for state in range(len(STATES)):
        env.reset(0, state)
        assert env.mark not in marks
    with pytest.raises(AssertionError, match="only training seeds"):
        attempt(env, Job("toy/a", 0, eval_seed(0), 0.0, 0.0, Path("nowhere")))


def test_the_data_set_says_how_each_episode_was_perturbed(tmp_path: Path) -> None:
    collect(["toy/a"], tmp_path / "set", 12, seed=2, noise=0.4, disturbances=0.6, make_env=make_toy)
    data = LeRobotDataset(tmp_path / "set")
    for episode in data.episodes:
        rows = slice(episode.start, episode.start + episode.length - HOLD_STEPS)
        off = np.diff(data.state[rows, 0]) - data.actions[rows, 0][:-1]
        assert 0 <= episode.extra["noise"] <= 0.4
        if episode.extra["disturbance"] == "none":
            assert np.abs(off).max() < 3.5 * 0.5 * episode.extra["noise"]
    kinds = [episode.extra["disturbance"] for episode in data.episodes]
    assert 2 <= kinds.count("push") <= 10
    about = json.loads((tmp_path / "set" / ABOUT).read_text())
    assert about["settings"] == {"seed": 2, "noise": 0.4, "disturbances": 0.6, "pizero": __version__}
    assert (about["episodes"], about["failed"]) == (12, {"toy/a": 0})


class Slips(ToyEnv):
    """Solved until one more step is made; its benchmark asks for the last state."""

    def step(self, action: np.ndarray) -> Step:
        was_solved = self.solved
        step = super().step(action)
        return Step(step.success and not was_solved, self.task.name == "toy/first-success" and step.success)


@pytest.mark.parametrize(("name", "kept"), [("toy/last-state", False), ("toy/first-success", True)])
def test_what_the_benchmark_would_not_count_is_left_out(name: str, kept: bool, tmp_path: Path) -> None:
    outcome = attempt(Slips(name), Job(name, 0, 0, 0.0, 0.0, tmp_path / "0"))
    assert outcome.solved == kept
    assert (tmp_path / "0" / "numbers.npz").exists() == kept


def test_an_expert_may_go_on_after_the_first_success_but_not_beyond_the_last_step(tmp_path: Path) -> None:
    class Withdraws(ToyEnv):
        withdrawal = 0

        def expert_done(self) -> bool:
            self.withdrawal += self.solved
            return self.withdrawal > 4

    env = Withdraws("toy/a")
    env.reset(0)
    to_mark = int(np.ceil((abs(env.mark) - 0.3) / 0.25))
    assert attempt(env, Job("toy/a", 0, 0, 0.0, 0.0, tmp_path / "0")).frames == to_mark + 4 + HOLD_STEPS
    env.withdrawal, env.task = 0, replace(env.task, max_steps=to_mark + 4)
    assert attempt(env, Job("toy/a", 0, 0, 0.0, 0.0, tmp_path / "1")).solved
    env.withdrawal, env.task = 0, replace(env.task, max_steps=to_mark + 3)
    assert not attempt(env, Job("toy/a", 0, 0, 0.0, 0.0, tmp_path / "2")).solved


def test_slow_robots_hold_still_longer() -> None:
    assert [hold_steps(rate) for rate in (5.0, 20.0, 80.0, None)] == [5, 5, 3, 3]


def make_two_robots(name: str) -> ToyEnv:
    env = ToyEnv(name)
    if name == "toy/b":
        env.embodiment = replace(env.embodiment, name="other")
    return env


def test_tasks_of_two_robots_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"toy/. is for the robot \w+, toy/. for \w+; a data set has one robot"):
        collect(["toy/a", "toy/b"], tmp_path / "set", 3, workers=2, make_env=make_two_robots)
