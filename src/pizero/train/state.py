"""What a run is at one step: made fresh, written to a checkpoint, and read back so that nothing is lost.

A run's folder holds checkpoints (`weights/checkpoint.py`) named after their step, and `last`, a link to the newest.
Each has, beside what a policy needs,

    train.json                  the config of the run
    train_state/state.json      step, time, sums of the current interval of metrics
    train_state/optimizer.safetensors
    train_state/weights.safetensors     the trained weights, where model.safetensors holds their average
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pizero.data.lerobot import LeRobotDataset
from pizero.data.prompt import Tokenizer, train_tokenizer
from pizero.data.stats import DatasetStats, compute_stats
from pizero.data.transform import Transform, TransformConfig, refuse_constant
from pizero.data.units import Units
from pizero.embodiment import Embodiment
from pizero.model.pi0 import Pi0
from pizero.train.config import TrainConfig, config_from_json, config_to_json
from pizero.train.ema import Ema
from pizero.train.log import Interval
from pizero.train.optimizer import make_optimizer, trained_parameters
from pizero.weights.checkpoint import (
    WEIGHTS,
    check_fit,
    is_checkpoint,
    load_configs,
    load_tensors,
    save_checkpoint,
    save_tensors,
)
from pizero.weights.json_config import from_json, to_json
from pizero.weights.paligemma import load_paligemma
from pizero.weights.source import read_json

CONFIG, STATE = "train.json", "train_state"
LAST = "last"
FREE = frozenset(
    "name output steps save_every keep log_every tensorboard resume data.root data.preload".split()  # noqa: SIM905
)
"""Fields in which a resumed run may differ. That the data are the same is seen from their statistics."""


@dataclass
class TrainState:
    """Everything that a step changes, and what it needs."""

    config: TrainConfig
    device: torch.device
    model: Pi0
    loss: Callable[..., Tensor]
    """`model.loss`, compiled if the config says so."""
    parameters: dict[str, nn.Parameter]
    """The trained ones."""
    optimizer: torch.optim.AdamW
    ema: Ema | None
    step: int = 0
    """Optimiser steps done."""
    seconds: float = 0.0
    """Training time, over all interruptions."""
    interval: Interval = field(default_factory=Interval)
    """Since the last line of metrics."""


@dataclass(frozen=True)
class Counters:
    """The numbers of a run's state, as state.json holds them."""

    step: int
    seconds: float
    interval: Interval


def make_state(config: TrainConfig, device: torch.device) -> TrainState:
    """A run before its first step: fresh weights from the seed, or those of `config.init`."""
    model = make_model(config, device)
    if config.init is not None:
        load_init(model, config.init)
    return wrap(config, device, model)


def wrap(config: TrainConfig, device: torch.device, model: Pi0) -> TrainState:
    """The state of a run that starts with this model; gradients are switched off for what is not trained."""
    parameters = trained_parameters(model, config.tune == "expert")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in parameters)
    return TrainState(
        config=config,
        device=device,
        model=model,
        loss=torch.compile(model.loss) if config.compile else model.loss,
        parameters=parameters,
        optimizer=make_optimizer(parameters, config.optim),
        ema=None if config.optim.ema_decay is None else Ema(parameters, config.optim.ema_decay),
    )


def make_model(config: TrainConfig, device: torch.device) -> Pi0:
    """Fresh weights, float32, from the seed."""
    with torch.device(device):
        model = Pi0(config.model)
    return model.init_weights(torch.Generator(device).manual_seed(config.seed))


def load_init(model: Pi0, path: Path) -> None:
    """Copy the weights of a checkpoint of ours, or of a PaliGemma, into the model.

    Raises ValueError when the folder is neither, or its sizes are others.
    """
    if not is_checkpoint(check_init(path)):
        load_paligemma(model, path)
        return
    saved, _ = load_configs(path)
    differing = different_fields(
        to_json(saved), to_json(model.config), frozenset({"horizon", "euler_grid", "time_rounding"})
    )  # no weight depends on them
    if differing:
        raise ValueError(f"init: {path} has other sizes: {'; '.join(differing)}; give model the sizes of init")
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(load_tensors(path / WEIGHTS, shapes, model.embed_tokens.weight.device))


