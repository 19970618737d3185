"""`pizero serve` as a user starts it, and who connects to it."""

import json
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import Queue

import numpy as np
import pytest

from pizero.command.policy import load_policy
from pizero.data.prompt import Tokenizer, train_tokenizer
from pizero.data.stats import DatasetStats, Stats
from pizero.data.transform import Transform, TransformConfig
from pizero.frame import Frame
from pizero.model.pi0 import Pi0
from pizero.serve.client import RemotePolicy
from pizero.sim.metaworld import EMBODIMENT as SAWYER
from pizero.weights.checkpoint import save_checkpoint, save_tensors

TASK = "metaworld/faucet-open"


@pytest.fixture(scope="module")
def checkpoint(tiny_config, randomise, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights for the Sawyer of Meta-World."""
    config = replace(tiny_config, vocab_size=300)
    rng = np.random.default_rng(0)
    stats = DatasetStats(Stats.of(rng.normal(size=(50, 4))), Stats.of(rng.uniform(-1, 1, size=(50, 4))))
    sizes = TransformConfig(
        SAWYER,
        image_size=config.vision.image_size,
        prompt_length=40,
        state_dim=config.state_dim,
        action_dim=config.action_dim,
        horizon=config.horizon,
    )
    model = Pi0(config)
    randomise(model, std=0.1)
    path = tmp_path_factory.mktemp("served") / "step-000001"
    transform = Transform(sizes, stats, Tokenizer(train_tokenizer(["turn the faucet", "open it"], 300)))
    save_checkpoint(path, lambda file: save_tensors(file, model.state_dict()), config, transform)
    return path


@contextmanager
def serving(checkpoint: Path, *options: object) -> Iterator[tuple[subprocess.Popen[str], str, Queue]]:
    """The server's process, its address, and its lines on stderr as they come."""
    command = [sys.executable, "-m", "pizero", "serve", checkpoint, "--device", "cpu", "--port", 0, *options]
    lines: Queue = Queue()
    with subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True) as process:
        reader = threading.Thread(target=lambda: [lines.put(line) for line in process.stderr], daemon=True)
        reader.start()
        try:
            first = lines.get(timeout=120)
            found = re.search(r"ws://\S+", first)
            assert found, first
            yield process, found[0], lines
        finally:
            process.kill()
            reader.join(10)


def make_frames(count: int) -> list[Frame]:
    rng = np.random.default_rng(3)
    return [
        Frame(
            {camera: rng.integers(0, 256, (96, 96, 3), dtype=np.uint8) for camera in SAWYER.cameras},
            rng.normal(size=4).astype(np.float32),
            ("open it", "turn the faucet")[i % 2],
        )
        for i in range(count)
    ]


def test_a_served_checkpoint_plans_and_acts_as_in_this_process(checkpoint: Path, tmp_path: Path) -> None:
    frames, seeds = make_frames(5), [3, 1, 4, 1, 5]
    expected = load_policy(checkpoint, "cpu", 4).act_batch(frames, seeds)
    with serving(checkpoint, "--num-steps", 4) as (process, address, lines):
        with RemotePolicy(address) as remote:
            assert remote.embodiment == SAWYER
            assert remote.horizon == 3
            assert remote.about["checkpoint"] == "step-000001"
            assert remote.about["num_steps"] == "4"
            assert len(remote.about["sha256"]) == 64
            assert remote.act_batch(frames, seeds).tobytes() == expected.tobytes()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(address.replace("ws://", "http://") + "/healthz", timeout=10) as answer:
            assert answer.status == 200
        episodes = [evaluate(place, tmp_path / str(i)) for i, place in enumerate((address, checkpoint))]
        assert episodes[0] == episodes[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert "Traceback" not in "".join(lines.queue)
    assert lines.queue[-1] == "stopped\n"


def evaluate(place: object, output: Path) -> list[dict]:
    """What happened in an evaluation, but for how long it took."""
    options = ["--episodes", "1", "--workers", "1", "--execute-steps", "3", "--videos", "0", "--output", str(output)]
    steps = [] if str(place).startswith("ws://") else ["--num-steps", "4", "--device", "cpu"]
    command = [sys.executable, "-m", "pizero", "eval", str(place), "--task", TASK, *options, *steps]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    episodes = [json.loads(line) for line in (output / "episodes.jsonl").read_text().splitlines()]
    assert len(episodes) == 1
    assert episodes[0]["error"] is None
    return [{key: value for key, value in episode.items() if key != "seconds"} for episode in episodes]


def test_a_server_that_is_told_to_end_ends_cleanly_with_a_client_there(checkpoint: Path) -> None:
    with serving(checkpoint) as (process, address, lines), RemotePolicy(address) as remote:
        remote.act(make_frames(1)[0])
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        with pytest.raises(OSError, match=f"no policy server answers at {address}"):
            remote.act(make_frames(1)[0])
    assert "Traceback" not in "".join(lines.queue)


def test_what_cannot_be_served_is_one_line(checkpoint: Path, tmp_path: Path) -> None:
    def refuse(*arguments: object) -> str:
        command = [sys.executable, "-m", "pizero", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 2, (done.stdout, done.stderr)
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        return done.stderr

    assert "is no folder" in refuse("serve", tmp_path / "none", "--device", "cpu")
    assert "port is 70000, must be in 0 ... 65535" in refuse("serve", checkpoint, "--port", 70000)
    with serving(checkpoint) as (_, address, _):
        port = address.rsplit(":", 1)[1]
        assert "in use" in refuse("serve", checkpoint, "--device", "cpu", "--port", port)
    assert f"no policy server answers at {address}" in refuse("eval", address, "--task", TASK, "--episodes", 1)
