"""Training on a data set on disk: it learns, it can be killed and goes on bit for bit, it stops cleanly."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pizero.data.lerobot import LeRobotDataset, LeRobotWriter
from pizero.embodiment import Embodiment
from pizero.frame import Frame
from pizero.model.config import GemmaConfig, Pi0Config, SiglipConfig
from pizero.train.config import (
    AugmentConfig,
    DataConfig,
    OptimConfig,
    TrainConfig,
    config_to_json,
)
from pizero.train.log import Progress
from pizero.train.loop import TrainResult, train
from pizero.weights.checkpoint import load_checkpoint

ROBOT = Embodiment(
    name="arm",
    cameras=("front",),
    state=("x", "y"),
    actions=("dx", "dy"),
    control_rate_hz=10.0,
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
)
PROMPTS = ("go left", "go right")

CHILD = """
import json, os, signal, sys, time
from pathlib import Path
from pizero.train.config import config_from_json
from pizero.train.loop import train

file, step, number = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits an ignored one


config = config_from_json(json.loads(file.read_text()), str(file))


def progress(now):
    if now.metrics.step == step:
        while step > config.save_every and not (config.output / "last").exists():
            time.sleep(0.01)  # it is written while the run goes on
        os.kill(os.getpid(), number)

sys.exit(train(config, progress).exit_code)
"""
"""A process that gets a signal when it reports a step."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny products gain nothing from more, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six short episodes: the prompt decides the sign of dx, x its size, the brightness of the picture decides dy."""
    root, rng = tmp_path_factory.mktemp("data") / "set", np.random.default_rng(0)
    with LeRobotWriter(root, ROBOT, {"front": (24, 24)}) as writer:
        for episode in range(6):
            sign, light = (-1, 1)[episode % 2], (40, 120, 200)[episode // 2]
            frames, actions = [], []
            for i in range(8):
                image = np.full((24, 24, 3), light, np.uint8)
                state = np.array([i / 7, rng.normal()], np.float32)
                frames.append(Frame({"front": image}, state, PROMPTS[episode % 2]))
                actions.append([sign * (0.4 + 0.4 * i / 7), (light - 120) / 100])
            writer.add_episode(frames, np.array(actions, np.float32))
    return root


def make_config(dataset: Path, output: Path) -> TrainConfig:
    gemma = GemmaConfig(width=32, depth=2, mlp_dim=64, num_heads=4, num_kv_heads=1, head_dim=16)
    return TrainConfig(
        name="test",
        output=output,
        model=Pi0Config(
            vision=SiglipConfig(width=32, depth=2, mlp_dim=64, num_heads=2, image_size=24, patch_size=8),
            vlm=gemma,
            action=gemma,
            vocab_size=300,
            state_dim=3,
            action_dim=4,
            horizon=3,
        ),
        data=DataConfig(root=dataset, prompt_length=16, augment=AugmentConfig(shift_pixels=2, brightness=0.1)),
        optim=OptimConfig(lr=3e-3, min_lr=3e-4, warmup_steps=4, weight_decay=1e-3, ema_decay=0.9),
        steps=20,
        batch_size=6,
        accumulate=2,
        draws=2,
        precision="fp32",
        device="cpu",
        compile=False,
        save_every=8,
        log_every=3,
        tensorboard=False,
    )


@pytest.fixture
def config(dataset: Path, tmp_path: Path) -> TrainConfig:
    return make_config(dataset, tmp_path / "run")


def silent(progress: Progress) -> None:
    pass


def run_child(config: TrainConfig, step: int, number: int) -> subprocess.CompletedProcess[str]:
    """Train in another process, which gets the signal `number` when it reports `step`."""
    config.output.parent.mkdir(parents=True, exist_ok=True)
    file = config.output.with_suffix(".json")
    file.write_text(json.dumps(config_to_json(config)))
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(file), str(step), str(number)],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        timeout=300,
    )