def check_init(path: Path) -> Path:
    """The same path. Raises ValueError when it is no folder."""
    if not path.is_dir():
        raise ValueError(f"init: {path} is no folder; give a checkpoint, or google/paligemma-3b-pt-224, downloaded")
    return path


def make_transform(
    config: TrainConfig, embodiment: Embodiment, stats: DatasetStats, prompts: tuple[str, ...]
) -> Transform:
    """How the frames of this robot become observations of this model.

    Raises ValueError when they do not fit: the robot is too wide, a prompt too long, a dimension without spread.
    """
    data, model = config.data, config.model
    transform_config = TransformConfig(
        embodiment=embodiment,
        normalization=data.normalization,
        raw_state=data.raw_state,
        raw_actions=data.raw_actions,
        image_size=model.vision.image_size,
        prompt_length=data.prompt_length,
        state_dim=model.state_dim,
        action_dim=model.action_dim,
        horizon=model.horizon,
        prompt_format=data.prompt_format,
        resize=data.resize,
        delta_actions=data.delta_actions,
    )
    refuse_constant(transform_config, stats)
    transform = Transform(transform_config, stats, find_tokenizer(config, prompts))
    check_fit(model, transform, f"run {config.name}")
    # now, not after the hours until the first batch with it; 1 is in bin 255, so that the state is at its longest
    longest = np.ones((len(prompts), len(embodiment.state)))
    transform.tokenizer.encode_batch(prompts, data.prompt_length, data.prompt_format, longest)
    return transform


def training_stats(config: TrainConfig, dataset: LeRobotDataset) -> DatasetStats:
    """The statistics that this run normalises with: of the relative actions, where it has some."""
    units = Units.of(dataset.embodiment, "robot", config.data.delta_actions)
    return compute_stats(dataset, units, config.model.horizon)


def find_tokenizer(config: TrainConfig, prompts: tuple[str, ...]) -> Tokenizer:
    """The tokenizer that belongs to the token embeddings the run starts from."""
    given = config.data.tokenizer
    if config.init is not None and is_checkpoint(check_init(config.init)):
        if given is not None:
            raise ValueError(f"data.tokenizer has no effect: the checkpoint {config.init} brings its own; leave it out")
        return load_configs(config.init)[1].tokenizer
    if given is not None:
        return Tokenizer(given)
    if config.init is None:
        return Tokenizer(train_tokenizer(prompts, config.model.vocab_size))
    for name in ("tokenizer.model", "tokenizer.json"):
        if (config.init / name).is_file():
            return Tokenizer(config.init / name)
    raise ValueError(
        f"{config.init / 'tokenizer.model'} does not exist; give the tokenizer of that PaliGemma with --data.tokenizer"
    )


def save_state(state: TrainState, transform: Transform) -> Path:
    """Write the checkpoint of this step, point `last` to it, delete old ones, and give its path."""
    output = state.config.output
    path = output / f"step-{state.step:06}"
    averages = {} if state.ema is None else state.ema.average

    def write_training(folder: Path) -> None:
        (folder / CONFIG).write_text(json.dumps(config_to_json(state.config), indent=2) + "\n")
        inner = folder / STATE
        inner.mkdir()
        counters = Counters(state.step, state.seconds, state.interval)
        (inner / "state.json").write_text(json.dumps(asdict(counters), indent=2) + "\n")
        save_tensors(inner / "optimizer.safetensors", optimizer_tensors(state))
        if state.ema is not None:
            save_tensors(inner / "weights.safetensors", state.parameters)

    weights = state.model.state_dict() | averages
    save_checkpoint(path, partial(save_tensors, tensors=weights), state.model.config, transform, write_training)
    link = output / (LAST + ".part")
    link.unlink(missing_ok=True)
    link.symlink_to(path.name)
    os.replace(link, output / LAST)
    for old in checkpoints(output)[: -state.config.keep]:
        os.rename(old, aside := old.with_name(old.name + ".part"))  # never half a checkpoint under its own name
        shutil.rmtree(aside)
    return path


