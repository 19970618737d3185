import hashlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pizero.data.lerobot import LeRobotDataset
from pizero.frame import Frame
from pizero.policy.pi0_policy import Pi0Policy
from pizero.robot.libero import LIBERO
from pizero.sim.assets import VARIABLE
from pizero.sim.collect import collect
from pizero.sim.env import eval_seed, find_task, make_env, train_seed
from pizero.sim.rollout import evaluate, noise_seed
from pizero.weights.checkpoint import load_checkpoint

ASSETS = Path(__file__).parents[2] / "../shared/assets"
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libero") is None or not ASSETS.is_dir(), reason="LIBERO or its assets are not here"
)
TASK = "libero-object/3"
EXECUTE = 10


@pytest.fixture(autouse=True, scope="module")
def assets() -> Iterator[None]:
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(ASSETS.resolve())
    yield
    del os.environ[VARIABLE]
    if before is not None:
        os.environ[VARIABLE] = before


class ReplayPolicy:
    """Plays what the expert did in this process, found by the noise seed of the plan."""

    def __init__(self, task: str) -> None:
        self.embodiment = LIBERO
        self.states: list[np.ndarray] = []
        env = make_env(task)
        env.reset(eval_seed(0), 0)
        actions: list[np.ndarray] = []
        done = False
        while not done:
            actions.append(env.expert_action())
            step = env.step(actions[-1])
            self.success, done = step.success, step.done
        env.close()
        self.steps = len(actions)
        starts = range(0, len(actions), EXECUTE)
        self.chunks = {
            noise_seed(eval_seed(0), plan): np.stack((actions[i : i + EXECUTE] + [actions[-1]] * EXECUTE)[:EXECUTE])
            for plan, i in enumerate(starts)
        }

    def act_batch(self, frames: Sequence[Frame], seeds: Sequence[int] | None = None) -> np.ndarray:
        assert seeds is not None
        self.states += [frame.state for frame in frames]
        return np.stack([self.chunks[seed] for seed in seeds])


def test_another_process_plays_the_same_episode_of_the_benchmark() -> None:
    policy = ReplayPolicy(TASK)
    (result,) = evaluate(policy, [TASK], 1, EXECUTE, workers=1)
    assert (result.success, result.steps, result.error) == (policy.success, policy.steps, None)
    assert result.state == 0
    assert policy.success
    assert len(policy.states) == -(-policy.steps // EXECUTE)


def test_demonstrations_are_recorded_and_read_back(tmp_path: Path) -> None:
    collect([TASK], tmp_path / "set", 1, workers=1, noise=0.3)
    data = LeRobotDataset(tmp_path / "set")
    assert data.embodiment == LIBERO
    assert data.episodes[0].task == "pick up the bbq sauce and place it in the basket"
    env = make_env(TASK)
    env.reset(int(str(data.episodes[0].extra["seed"])))
    frame, recorded = env.frame(), data.frame(0)
    env.close()
    np.testing.assert_array_equal(recorded.state, frame.state)
    for camera in LIBERO.cameras:
        difference = np.abs(recorded.images[camera].astype(int) - frame.images[camera].astype(int))
        assert recorded.images[camera].shape == (256, 256, 3)
        assert difference.mean() < 6  # a video loses a little
    assert np.abs(data.actions).max() <= 1


@pytest.mark.parametrize(
    ("suite", "scene", "told", "goal"),
    [
        ("spatial", 7, 9, ["on", "akita_black_bowl_2", "plate_1"]),  # the bowl on the cabinet, not that on the stove
        ("object", 4, 3, ["in", "bbq_sauce_1", "basket_1_contain_region"]),  # the sauce, not the ketchup
    ],
)
def test_another_text_sends_the_policies_in_assets_to_another_thing(
    suite: str, scene: int, told: int, goal: list[str]
) -> None:
    policy = Pi0Policy(load_checkpoint(Path(__file__).parents[2] / f"assets/libero-{suite}"))
    task, prompt = f"libero-{suite}/{scene}", find_task(f"libero-{suite}/{told}").prompt
    (own,) = evaluate(policy, [task], 1, execute_steps=4, workers=1)
    assert (own.error, own.success) == (None, True)
    env = make_env(task)
    env.reset(eval_seed(0), 0)
    for plan in range(env.task.max_steps // 4):
        (chunk,) = policy.act_batch([replace(env.frame(), prompt=prompt)], [noise_seed(eval_seed(0), plan)])
        successes = [env.step(action).success for action in chunk[:4]]
        assert not any(successes), "it took the scene's own thing"
        if env._world.holds(goal):
            break
    else:
        pytest.fail("it took neither")
    env.close()


PROGRAM = """
import hashlib, sys
import numpy as np
from pizero.sim.env import make_env
env = make_env("libero-goal/3")
env.reset(5)
for _ in range(5):
    env.step(np.array([0.5, 0.5, -0.5, 0, 0, 0.5, 1], np.float32))
frame = env.frame()
parts = [frame.state, env._world.sim.data.qpos, *frame.images.values()]
print(hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest())
"""


def python(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **variables}, timeout=300
    )


def test_a_seed_names_one_episode_in_every_process_and_nothing_but_results_is_printed() -> None:
    first, second = python(PROGRAM, PYTHONHASHSEED="1"), python(PROGRAM, PYTHONHASHSEED="2")
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == second.stdout
    assert len(first.stdout) == 65
    other = make_env("libero-goal/2")
    other.reset(train_seed(0))
    other.close()
    env = make_env("libero-goal/3")
    env.reset(5)
    for _ in range(5):
        env.step(np.array([0.5, 0.5, -0.5, 0, 0, 0.5, 1], np.float32))
    frame = env.frame()
    parts = [frame.state, env._world.sim.data.qpos, *frame.images.values()]
    env.close()
    assert hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest() == first.stdout.strip()


def test_without_egl_the_error_is_one_line_with_the_command_that_helps() -> None:
    ended = python(
        "import ctypes.util\n"
        "find = ctypes.util.find_library\n"
        "ctypes.util.find_library = lambda name: None if name in ('EGL', 'GL') else find(name)\n"
        "import ctypes\n"
        "load = ctypes.CDLL.__init__\n"
        "def refuse(self, name, *rest, **more):\n"
        "    if name and ('EGL' in name or 'libGL' in name):\n"
        "        raise OSError(name + ': cannot open shared object file')\n"
        "    load(self, name, *rest, **more)\n"
        "ctypes.CDLL.__init__ = refuse\n"
        "from pizero.sim.env import make_env\n"
        "try:\n"
        "    make_env('libero-object/0')\n"
        "except OSError as error:\n"
        "    print(error)\n"
    )
    assert ended.stderr == ""
    assert ended.stdout.count("\n") == 1
    assert "apt-get install -y libegl1 libgl1-mesa-dri" in ended.stdout


def test_changing_tasks_keeps_memory_bounded() -> None:
    ended = python(
        "from pizero.sim.env import make_env\n"
        "used = []\n"
        "for number in (0, 1, 0, 1):\n"
        "    env = make_env(f'libero-object/{number}')\n"
        "    env.reset(0)\n"
        "    env.frame()\n"
        "    env.close()\n"
        "    used.append(int(open('/proc/self/statm').read().split()[1]) * 4096 / 1e6)\n"
        "print(max(used[1:]) - used[1])\n"
    )
    assert ended.returncode == 0, ended.stderr
    assert float(ended.stdout) < 100  # megabytes; one model with its pictures takes 250
