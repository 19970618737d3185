"""A tiny run without a data set: config, state, transform, and a batch in which everything that can be padding is."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pizero.data.stats import DatasetStats, Stats
from pizero.data.transform import Transform
from pizero.embodiment import Embodiment
from pizero.model.config import Pi0Config
from pizero.train.config import DataConfig, OptimConfig, TrainConfig
from pizero.train.state import TrainState, make_state, make_transform
from pizero.types import Actions, Observation


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny products gain nothing from more, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def robot() -> Embodiment:
    return Embodiment(
        name="arm",
        cameras=("left", "front", "wrist"),
        state=("x", "y", "z"),
        actions=("dx", "dy", "dz", "grip"),
        control_rate_hz=10.0,
        action_low=(-1.0,) * 4,
        action_high=(1.0,) * 4,
    )


@pytest.fixture(scope="session")
def stats() -> DatasetStats:
    rng = np.random.default_rng(0)
    return DatasetStats(Stats.of(rng.normal(size=(50, 3))), Stats.of(rng.normal(size=(50, 4))))


@pytest.fixture
def config(tiny_config: Pi0Config, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        name="test",
        output=tmp_path / "run",
        model=replace(tiny_config, vocab_size=300),  # a tokenizer needs its 260 special and byte tokens
        data=DataConfig(prompt_length=12),
        optim=OptimConfig(lr=1e-2, min_lr=1e-3, warmup_steps=2, weight_decay=0.1, ema_decay=0.9),
        steps=20,
        batch_size=4,
        draws=2,
        precision="fp32",
        device="cpu",
        tensorboard=False,
    )


@pytest.fixture
def transform(config: TrainConfig, robot: Embodiment, stats: DatasetStats) -> Transform:
    return make_transform(config, robot, stats, ("open it", "close it"))


@pytest.fixture
def make(randomise: Callable[..., None]) -> Callable[[TrainConfig], TrainState]:
    """A state whose weights are all random: with the zero read-out of fresh weights most gradients are zero."""

    def build(config: TrainConfig) -> TrainState:
        state = make_state(config, torch.device("cpu"))
        randomise(state.model)
        if state.ema is not None:
            for name, parameter in state.parameters.items():
                state.ema.average[name].copy_(parameter.detach())
        return state

    return build


@pytest.fixture
def batch(config: TrainConfig) -> tuple[Observation, Actions]:
    """Four rows with absent cameras, short prompts, and 3, 1, 2 and 1 real timesteps; the last dimension is padding."""
    generator = torch.Generator().manual_seed(5)
    model, side = config.model, config.model.vision.image_size
    observation = Observation(
        images=torch.rand(4, 3, 3, side, side, generator=generator) * 2 - 1,
        prompt=torch.randint(0, model.vocab_size, (4, 5), generator=generator),
        state=torch.randn(4, model.state_dim, generator=generator),
        image_mask=torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 1, 0]], dtype=torch.bool),
        prompt_mask=torch.tensor([[1] * 5, [1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0]], dtype=torch.bool),
    )
    mask = torch.arange(model.horizon)[None, :, None] < torch.tensor([3, 1, 2, 1])[:, None, None]
    mask = mask & (torch.arange(model.action_dim) < model.action_dim - 1)
    values = torch.randn(4, model.horizon, model.action_dim, generator=generator)
    return observation, Actions(values * mask.any(1, keepdim=True), mask)
