from dataclasses import replace

import numpy as np
import pytest
import torch

from pizero.data.prompt import Tokenizer, train_tokenizer
from pizero.data.stats import DatasetStats, Stats
from pizero.data.transform import Transform, TransformConfig
from pizero.embodiment import Embodiment
from pizero.frame import Frame
from pizero.model.pi0 import Pi0
from pizero.policy.executor import ChunkExecutor
from pizero.policy.pi0_policy import MeanActionPolicy, Pi0Policy
from pizero.weights.checkpoint import Checkpoint

ROBOT = Embodiment(
    name="arm",
    cameras=("front", "wrist"),
    state=("x", "y", "z"),
    actions=("dx", "dy"),
    control_rate_hz=10.0,
    action_low=(-1.0, -2.0),
    action_high=(1.0, 2.0),
)


@pytest.fixture
def checkpoint(tiny_config, randomise) -> Checkpoint:
    config = replace(tiny_config, vocab_size=300)
    rng = np.random.default_rng(0)
    stats = DatasetStats(Stats.of(rng.normal(size=(50, 3))), Stats.of(rng.normal(size=(50, 2))))
    sizes = TransformConfig(
        ROBOT,
        image_size=config.vision.image_size,
        prompt_length=12,
        state_dim=config.state_dim,
        action_dim=config.action_dim,
        horizon=config.horizon,
    )
    model = Pi0(config)
    randomise(model, std=0.1)
    return Checkpoint(model.eval(), Transform(sizes, stats, Tokenizer(train_tokenizer(["open it", "close it"], 300))))


def make_frame(seed: int, prompt: str = "open it", cameras: tuple[str, ...] = ("front", "wrist")) -> Frame:
    rng = np.random.default_rng(seed)
    images = {camera: rng.integers(0, 256, (12, 12, 3), dtype=np.uint8) for camera in cameras}
    return Frame(images, rng.normal(size=3).astype(np.float32), prompt)


def test_actions_are_those_of_the_model_in_real_units(checkpoint):
    policy, frame = Pi0Policy(checkpoint, num_steps=4), make_frame(1)
    noise = np.random.default_rng(2).normal(size=(3, 5)).astype(np.float32)
    mask = torch.tensor([True, True, False, False, False])
    observation = checkpoint.transform.observation([frame])
    values = checkpoint.model.sample(observation, 4, torch.from_numpy(noise)[None], action_mask=mask)
    q01, q99 = checkpoint.transform.stats.actions.q01, checkpoint.transform.stats.actions.q99
    expected = (values[0, :, :2].numpy().clip(-1, 1) + 1) / 2 * (q99 - q01 + 1e-8) + q01
    chunk = policy.act(frame, noise)
    assert chunk.shape == (3, 2)
    assert chunk.dtype == np.float32
    np.testing.assert_allclose(chunk, expected.clip((-1, -2), (1, 2)), atol=1e-5)


def test_a_batch_equals_its_rows_whatever_else_is_in_it(checkpoint):
    policy = Pi0Policy(checkpoint)
    frames = [make_frame(1), make_frame(2, "close it"), make_frame(3, cameras=("wrist",))]
    together = policy.act_batch(frames, seeds=[5, 6, 7])
    for i, frame in enumerate(frames):
        np.testing.assert_allclose(policy.act_batch([frame], seeds=[5 + i])[0], together[i], atol=1e-5)


def test_the_same_seed_plans_the_same_and_another_does_not(checkpoint):
    first, second = (Pi0Policy(checkpoint, seed=3).act(make_frame(1)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.abs(Pi0Policy(checkpoint, seed=4).act(make_frame(1)) - first).max() > 1e-3


def test_as_many_seeds_as_frames_are_needed(checkpoint):
    with pytest.raises(ValueError, match="1 seeds for 2 frames"):
        Pi0Policy(checkpoint).act_batch([make_frame(1), make_frame(2)], seeds=[1])


def test_the_mean_action_is_repeated_and_kept_within_the_robots_range():
    policy = MeanActionPolicy(ROBOT, np.array([0.5, 3.0]), horizon=4)
    np.testing.assert_array_equal(policy.act(make_frame(1)), np.tile(np.float32([0.5, 2.0]), (4, 1)))
    assert policy.act_batch([make_frame(1)] * 3).shape == (3, 4, 2)


class CountingPolicy:
    """Chunk number n is [n, 0], [n, 1], [n, 2]."""

    def __init__(self) -> None:
        self.calls = 0

    def act(self, frame: Frame) -> np.ndarray:
        self.calls += 1
        return np.array([[self.calls, step] for step in range(3)], np.float32)


def test_an_executor_plans_anew_after_execute_steps():
    executor = ChunkExecutor(CountingPolicy(), execute_steps=2)
    done = []
    for _ in range(5):
        frame = make_frame(1) if executor.needs_frame else None
        done.append(tuple(executor.act(frame)))
    assert done == [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0)]


def test_a_reset_executor_forgets_the_rest_of_its_chunk():
    executor = ChunkExecutor(CountingPolicy(), execute_steps=3)
    executor.act(make_frame(1))
    executor.reset()
    assert executor.needs_frame
    assert tuple(executor.act(make_frame(1))) == (2, 0)


def test_an_executor_cannot_execute_more_than_a_chunk_or_nothing():
    with pytest.raises(ValueError, match="execute_steps is 0"):
        ChunkExecutor(CountingPolicy(), 0)
    with pytest.raises(ValueError, match="a chunk has 3 actions"):
        ChunkExecutor(CountingPolicy(), 4).act(make_frame(1))
    executor = ChunkExecutor(CountingPolicy(), 2)
    with pytest.raises(ValueError, match="give a frame"):
        executor.act(None)


def test_relative_actions_are_added_to_the_state_that_each_frame_saw(checkpoint):
    config = replace(checkpoint.transform.config, delta_actions=("dy",), normalization="z-score")
    free = replace(ROBOT, action_low=(), action_high=(), control_rate_hz=None)
    parts = (checkpoint.transform.stats, checkpoint.transform.tokenizer)
    noise = np.random.default_rng(2).normal(size=(3, 5)).astype(np.float32)
    frames = [make_frame(1), make_frame(2)]
    absolute, relative = (
        Pi0Policy(
            Checkpoint(checkpoint.model, Transform(replace(config, embodiment=free, delta_actions=names), *parts))
        )
        for names in ((), ("dy",))
    )
    for frame in frames:
        added = relative.act(frame, noise) - absolute.act(frame, noise)
        np.testing.assert_allclose(added, np.tile([0, frame.state[1]], (3, 1)), atol=1e-6)
    added = relative.act_batch(frames, [1, 2]) - absolute.act_batch(frames, [1, 2])
    np.testing.assert_allclose(added[..., 1], [[frame.state[1]] * 3 for frame in frames], atol=1e-6)


def test_the_mean_action_of_a_robot_with_unknown_bounds_is_not_clipped():
    free = replace(ROBOT, action_low=(), action_high=())
    assert MeanActionPolicy(free, np.array([0.5, 3.0]), 1).act(make_frame(1)).tolist() == [[0.5, 3.0]]
