import json
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest

from pizero.data.lerobot import LeRobotDataset
from pizero.frame import Frame
from pizero.sim.collect import collect
from pizero.sim.env import eval_seed, make_env, train_seed
from pizero.sim.metaworld import CAMERA, EMBODIMENT, FRAME_SIZE
from pizero.sim.outcome import EpisodeResult
from pizero.sim.report import write_report
from pizero.sim.result import Film, ReportData, task_rows
from pizero.sim.rollout import evaluate, noise_seed

TASKS = ["metaworld/faucet-open", "metaworld/faucet-close"]
EXECUTE = 4
EPISODES = 2


class ReplayPolicy:
    """Plays what the expert did in this process, found by the noise seed of the plan; half an action without one."""

    def __init__(self, task: str) -> None:
        self.embodiment = EMBODIMENT
        self.prompts: set[str] = set()
        self.chunks: dict[int, np.ndarray] = {}
        self.expected: list[tuple[bool, int]] = []
        env = make_env(task)
        for seed in map(eval_seed, range(EPISODES)):
            env.reset(seed)
            actions: list[np.ndarray] = []
            success = done = False
            while not done:
                actions.append(env.expert_action())
                step = env.step(actions[-1])
                success, done = step.success, step.done
            self.expected.append((success, len(actions)))
            for plan, start in enumerate(range(0, len(actions), EXECUTE)):
                rows = [actions[min(i, len(actions) - 1)] for i in range(start, start + EXECUTE)]
                self.chunks[noise_seed(seed, plan)] = np.stack(rows)
        env.close()

    def act_batch(self, frames: Sequence[Frame], seeds: Sequence[int] | None = None) -> np.ndarray:
        assert seeds is not None
        self.prompts |= {frame.prompt for frame in frames}
        return np.stack([self.chunks.get(seed, np.full((EXECUTE, 4), 0.5, np.float32)) for seed in seeds])


@pytest.fixture(scope="module")
def replayed() -> tuple[ReplayPolicy, list[EpisodeResult], list[EpisodeResult]]:
    """What the expert of faucet-open did, played in faucet-open by two processes and in the other task."""
    policy = ReplayPolicy(TASKS[0])
    own = evaluate(policy, TASKS[:1], EPISODES, EXECUTE, workers=2)
    other = evaluate(policy, TASKS[1:], EPISODES, EXECUTE, workers=1, max_steps=80)
    return policy, own, other


def test_a_seed_names_the_same_episode_in_every_process(
    replayed: tuple[ReplayPolicy, list[EpisodeResult], list[EpisodeResult]],
) -> None:
    policy, own, _ = replayed
    assert [(result.success, result.steps) for result in own] == policy.expected
    assert all(success for success, _ in policy.expected)


def test_the_right_moves_for_one_instruction_fail_under_the_other(
    replayed: tuple[ReplayPolicy, list[EpisodeResult], list[EpisodeResult]],
) -> None:
    policy, _, other = replayed
    assert [(result.success, result.error) for result in other] == [(False, None)] * EPISODES
    assert policy.prompts == {"open the faucet", "close the faucet"}


def test_demonstrations_are_recorded_and_read_back(tmp_path: Path) -> None:
    result = collect(TASKS, tmp_path / "set", 2, workers=2, noise=0.3)
    data = LeRobotDataset(tmp_path / "set")
    assert data.embodiment == EMBODIMENT
    assert len(data.episodes) == 4
    assert data.num_frames == sum(task.frames for task in result.tasks)
    assert [episode.task for episode in data.episodes] == ["open the faucet"] * 2 + ["close the faucet"] * 2
    assert len({tuple(data.state[episode.start + 20]) for episode in data.episodes}) == 4
    env = make_env(TASKS[0])
    env.reset(train_seed(0))
    frame, recorded = env.frame(), data.frame(0)
    env.close()
    assert data.episodes[0].extra["seed"] == train_seed(0)
    np.testing.assert_array_equal(recorded.state, frame.state)
    np.testing.assert_array_equal(data.actions[0].shape, (4,))
    difference = np.abs(recorded.images[CAMERA].astype(int) - frame.images[CAMERA].astype(int))
    assert recorded.images[CAMERA].shape == (FRAME_SIZE, FRAME_SIZE, 3)
    assert difference.mean() < 6  # a video loses a little
    assert np.abs(data.actions).max() <= 1


def test_an_evaluation_becomes_a_page_with_films(tmp_path: Path) -> None:
    policy = ReplayPolicy(TASKS[0])
    results = evaluate(policy, TASKS[:1], EPISODES, EXECUTE, video_dir=tmp_path / "films", videos_per_task=1)
    video = results[0].video
    assert video is not None
    with av.open(str(video)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(pictures) == -(-results[0].steps // 2) + 10  # every second step, then half a second of the end
    assert np.abs(pictures[0].astype(int) - pictures[-1].astype(int)).mean() > 1  # something moved
    films = (Film(video, "opens the faucet"),)
    strips = (Film(video.with_suffix(".png"), "opens the faucet"),)
    write_report(tmp_path / "report.html", ReportData("Replay", rows=task_rows(results), videos=films, strips=strips))
    twin = json.loads((tmp_path / "result.json").read_text())
    assert [(task["task"], task["successes"], task["episodes"]) for task in twin["tasks"]] == [
        (TASKS[0], EPISODES, EPISODES)
    ]
