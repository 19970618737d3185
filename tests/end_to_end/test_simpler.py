import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from pizero.data.lerobot import LeRobotDataset
from pizero.frame import Frame
from pizero.policy.pi0_policy import Pi0Policy
from pizero.robot.bridge import BRIDGE
from pizero.sim.assets import VARIABLE
from pizero.sim.collect import collect
from pizero.sim.env import eval_seed, make_env
from pizero.sim.rollout import evaluate, noise_seed
from pizero.weights.checkpoint import load_checkpoint

ASSETS = Path(__file__).parents[2] / "../shared/assets"
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mani_skill") is None or not ASSETS.is_dir(), reason="ManiSkill3 or its assets are missing"
)
TASKS = ["simpler/stack-cube", "simpler/eggplant-in-basket"]
EXECUTE = 4


@pytest.fixture(autouse=True, scope="module")
def assets() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(ASSETS.resolve()))
        yield


class ReplayPolicy:
    """Plays what the expert did in this process, found by the noise seed of the plan."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self.embodiment = BRIDGE
        self.successes: list[bool] = []
        self.chunks: dict[tuple[str, int], np.ndarray] = {}
        for task in tasks:
            env = make_env(task)
            env.reset(eval_seed(0), 0)
            actions: list[np.ndarray] = []
            done = False
            while not done:
                actions.append(env.expert_action())
                step = env.step(actions[-1])
                done = step.done
            self.successes.append(step.success)
            for plan, start in enumerate(range(0, len(actions), EXECUTE)):
                self.chunks[env.task.prompt, noise_seed(eval_seed(0), plan)] = np.stack(
                    actions[start : start + EXECUTE]
                )
            env.close()

    def act_batch(self, frames: Sequence[Frame], seeds: Sequence[int] | None = None) -> np.ndarray:
        assert seeds is not None
        return np.stack([self.chunks[frame.prompt, seed] for frame, seed in zip(frames, seeds, strict=True)])


def test_another_process_plays_the_same_episodes_one_task_after_the_other() -> None:
    policy = ReplayPolicy(TASKS)
    results = evaluate(policy, TASKS, 1, EXECUTE, workers=1)
    assert [(result.success, result.steps, result.error) for result in results] == [(True, 60, None), (True, 120, None)]
    assert [result.state for result in results] == [0, 0]
    assert policy.successes == [True, True]


def test_demonstrations_are_recorded_and_read_back(tmp_path: Path) -> None:
    collect(TASKS[:1], tmp_path / "set", 1, workers=1, noise=0.5)
    data = LeRobotDataset(tmp_path / "set")
    assert data.embodiment == BRIDGE
    assert data.episodes[0].task == "stack the green block on the yellow block"
    assert data.num_frames < 60
    env = make_env(TASKS[0])
    env.reset(int(str(data.episodes[0].extra["seed"])))
    frame, recorded = env.frame(), data.frame(0)
    env.close()
    np.testing.assert_array_equal(recorded.state, frame.state)
    (camera,) = BRIDGE.cameras
    difference = np.abs(recorded.images[camera].astype(int) - frame.images[camera].astype(int))
    assert recorded.images[camera].shape == (224, 224, 3)
    assert difference.mean() < 6  # a video loses a little
    assert np.linalg.norm(data.actions[:, :3], axis=1).max() <= 0.03 + 1e-6
    assert set(data.actions[:, 6]) == {0.0, 1.0}
    np.testing.assert_array_equal(data.actions[-1], [0, 0, 0, 0, 0, 0, 1])  # it has learnt to stand still


def test_the_policy_in_assets_solves_these_tasks_and_looks_at_the_picture() -> None:
    policy = Pi0Policy(load_checkpoint(Path(__file__).parents[2] / "assets/simpler-bridge"))
    assert [result.success for result in evaluate(policy, TASKS, 1, execute_steps=2)] == [True, True]
    assert policy.embodiment == BRIDGE
    env = make_env(TASKS[0])
    chunks = []
    for state in (0, 3):  # the cube to grasp lies elsewhere, the hand does not
        env.reset(eval_seed(0), state)
        chunks.append(policy.act_batch([env.frame()], [0])[0])
    assert chunks[0].shape == (8, 7)
    assert np.abs(chunks[0][:, :3].sum(0) - chunks[1][:, :3].sum(0)).max() > 0.02