def curve(output: Path) -> list[tuple[float, ...]]:
    """What must not depend on interruptions; times do."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [tuple(line[key] for key in ("step", "loss", "lr", "grad_norm")) for line in lines]


def contents(checkpoint: Path) -> dict[str, bytes]:
    """The files of a checkpoint, but for those that hold paths, times or random names."""
    files = (file for file in checkpoint.rglob("*") if file.is_file())
    return {
        str(file.relative_to(checkpoint)): file.read_bytes()
        for file in files
        if file.name not in ("train.json", "state.json", ".metadata")
    }


def assert_equal_runs(one: TrainResult, other: TrainResult) -> None:
    assert curve(one.checkpoint.parent) == curve(other.checkpoint.parent)
    mine, theirs = contents(one.checkpoint), contents(other.checkpoint)
    assert mine.keys() == theirs.keys()
    assert "train_state/__0_0.distcp" in mine
    for name, data in mine.items():
        assert data == theirs[name], name
    assert one.loss == other.loss


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """The run that nobody interrupts."""
    return train(make_config(dataset, tmp_path_factory.mktemp("whole") / "run"), silent)


def test_a_run_killed_and_resumed_equals_one_that_was_not_bit_for_bit(config: TrainConfig, whole: TrainResult) -> None:
    child = run_child(config, step=12, number=signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert [line[0] for line in curve(config.output)] == [3, 6, 9, 12]  # beyond the checkpoint of step 8
    with (config.output / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "lo')  # a kill may come in the middle of a line
    (config.output / "step-000016.part").mkdir()  # and in the middle of saving
    resumed = train(replace(config, resume=True), silent)
    assert [line[0] for line in curve(config.output)] == [3, 6, 9, 12, 15, 18, 20]
    assert_equal_runs(resumed, whole)
    assert sorted(path.name for path in config.output.iterdir()) == [
        "last",
        "metrics.jsonl",
        "report.html",
        "step-000020",
    ]


@pytest.mark.gpu
def test_a_run_killed_and_resumed_on_a_gpu_goes_on_as_the_other(config: TrainConfig) -> None:
    config = replace(config, device="cuda", precision="bf16", log_every=1, optim=replace(config.optim, eps=1e-3))
    whole = train(replace(config, output=config.output.with_name("whole")), silent)
    assert run_child(config, step=12, number=signal.SIGKILL).returncode == -signal.SIGKILL
    resumed = train(replace(config, resume=True), silent)
    for mine, theirs in zip(curve(config.output), curve(whole.checkpoint.parent), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)
    assert resumed.step == whole.step


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends_with_its_exit_code(
    config: TrainConfig, whole: TrainResult, number: signal.Signals
) -> None:
    child = run_child(config, step=6, number=number)
    assert child.returncode == 128 + number, child.stderr
    assert child.stderr == "stopping after this step; once more stops at once, without saving\n"
    assert (config.output / "last").resolve().name == "step-000007"  # it came when step 6 was over
    assert_equal_runs(train(replace(config, resume=True), silent), whole)


def test_a_checkpoint_that_falls_inside_an_interval_of_metrics_keeps_its_sums(
    config: TrainConfig, whole: TrainResult
) -> None:
    """Step 8 is not a multiple of 3: the line of step 9 is a mean over steps 7 and 8 before, and 9 after."""

    def stop(progress: Progress) -> None:
        if progress.metrics.step == 9:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        train(config, stop)
    assert_equal_runs(train(replace(config, resume=True), silent), whole)


def test_two_runs_of_one_seed_are_equal_and_of_two_seeds_are_not(config: TrainConfig, whole: TrainResult) -> None:
    assert_equal_runs(train(config, silent), whole)
    other = train(replace(config, seed=1, output=config.output.with_name("other")), silent)
    assert curve(other.checkpoint.parent) != curve(config.output)


def test_a_run_validates_on_what_is_held_out_and_writes_its_page(config: TrainConfig) -> None:
    data = replace(config.data, held_out=0.3)
    config = replace(config, data=data, validate_every=8)
    train(config, silent)
    lines = [json.loads(line) for line in (config.output / "validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [8, 16, 20]
    assert lines[-1]["num_frames"] == 16  # of two of the six episodes
    assert "The run is done." in (config.output / "report.html").read_text()


def test_validations_change_no_bit_of_the_run(config: TrainConfig) -> None:
    config = replace(config, data=replace(config.data, held_out=0.3))
    seldom = train(replace(config, validate_every=1000), silent)
    often = train(replace(config, validate_every=2, output=config.output.with_name("often")), silent)
    assert_equal_runs(often, seldom)


def test_the_loss_falls_and_sampled_actions_approach_the_data(config: TrainConfig) -> None:
    """Fails for a target velocity of the wrong sign: its loss falls as well, but sampling runs away from the data."""
    optim = replace(config.optim, weight_decay=0.0, ema_decay=0.98)
    data = replace(config.data, preload=True, augment=AugmentConfig())
    config = replace(
        config, optim=optim, data=data, steps=250, batch_size=24, accumulate=1, draws=4, save_every=1000, log_every=10
    )
    result = train(config, silent)
    losses = [line[1] for line in curve(config.output)]
    assert losses[0] > 1.0
    assert np.mean(losses[-5:]) < 0.5 * losses[0]

    dataset, checkpoint = LeRobotDataset(data.root), load_checkpoint(result.checkpoint)
    rows = np.arange(dataset.num_frames)
    frames = [dataset.frame(int(i)) for i in rows]
    observation, mask = checkpoint.transform.observation(frames), checkpoint.transform.action_mask
    sampled = checkpoint.model.sample(observation, generator=torch.Generator().manual_seed(0), action_mask=mask)
    actions, real = dataset.chunks(rows, 3)
    planned = checkpoint.transform.invert_actions(sampled, dataset.state)
    error = np.abs(planned - actions)[real].mean()
    assert error < 0.12  # the mean action has an error of 0.57
    dx = planned[:, 0, 0]
    assert (np.sign(dx) == [(-1, 1)[frame.prompt == "go right"] for frame in frames]).all()


def test_a_batch_in_pieces_trains_as_the_whole(config: TrainConfig) -> None:
    config = replace(config, steps=6, log_every=1, optim=replace(config.optim, eps=1e-3))
    pieces = train(replace(config, accumulate=3), silent)
    whole = train(replace(config, accumulate=1, output=config.output.with_name("whole")), silent)
    for mine, theirs in zip(curve(pieces.checkpoint.parent), curve(whole.checkpoint.parent), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)


@pytest.mark.gpu
def test_a_compiled_run_follows_the_plain_one(config: TrainConfig) -> None:
    config = replace(config, steps=6, log_every=1, device="cuda", optim=replace(config.optim, eps=1e-3))
    compiled = train(replace(config, compile=True), silent)
    plain = train(replace(config, output=config.output.with_name("plain")), silent)
    for mine, theirs in zip(curve(compiled.checkpoint.parent), curve(plain.checkpoint.parent), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("compile", [False, True])
def test_a_run_as_a_cuda_graph_follows_the_plain_one(config: TrainConfig, compile: bool) -> None:
    config = replace(config, accumulate=1, steps=12, log_every=1, optim=replace(config.optim, eps=1e-3), device="cuda")
    graphed = train(replace(config, graph=True, compile=compile), silent)
    plain = train(replace(config, output=config.output.with_name("plain")), silent)
    for mine, theirs in zip(curve(graphed.checkpoint.parent), curve(plain.checkpoint.parent), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-2)


def test_a_cuda_graph_on_a_cpu_is_refused_before_the_first_step(config: TrainConfig) -> None:
    with pytest.raises(ValueError, match="graph is a CUDA graph, and this run is on cpu; give --no-graph"):
        train(replace(config, accumulate=1, graph=True), silent)
    assert not config.output.exists()


def test_a_loss_that_is_not_finite_names_the_step_and_saves_nothing(config: TrainConfig) -> None:
    config = replace(
        config, optim=replace(config.optim, lr=1e30, min_lr=0.0, warmup_steps=0), log_every=1, save_every=1
    )
    with pytest.raises(FloatingPointError, match=r"step 2: loss is (nan|inf), gradient norm .* Lower optim\.lr"):
        train(config, silent)
    assert [path.name for path in sorted(config.output.glob("step-*"))] == ["step-000001"]
    assert [line[0] for line in curve(config.output)] == [1]


def test_a_run_in_bf16_with_preloaded_pictures_and_tensorboard_trains_too(config: TrainConfig) -> None:
    data = replace(config.data, preload=True)
    seen: list[Progress] = []
    result = train(replace(config, precision="bf16", data=data, tensorboard=True), seen.append)
    assert result.step == 20
    assert [now.metrics.step for now in seen] == [3, 6, 9, 12, 15, 18, 20]
    assert (seen[-1].fraction, seen[-1].seconds_left, seen[0].fraction) == (1.0, 0.0, 0.15)
    assert all(0 <= now.metrics.data_wait <= 1 and now.metrics.samples_per_s > 0 for now in seen)
    assert list((config.output / "tensorboard").iterdir())


def test_a_time_limit_ends_the_run_with_the_smallest_learning_rate(config: TrainConfig) -> None:
    seen: list[Progress] = []
    config = replace(config, steps=10**6, max_seconds=1.5, log_every=1, save_every=10**6)
    result = train(config, seen.append)
    assert 1.5 <= result.seconds < 15
    assert result.exit_code == 0
    assert seen[-1].fraction == 1.0
    assert seen[-1].metrics.lr < 0.5 * max(now.metrics.lr for now in seen)
    assert load_checkpoint(config.output / "last")
    with pytest.raises(ValueError, match=r"max_seconds is None now and 1\.5 there"):
        train(replace(config, max_seconds=None, resume=True), silent)


def test_fine_tuning_starts_from_the_checkpoint_of_a_run(config: TrainConfig, whole: TrainResult) -> None:
    tuned = train(replace(config, init=whole.checkpoint), silent)
    assert curve(tuned.checkpoint.parent)[0][1] < curve(whole.checkpoint.parent)[0][1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: replace(c, resume=True), r"run has no checkpoint to resume; leave resume out"),
        (lambda c: replace(c, data=replace(c.data, root=None)), r"data\.root is not set; give .* with --data\.root"),
        (lambda c: replace(c, data=replace(c.data, root=Path("nowhere"))), r"nowhere is no folder"),
        (lambda c: replace(c, data=replace(c.data, raw_state=("z",))), r"'?z'?"),
        (
            lambda c: replace(c, data=replace(c.data, prompt_length=3)),
            r"'go (left|right)' has \d+ tokens, prompt_length is 3",
        ),
        (lambda c: replace(c, model=replace(c.model, vocab_size=200)), r"vocab_size is 200; .* need at least"),
    ],
)
def test_a_run_that_cannot_start_says_why_and_leaves_no_checkpoint(
    config: TrainConfig, change: Callable[[TrainConfig], TrainConfig], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(change(config), silent)
    assert not list(config.output.glob("step-*"))


def test_a_folder_with_a_run_is_not_written_over(config: TrainConfig) -> None:
    config = replace(config, steps=5)
    train(config, silent)
    before = contents(config.output / "last")
    with pytest.raises(ValueError, match=r"already holds step-000005; give --resume, or another output"):
        train(config, silent)
    with pytest.raises(ValueError, match=r"step-000005 has done 5 of 5 steps; raise steps to train on"):
        train(replace(config, resume=True), silent)
    assert contents(config.output / "last") == before
    assert train(replace(config, steps=7, resume=True), silent).step == 7


@pytest.mark.parametrize("preload", [False, True])
def test_a_run_trains_with_relative_actions_and_the_data_side_of_another_family(
    config: TrainConfig, preload: bool
) -> None:
    data = replace(
        config.data,
        delta_actions=("dx",),
        normalization="lerobot-quantile",
        prompt_format="pi05",
        prompt_length=48,
        resize="lerobot",
        preload=preload,
    )
    result = train(replace(config, data=data, steps=5), silent)
    transform = load_checkpoint(result.checkpoint).transform
    assert (transform.config.delta_actions, transform.config.resize) == (("dx",), "lerobot")
    dataset = LeRobotDataset(data.root)
    chunks, real = dataset.chunks(np.arange(dataset.num_frames), 3)
    relative = (chunks - dataset.state[:, None] * [1, 0])[real]
    np.testing.assert_allclose(transform.stats.actions.mean, relative.mean(0), atol=1e-6)
    np.testing.assert_allclose(transform.stats.actions.q99, np.quantile(relative, 0.99, axis=0), atol=1e-6)
    assert transform.stats.actions.count == len(relative) == real.sum()
