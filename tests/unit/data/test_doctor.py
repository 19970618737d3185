"""The doctor's whole round, over a recorded data set that is well and over copies with one fault each."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rlds_files import BRIDGE_STEP, bridge_episode, write_rlds

from pizero.data.dataset import Dataset, open_dataset
from pizero.data.doctor import Trained, examine, make_plan
from pizero.data.doctor_clock import read_timestamps
from pizero.data.doctor_finding import Finding
from pizero.data.lerobot import LeRobotWriter
from pizero.data.prompt import Tokenizer, train_tokenizer
from pizero.data.stats import compute_stats
from pizero.embodiment import Embodiment
from pizero.frame import Frame
from pizero.robot.aloha import ALOHA

LENGTHS = (60, 70)
PROMPT = "close the drawer"
ROBOT = Embodiment(
    name="arm",
    cameras=("front", "wrist"),
    state=("hand_x", "hand_y", "gripper_openness"),
    actions=("hand_dx", "hand_dy", "gripper"),
    control_rate_hz=10.0,
    action_low=(-1.0, -1.0, 0.0),
    action_high=(1.0, 1.0, 1.0),
    gripper_action="1 opens",
)


def episode(length: int, seed: int) -> tuple[list[Frame], np.ndarray]:
    """A hand that wanders, and a gripper that closes in the middle; noise in the pictures."""
    random, t = np.random.default_rng(seed), np.arange(length)
    path = np.stack([np.sin(t / 7 + seed), np.cos(t / 9) + 0.02 * t], 1)
    command = np.where((t > 20) & (t < 45), 0.0, 1.0)
    openness = np.concatenate([np.ones(3), command[:-3]])
    state = np.concatenate([path, openness[:, None]], 1).astype(np.float32)
    moves = np.clip(3 * np.gradient(path, axis=0) + random.normal(0, 0.05, path.shape), -1, 1)
    actions = np.concatenate([moves, command[:, None]], 1).astype(np.float32)
    ground = np.kron(random.integers(40, 200, (2, 4, 6, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)
    frames = []
    for i in range(length):
        views = ground.copy()
        views[:, 8:16, i % 30 : i % 30 + 12] = 250
        frames.append(Frame({"front": views[0], "wrist": views[1]}, state[i], PROMPT))
    return frames, actions


def write(root: Path, robot: Embodiment = ROBOT, change: Callable = lambda frames, actions: (frames, actions)) -> Path:
    with LeRobotWriter(root, robot, dict.fromkeys(robot.cameras, (32, 48))) as writer:
        for seed, length in enumerate(LENGTHS):
            writer.add_episode(*change(*episode(length, seed)))
    return root


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write(tmp_path_factory.mktemp("well") / "data"))


@pytest.fixture(scope="module")
def trained(dataset: Dataset) -> Trained:
    config = replace(make_plan(dataset, None), horizon=10, prompt_length=12, raw_actions=("gripper",))
    return Trained(config, compute_stats(dataset), Tokenizer(train_tokenizer((PROMPT,), 300)))


def serious(dataset: Dataset, trained: Trained | None = None, **changes: object) -> list[tuple[str, str]]:
    plan = replace(make_plan(dataset, trained), **({"horizon": 10} | changes))
    findings = examine(dataset, plan, trained, 16, read_timestamps(dataset.root))
    return [(finding.level, finding.topic) for finding in findings if finding.level != "note"]


def test_a_good_data_set_has_nothing_serious(dataset: Dataset, trained: Trained) -> None:
    assert serious(dataset) == []
    assert serious(dataset, trained) == []


def test_the_plan_is_the_checkpoints_so_far_as_the_names_agree(dataset: Dataset, trained: Trained) -> None:
    assert make_plan(dataset, None).normalization == "bounds"
    config = replace(
        trained.config,
        embodiment=replace(ROBOT, state=("hand_x", "y", "g"), actions=("hand_dx", "b", "grip")),
        normalization="z-score",
        raw_state=("hand_x",),
        raw_actions=("grip",),
        delta_actions=("hand_dx",),
    )
    plan = make_plan(dataset, Trained(config, trained.stats, trained.tokenizer))
    assert (plan.normalization, plan.raw_state, plan.raw_actions) == ("z-score", ("hand_x",), ())
    assert (plan.delta_actions, plan.embodiment) == (("hand_dx",), ROBOT)


def test_one_outlier_is_found_under_the_plans_normalisation(tmp_path: Path) -> None:
    def change(frames: list[Frame], actions: np.ndarray):
        if len(frames) == 70:
            frames[5] = replace(frames[5], state=frames[5].state + np.float32([900, 0, 0]))
        return frames, actions

    bad = open_dataset(write(tmp_path / "data", change=change))
    assert ("error", "near-constant") in serious(bad)
    findings = examine(bad, make_plan(bad, None), None, 4)
    worst: Finding = next(finding for finding in findings if finding.topic == "near-constant")
    assert "episode 1, frame 5" in worst.text
    assert serious(bad, raw_state=("hand_x",)) != serious(bad)


def test_a_wrong_gripper_convention_is_found(tmp_path: Path) -> None:
    wrong = open_dataset(write(tmp_path / "data", replace(ROBOT, gripper_action="1 closes")))
    assert serious(wrong) == [("error", "gripper")]


def test_a_black_camera_is_found(tmp_path: Path) -> None:
    def change(frames: list[Frame], actions: np.ndarray):
        black = np.zeros((32, 48, 3), np.uint8)
        return [replace(f, images={"front": f.images["front"], "wrist": black}) for f in frames], actions

    assert serious(open_dataset(write(tmp_path / "data", change=change))) == [("error", "pictures")]


def test_a_checkpoint_of_another_camera_order_and_convention_is_found(dataset: Dataset, trained: Trained) -> None:
    robot = replace(ROBOT, cameras=("wrist", "front"), gripper_action="1 closes")
    other = Trained(replace(trained.config, embodiment=robot), trained.stats, trained.tokenizer)
    assert serious(dataset, other) == [("error", "cameras"), ("error", "gripper")]


def test_relative_actions_are_judged_as_relative(dataset: Dataset, tmp_path: Path) -> None:
    assert serious(dataset, delta_actions=("hand_dx", "hand_dy"), normalization="z-score") == []

    def change(frames: list[Frame], actions: np.ndarray):
        actions[30, 0] += 2000.0 if len(frames) == 70 else 0.0
        return frames, actions

    robot = replace(ROBOT, action_low=(), action_high=())
    bad = open_dataset(write(tmp_path / "data", robot, change))
    plan = make_plan(bad, None)
    absolute, relative = (
        next(f for f in examine(bad, replace(plan, delta_actions=delta), None, 4) if "action hand_dx" in f.dims)
        for delta in ((), ("hand_dx",))
    )
    assert "episode 1, frame 30" in absolute.text
    assert "episode" not in relative.text  # it is in many chunks
    assert relative.level == absolute.level == "error"


def test_an_aloha_is_compared_in_the_checkpoints_units(tmp_path: Path) -> None:
    joints = np.random.default_rng(0).uniform(0.1, 0.9, (50, 14))
    joints[:, 1] = np.linspace(0.2, 0.9, 50)  # a shoulder, which turns the other way for pi0
    robot = replace(ALOHA, cameras=("cam_high",), control_rate_hz=10.0)

    def change(frames: list[Frame], actions: np.ndarray):
        chosen = joints[: len(frames)].astype(np.float32)
        kept = [Frame({"cam_high": f.images["front"]}, s, PROMPT) for f, s in zip(frames, chosen, strict=False)]
        return kept, chosen[:, :14] + np.float32(0.01)

    data = open_dataset(write(tmp_path / "data", robot, change))
    config = replace(make_plan(data, None), joint_units="pi-aloha", horizon=10, prompt_length=12)
    tokenizer = Tokenizer(train_tokenizer((PROMPT,), 300))
    right = Trained(config, compute_stats(data, config.units), tokenizer)
    assert "statistics" not in {finding.topic for finding in examine(data, make_plan(data, right), right, 4)}
    wrong = Trained(config, compute_stats(data), tokenizer)
    assert "statistics" in {finding.topic for finding in examine(data, make_plan(data, wrong), wrong, 4)}


def test_a_time_stamp_that_does_not_fit_is_found(dataset: Dataset) -> None:
    times = read_timestamps(dataset.root)
    assert times is not None
    late = times + 5.0
    findings = examine(dataset, make_plan(dataset, None), None, 4, late)
    assert [f.topic for f in findings if f.level == "error"] == ["time stamps"]


def test_an_rlds_folder_is_examined_too(tmp_path: Path) -> None:
    episodes = [bridge_episode(12, 0), bridge_episode(15, 1), bridge_episode(9, 2, prompt="")]
    bridge = open_dataset(write_rlds(tmp_path / "1.0.0", "bridge_dataset", BRIDGE_STEP, [episodes]))
    findings = examine(bridge, replace(make_plan(bridge, None), horizon=4), None, 8, read_timestamps(bridge.root))
    bridge.close()
    texts = [finding.text for finding in findings]
    assert any("1 of 3 episodes have no instruction" in text for text in texts)
    assert any("2 episodes of 11 to 14 frames" in text or "2 episodes of 12 to 15 frames" in text for text in texts)
