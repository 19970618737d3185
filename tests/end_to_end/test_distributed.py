"""`pizero.train` under torchrun: two processes on the CPU train as one, stop together, and can be killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pizero.data.lerobot import LeRobotWriter
from pizero.embodiment import Embodiment
from pizero.frame import Frame
from pizero.model.config import GemmaConfig, Pi0Config, SiglipConfig
from pizero.train.config import AugmentConfig, DataConfig, OptimConfig, TrainConfig, config_to_json
from pizero.train.log import Progress
from pizero.train.loop import train
from pizero.train.recordings import make_mixture, make_transforms, open_recordings
from pizero.weights.checkpoint import load_checkpoint

ROBOT = Embodiment("arm", ("front",), ("x", "y"), ("dx", "dy"), 10.0, action_low=(-1.0, -1.0), action_high=(1.0, 1.0))
CHILD = """
import json, os, sys, time
from pathlib import Path
import torch
from pizero.train import loop
from pizero.train.config import config_from_json

torch.set_num_threads(1)
file, kind, at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
config = config_from_json(json.loads(file.read_text()), str(file))
rank, step = int(os.environ["RANK"]), loop.train_step


def watched(state, batch, fraction):
    if kind == "fail" and rank == 1 and state.step == at:
        raise ValueError("process 1 has bad luck")
    if kind == "pause" and state.step == at:
        (config.output / f"waits-{rank}").touch()
        time.sleep(60)
    if kind == "slow":
        time.sleep(0.05)
    result = step(state, batch, fraction)
    with (config.output / f"frames-{rank}").open("a") as lines:
        lines.write(json.dumps([state.step, batch.row.tolist()]) + "\\n")
    return result


loop.train_step = watched
sys.exit(loop.train(config, None).exit_code)
"""
"""A process that fails, waits to be killed, or is slow, at a step."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes of different lengths, and prompts too: parts of a batch have different numbers of real elements."""
    root, rng = tmp_path_factory.mktemp("data") / "set", np.random.default_rng(0)
    with LeRobotWriter(root, ROBOT, {"front": (24, 24)}) as writer:
        for length in (2, 9, 3, 4, 12):
            prompt = "go" if length % 2 else "go far away"
            frames = [
                Frame(
                    {"front": rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)},
                    rng.normal(size=2).astype(np.float32),
                    prompt,
                )
                for _ in range(length)
            ]
            writer.add_episode(frames, rng.uniform(-1, 1, (length, 2)).astype(np.float32))
    return root


@pytest.fixture
def config(dataset: Path, tmp_path: Path) -> TrainConfig:
    gemma = GemmaConfig(width=32, depth=2, mlp_dim=64, num_heads=4, num_kv_heads=1, head_dim=16)
    return TrainConfig(
        name="test",
        output=tmp_path / "one",
        model=Pi0Config(
            vision=SiglipConfig(width=32, depth=2, mlp_dim=64, num_heads=2, image_size=24, patch_size=8),
            vlm=gemma,
            action=gemma,
            vocab_size=300,
            state_dim=3,
            action_dim=4,
            horizon=5,
        ),
        data=DataConfig(root=dataset, prompt_length=16, held_out=0.2, augment=AugmentConfig(crop=0.9, brightness=0.1)),
        # with a larger eps a gradient that is zero but for rounding moves no weight
        optim=OptimConfig(lr=3e-3, min_lr=3e-4, warmup_steps=3, eps=1e-3, ema_decay=0.9),
        steps=12,
        batch_size=4,
        draws=2,
        precision="fp32",
        device="cpu",
        compile=False,
        save_every=5,
        validate_every=7,
        log_every=1,
        tensorboard=False,
    )


def silent(progress: Progress) -> None:
    pass


