"""`pizero doctor` and `pizero stats` as a user types them, beside a checkpoint of the same robot and of another."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pizero.data.lerobot import LeRobotWriter
from pizero.data.prompt import Tokenizer, train_tokenizer
from pizero.data.stats import DatasetStats, compute_stats
from pizero.data.transform import Transform, TransformConfig
from pizero.embodiment import Embodiment
from pizero.frame import Frame
from pizero.model.config import Pi0Config
from pizero.model.pi0 import Pi0
from pizero.weights.checkpoint import save_checkpoint, save_tensors
from pizero.weights.stats_file import read_stats

ROBOT = Embodiment(
    name="arm",
    cameras=("front",),
    state=("hand_x", "gripper_openness"),
    actions=("hand_dx", "gripper"),
    control_rate_hz=10.0,
    action_low=(-1.0, 0.0),
    action_high=(1.0, 1.0),
    gripper_action="1 opens",
)


def pizero(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pizero", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def write(root: Path, seed: int, command: float | None = None) -> Path:
    """Two episodes; `command`: what the gripper is told all the time, None: to close halfway."""
    random = np.random.default_rng(seed)
    with LeRobotWriter(root, ROBOT, {"front": (32, 32)}) as writer:
        for length in (40, 50):
            t = np.arange(length)
            grip = np.where(t < length // 2, 1.0, 0.0) if command is None else np.full(length, command)
            state = np.stack([np.sin(t / 6 + seed), grip], 1).astype(np.float32)
            state += random.normal(0, 0.01, state.shape).astype(np.float32)
            actions = np.stack([np.cos(t / 6 + seed), grip], 1).astype(np.float32)
            picture = np.kron(random.integers(40, 200, (4, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8)
            pictures = [np.roll(picture, i, 1) for i in range(length)]
            writer.add_episode(
                [Frame({"front": p}, s, "take it") for p, s in zip(pictures, state, strict=True)], actions
            )
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "well", 0)


@pytest.fixture(scope="module")
def checkpoint(tiny_config: Pi0Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the same robot, but its gripper goes the other way."""
    from pizero.data.dataset import open_dataset

    folder = tmp_path_factory.mktemp("run")
    data = open_dataset(write(folder / "data", 1))
    config = replace(tiny_config, vocab_size=300)
    sizes = TransformConfig(
        replace(ROBOT, gripper_action="1 closes"),
        image_size=config.vision.image_size,
        prompt_length=20,
        state_dim=config.state_dim,
        action_dim=config.action_dim,
        horizon=config.horizon,
    )
    transform = Transform(sizes, compute_stats(data), Tokenizer(train_tokenizer(["take it"], 300)))
    weights = partial(save_tensors, tensors=Pi0(config).state_dict())
    save_checkpoint(folder / "checkpoint", weights, config, transform)
    return folder / "checkpoint"


def test_a_good_data_set_ends_with_0_and_a_table(root: Path) -> None:
    done = pizero("doctor", root, "--horizon", 10)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 episodes, 90 frames, 1 cameras, 1 prompts" in done.stdout
    assert "0 errors" in done.stdout
    assert any(line.startswith("  gripper_openness") for line in done.stdout.splitlines())
    assert max(map(len, done.stdout.splitlines())) <= 120


def test_an_error_ends_with_1_and_says_what_to_do(tmp_path: Path) -> None:
    bad = write(tmp_path / "bad", 0, command=1.0)
    done = pizero("doctor", bad, "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 1
    (finding,) = [finding for finding in told["findings"] if finding["level"] == "error"]
    assert (finding["topic"], finding["dims"]) == ("constant", ["action gripper"])
    assert told["dimensions"]["action"][1]["flags"] == ["constant"]
    assert told["dimensions"]["action"][1]["max"] == 1.0
    assert pizero("doctor", bad, "--raw-actions", "gripper").returncode == 0  # the advice helps


def test_beside_a_checkpoint_the_gripper_is_compared(root: Path, checkpoint: Path) -> None:
    done = pizero("doctor", root, checkpoint)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "'1 opens' in the data and '1 closes' in the checkpoint" in " ".join(done.stdout.split())


def test_what_cannot_be_read_ends_with_2_and_one_line(root: Path, tmp_path: Path) -> None:
    for arguments in (
        ("doctor", tmp_path),
        ("doctor", root, tmp_path),
        ("doctor", root, "--frames", 0),
        ("doctor", root, "--raw-state", "hand_q"),
        ("stats", root, "--horizon", 3),
        ("stats", root, root),
    ):
        done = pizero(*arguments)
        assert done.returncode == 2, (arguments, done.stdout)
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) == 1


def test_joint_statistics_are_those_of_all_frames_and_can_be_read_again(root: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", 3)
    file = tmp_path / "stats.json"
    done = pizero("stats", root, other, "--json", "--output", file)
    assert done.returncode == 0, done.stderr
    computed = DatasetStats.from_json(json.loads(done.stdout))
    assert computed.state.count == 180
    one, two = (json.loads(pizero("stats", folder, "--json").stdout) for folder in (root, other))
    assert computed.state.mean == pytest.approx((np.array(one["state"]["mean"]) + two["state"]["mean"]) / 2)
    assert computed.state.to_json() == DatasetStats.load(file).state.to_json()
    assert read_stats(file).actions.q99 == pytest.approx(computed.actions.q99)
    assert "exists already" in pizero("stats", root, "--output", file).stderr


def test_relative_statistics_are_those_of_the_chunks(root: Path) -> None:
    done = pizero("stats", root, "--delta-actions", "hand_dx", "--horizon", 3, "--json")
    assert json.loads(done.stdout)["actions"]["count"] == 3 * 90 - 2 * 3  # two and one timesteps lack at each end
