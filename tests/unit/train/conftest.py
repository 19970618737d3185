"""A tiny run without a data set: config, state, transform, and a batch in which everything that can be padding is."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pizero.data.batch import Batch
from pizero.data.stats import DatasetStats, Stats
from pizero.data.transform import Transform
from pizero.embodiment import Embodiment
from pizero.model.config import Pi0Config
from pizero.model.pi0 import Pi0
from pizero.train.config import DataConfig, OptimConfig, TrainConfig
from pizero.train.log import Interval
from pizero.train.recordings import make_transform
from pizero.train.saver import Saver
from pizero.train.state import TrainState, make_state
from pizero.train.step import train_step


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
    return tiny_run(tiny_config, tmp_path / "run")


def tiny_run(tiny_config: Pi0Config, output: Path) -> TrainConfig:
    return TrainConfig(
        name="test",
        output=output,
        model=replace(tiny_config, vocab_size=300),  # a tokenizer needs its 260 special and byte tokens
        data=DataConfig(prompt_length=12),
        optim=OptimConfig(lr=1e-2, min_lr=1e-3, warmup_steps=2, weight_decay=0.1, ema_decay=0.9),
        steps=20,
        batch_size=4,
        draws=2,
        precision="fp32",
        device="cpu",
        compile=False,
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
def batch(config: TrainConfig) -> Batch:
    return ragged_batch(config)


def ragged_batch(config: TrainConfig) -> Batch:
    """Four rows with absent cameras, short prompts, and 3, 1, 2 and 1 real timesteps; the last dimension is padding."""
    generator = torch.Generator().manual_seed(5)
    model, side = config.model, config.model.vision.image_size
    images = torch.randint(0, 256, (4, 3, side, side, 3), generator=generator, dtype=torch.uint8)
    mask = torch.arange(model.horizon)[None, :, None] < torch.tensor([3, 1, 2, 1])[:, None, None]
    mask = mask & (torch.arange(model.action_dim) < model.action_dim - 1)
    values = torch.randn(4, model.horizon, model.action_dim, generator=generator)
    return Batch(
        images=images,
        image_mask=torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 1, 0]], dtype=torch.bool),
        prompt=torch.randint(0, model.vocab_size, (4, 5), generator=generator),
        prompt_mask=torch.tensor([[1] * 5, [1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0]], dtype=torch.bool),
        state=torch.randn(4, model.state_dim, generator=generator),
        values=values * mask.any(1, keepdim=True),
        action_mask=mask,
        total=int(mask.sum()),
        skipped=0,
        step=0,
    )


@pytest.fixture
def trained(config: TrainConfig, make: Callable[[TrainConfig], TrainState], batch: Batch) -> TrainState:
    """After three steps, with sums of an interval that is not over."""
    return after_three_steps(make(config), batch)


def after_three_steps(state: TrainState, batch: Batch) -> TrainState:
    for _ in range(3):
        train_step(state, batch)
    state.seconds, state.interval = 12.5, Interval(1, 0.1, 0.2, 0.3, 0.4)
    return state


@pytest.fixture
def save(transform: Transform) -> Callable[[TrainState], Path]:
    """Writes a checkpoint and waits for it."""

    def write(state: TrainState) -> Path:
        with Saver(state, (transform,)) as saver:
            return saver.save()

    return write


@pytest.fixture
def saved(trained: TrainState, save: Callable[[TrainState], Path]) -> Path:
    return save(trained)


@pytest.fixture
def paligemma(tmp_path: Path, config: TrainConfig, randomise: Callable[..., None]) -> Path:
    """The vision tower, projector, embedding and vlm of a random model under the names that the hub has."""
    model = Pi0(config.model)
    randomise(model, seed=9)
    tensors = {}
    for name, tensor in model.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "vision":
            head, _, tail = rest.partition(".")
            if head == "layers":
                number, _, tail = tail.partition(".")
                inside = tail.split(".")[0]
                group = "self_attn." if inside.endswith("_proj") else "mlp." if inside.startswith("fc") else ""
                rest = f"encoder.layers.{number}.{group}{tail}"
            elif head != "post_layernorm":
                rest = f"embeddings.{rest}"
            tensors[f"vision_tower.vision_model.{rest}"] = tensor
        elif part == "projector":
            tensors[f"multi_modal_projector.linear.{rest}"] = tensor
        elif part == "embed_tokens":
            tensors[f"language_model.model.{name}"] = tensor
        elif part == "vlm":
            tensors[f"language_model.model.{rest}"] = tensor
    folder = tmp_path / "paligemma"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "paligemma"}')
    return folder