def torchrun(config: TrainConfig, kind: str = "run", at: int = -1) -> subprocess.Popen[str]:
    """Two processes that train; `pizero train` has the presets alone, which are too large here."""
    config.output.parent.mkdir(parents=True, exist_ok=True)
    file, script = config.output.with_suffix(".json"), config.output.with_suffix(".py")
    file.write_text(json.dumps(config_to_json(config)))
    script.write_text(CHILD)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    return subprocess.Popen(
        [*command, str(file), kind, str(at)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """What it printed on stderr."""
    try:
        return process.communicate(timeout=120)[1]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(condition: Sequence[Path]) -> None:
    limit = time.monotonic() + 60
    while not all(path.exists() for path in condition):
        assert time.monotonic() < limit, f"{condition} did not come"
        time.sleep(0.02)


def curve(output: Path) -> np.ndarray:
    """Step, loss, learning rate and gradient norm of each step."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return np.array([[line[key] for key in ("step", "loss", "lr", "grad_norm")] for line in lines])


def validations(output: Path) -> list[float]:
    """Step, loss, loss of the weights themselves and action error, one after the other."""
    lines = [json.loads(line) for line in (output / "validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [7, 12]
    return [line[key] for line in lines for key in ("step", "loss", "raw_loss", "error", "num_frames")]


@pytest.fixture
def whole(config: TrainConfig) -> np.ndarray:
    """The curve of one process that nobody interrupts."""
    train(config, silent)
    return curve(config.output)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_train_as_one(config: TrainConfig, whole: np.ndarray, parallel: str) -> None:
    two = replace(config, parallel=parallel, accumulate=2, output=config.output.with_name("two"))
    process = torchrun(two)
    said = finish(process)
    assert process.returncode == 0, said
    assert said.count("step 12/12") == 1  # one process speaks
    np.testing.assert_allclose(curve(two.output), whole, rtol=1e-5)
    assert validations(two.output) == pytest.approx(validations(config.output), rel=1e-4)
    mine, theirs = (load_file(each.output / "last" / "model.safetensors") for each in (two, config))
    for name, tensor in theirs.items():
        torch.testing.assert_close(mine[name], tensor, rtol=1e-5, atol=1e-5)
    assert load_checkpoint(two.output / "last")
    assert not list(two.output.glob("*.part"))
    check_frames(two)


def check_frames(config: TrainConfig) -> None:
    """Together the processes saw every frame once in the first epoch, and none twice in the second."""
    rows = [dict(map(json.loads, (config.output / f"frames-{rank}").read_text().splitlines())) for rank in range(2)]
    recordings = open_recordings(config)
    mixture = make_mixture(config, recordings, make_transforms(config, recordings))
    frames: list[int] = []
    for step in range(config.steps):
        frames += list(mixture.rows(step, config.batch_size)[1][rows[0][step + 1] + rows[1][step + 1]])
    assert len(frames) == config.steps * config.batch_size
    epoch, held_out = mixture.num_frames(0), set(mixture.validation_rows(100)[1])
    assert len(set(frames[:epoch])) == epoch
    assert len(set(frames[epoch:])) == len(frames) - epoch > 0
    assert held_out
    assert not held_out & set(frames)


def test_a_sharded_run_that_was_killed_goes_on_in_one_process(config: TrainConfig, whole: np.ndarray) -> None:
    """Killed at a random step after the first checkpoint."""
    step = int(np.random.default_rng().integers(6, 11))
    two = replace(config, parallel="fsdp", accumulate=2, output=config.output.with_name("two"))
    process = torchrun(two, "pause", step)
    wait_for([two.output / "waits-0", two.output / "waits-1"])
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    done = int((two.output / "last").resolve().name.removeprefix("step-"))
    assert done == (5 if step < 10 else 10), step
    (two.output / f"step-{done + 1:06}.part").mkdir()
    resumed = train(replace(two, parallel="ddp", accumulate=1, resume=True), silent)
    assert resumed.step == 12
    np.testing.assert_allclose(curve(two.output), whole, rtol=1e-4)
    assert not list(two.output.glob("*.part"))


def test_a_signal_stops_all_processes_after_the_same_step(config: TrainConfig, whole: np.ndarray) -> None:
    two = replace(config, parallel="fsdp", output=config.output.with_name("two"), save_every=100)
    process = torchrun(two, "slow")
    wait_for([two.output / "metrics.jsonl"])
    process.send_signal(signal.SIGTERM)
    said = finish(process)
    assert said.count("stopping after this step") == 1, said
    done = int((two.output / "last").resolve().name.removeprefix("step-"))
    assert 1 <= done < 12
    train(replace(two, resume=True), silent)
    np.testing.assert_allclose(curve(two.output), whole, rtol=1e-4)


def test_an_error_in_one_process_ends_all_with_one_message(config: TrainConfig) -> None:
    began = time.monotonic()
    process = torchrun(replace(config, parallel="fsdp"), "fail", 3)
    said = finish(process)
    assert process.returncode != 0
    assert said.count("ValueError: process 1 has bad luck") == 1, said
    assert said.count("]: Traceback") == 1, said
    assert time.monotonic() - began < 60


def test_an_error_of_all_processes_is_told_once(config: TrainConfig) -> None:
    process = torchrun(replace(config, data=replace(config.data, root=Path("nowhere"))))
    said = finish(process)
    assert said.count("ValueError: data set nowhere is no folder") == 1, said
