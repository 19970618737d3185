"""Any data set: what is written is read; chunks and the loader's order equal the obvious slow way."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pizero.data.lerobot import LeRobotDataset, LeRobotWriter
from pizero.data.loader import Batches
from pizero.data.mix import Mixture, Source
from pizero.data.prompt import Tokenizer, train_tokenizer
from pizero.data.stats import compute_stats
from pizero.data.transform import Transform, TransformConfig
from pizero.embodiment import Embodiment
from pizero.frame import Frame

ROBOT = Embodiment("toy", (), ("x", "y"), ("a", "b", "c"), 30.0, (-9.0,) * 3, (9.0,) * 3)
LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=6)
TASKS = ("push it", "pull it", "leave it")


def written(lengths: list[int], seed: int, root: Path) -> tuple[LeRobotDataset, list[np.ndarray], list[str]]:
    random = np.random.default_rng(seed)
    actions = [random.normal(size=(n, 3)).astype(np.float32) for n in lengths]
    prompts = [str(random.choice(TASKS)) for _ in lengths]
    with LeRobotWriter(root, ROBOT, {}) as writer:
        for prompt, chunk in zip(prompts, actions, strict=True):
            states = random.normal(size=(len(chunk), 2)).astype(np.float32)
            writer.add_episode([Frame({}, state, prompt) for state in states], chunk)
    return LeRobotDataset(root), actions, prompts


@settings(deadline=None, max_examples=25)
@given(lengths=LENGTHS, horizon=st.integers(1, 9), seed=st.integers(0, 99))
def test_chunks_equal_the_obvious_slow_way(lengths: list[int], horizon: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        dataset, actions, prompts = written(lengths, seed, Path(folder) / "data")
    frame = 0
    for episode, prompt in zip(actions, prompts, strict=True):
        for i in range(len(episode)):
            values, real = dataset.chunk(frame, horizon)
            for t in range(horizon):
                inside = i + t < len(episode)
                assert real[t] == inside
                np.testing.assert_array_equal(values[t], episode[i + t] if inside else episode[-1])
            assert dataset.prompt(frame) == prompt
            frame += 1
    assert frame == dataset.num_frames


@settings(deadline=None, max_examples=15)
@given(
    lengths=LENGTHS.filter(lambda lengths: sum(lengths) > 3),
    batch_size=st.integers(1, 9),
    start=st.integers(0, 7),
    seed=st.integers(0, 99),
)
def test_a_run_may_stop_at_any_step_and_go_on(lengths: list[int], batch_size: int, start: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        dataset, _, _ = written(lengths, seed, Path(folder) / "data")
    config = TransformConfig(ROBOT, "z-score", state_dim=2, action_dim=3, horizon=2, image_size=4)
    transform = Transform(config, compute_stats(dataset), Tokenizer(train_tokenizer(TASKS, 300)))
    mixture = Mixture([Source(dataset, transform, 1.0)], seed)
    with Batches(mixture, batch_size) as whole, Batches(mixture, batch_size, start_step=start) as rest:
        batches = [next(whole) for _ in range(start + 2)]
        for step in (start, start + 1):
            batch = next(rest)
            assert torch.equal(batch.images, batches[step].images)
            assert torch.equal(batch.state, batches[step].state)
            assert torch.equal(batch.prompt, batches[step].prompt)
            assert torch.equal(batch.values, batches[step].values)
            assert torch.equal(batch.action_mask, batches[step].action_mask)
        order = np.concatenate([whole.rows(step)[1] for step in range(dataset.num_frames)])
    epochs = order.reshape(batch_size, dataset.num_frames)
    assert (np.sort(epochs, axis=1) == np.arange(dataset.num_frames)).all()