def load_state(config: TrainConfig, path: Path, device: torch.device) -> tuple[TrainState, Transform]:
    """The run as it was when the checkpoint was written, now under `config`.

    Raises ValueError when the config differs in a field that changes the run, or something is missing or truncated.
    """
    saved = config_from_json(read_json(path / CONFIG), str(path / CONFIG))
    differing = different_fields(config_to_json(saved), config_to_json(config), FREE)
    if differing:
        raise ValueError(
            f"{path} was trained with another config: {'; '.join(differing)}; resume with the same, "
            f"or start a new run from it with --init {path}"
        )
    counters = from_json(Counters, read_json(path / STATE / "state.json"), str(path / STATE / "state.json"))
    model_config, transform = load_configs(path)
    assert model_config == config.model, "train.json and config.json of a checkpoint are written together"
    model = make_model(config, device)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(load_tensors(path / WEIGHTS, shapes, device))
    state = wrap(config, device, model)  # the average starts as what model.safetensors holds: itself
    if state.ema is not None:
        shapes = {name: tuple(parameter.shape) for name, parameter in state.parameters.items()}
        weights = load_tensors(path / STATE / "weights.safetensors", shapes, device)
        with torch.no_grad():
            for name, parameter in state.parameters.items():
                parameter.copy_(weights[name])
    load_optimizer(state, path / STATE / "optimizer.safetensors", counters.step)
    state.step, state.seconds, state.interval = counters.step, counters.seconds, counters.interval
    return state, transform


def check_same_data(transform: Transform, embodiment: Embodiment, stats: DatasetStats, path: Path) -> None:
    """Raises ValueError when the data set is not the one that the checkpoint at `path` was trained on."""
    if difference := transform.config.embodiment.difference(embodiment):
        raise ValueError(f"the data set is of another robot than that of {path}: {difference}")
    if transform.stats.to_json() != stats.to_json():
        raise ValueError(
            f"the data set has other statistics than that of {path}: it was changed, or is another one; "
            f"give data.root of the same data, or start a new run with --init {path}"
        )


def checkpoints(output: Path) -> list[Path]:
    """The complete checkpoints in a run's folder, oldest first."""
    found = [path for path in output.glob("step-*") if re.fullmatch(r"step-\d{6,}", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def different_fields(saved: object, given: object, free: frozenset[str], path: str = "") -> list[str]:
    """ "field is A here and B there" for every leaf of two JSON values that differs, but for the fields in `free`."""
    if path in free:
        return []
    if isinstance(saved, dict) and isinstance(given, dict):
        prefix = f"{path}." if path else ""
        return [line for key in saved for line in different_fields(saved[key], given[key], free, prefix + key)]
    return [] if saved == given else [f"{path} is {given} now and {saved} there"]


def optimizer_tensors(state: TrainState) -> dict[str, Tensor]:
    """AdamW's averages by parameter and name; its counts are all equal to `state.step`."""
    return {
        f"{name}.{key}": state.optimizer.state[parameter][key]
        for name, parameter in state.parameters.items()
        for key in ("exp_avg", "exp_avg_sq")
    }


def load_optimizer(state: TrainState, file: Path, step: int) -> None:
    """Give AdamW the averages that `optimizer_tensors` took."""
    shapes = {
        f"{name}.{key}": tuple(parameter.shape)
        for name, parameter in state.parameters.items()
        for key in ("exp_avg", "exp_avg_sq")
    }
    tensors = load_tensors(file, shapes, state.device)
    for name, parameter in state.parameters.items():
        state.optimizer.state[parameter] = {
            "step": torch.tensor(float(step), device=state.device),
            "exp_avg": tensors[f"{name}.exp_avg"],
            "exp_avg_sq": tensors[f"{name}.exp_avg_sq"],
        }
