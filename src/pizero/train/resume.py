"""A run read back from a checkpoint, so that nothing is lost."""

from pathlib import Path

import torch

from pizero.data.transform import Transform
from pizero.model.pi0 import Pi0
from pizero.train.config import TrainConfig, config_from_json, config_to_json
from pizero.train.initial import different_fields, load_init, make_model
from pizero.train.optimizer import load_optimizer_tensors, optimizer_tensors
from pizero.train.saver import CONFIG, COUNTERS, STATE, Counters, state_tensors
from pizero.train.shards import load_shards
from pizero.train.state import TrainState, wrap
from pizero.train.tune import adapter_config
from pizero.train.world import World
from pizero.weights.adapter_source import read_adapter_config
from pizero.weights.checkpoint import load_configs, load_weights
from pizero.weights.json_config import from_json
from pizero.weights.robots import load_robots
from pizero.weights.source import read_json

FREE = frozenset(
    "name output steps device compile recompute parallel accumulate save_every keep log_every tensorboard wandb "  # noqa: SIM905
    "validate_every validate_frames resume dry_run data.root data.preload data.workers data.corrupt".split()
)
"""Fields in which a resumed run may differ: they change nothing, or no more than how numbers are rounded. That the data
are the same is seen from their statistics."""


def load_state(
    config: TrainConfig, path: Path, device: torch.device, world: World | None = None
) -> tuple[TrainState, tuple[Transform, ...]]:
    """The run as it was when the checkpoint was written, now under `config` and in these processes; its transforms.

    Raises ValueError when the config differs in a field that changes the run, or something is missing or truncated.
    """
    saved = config_from_json(read_json(path / CONFIG), str(path / CONFIG))
    differing = different_fields(config_to_json(saved), config_to_json(config), FREE)
    if differing:
        raise ValueError(
            f"{path} was trained with another config: {'; '.join(differing)}; resume with the same, "
            f"or start a new run from it with --init {path}"
        )
    counters = from_json(Counters, read_json(path / STATE / COUNTERS), str(path / STATE / COUNTERS))
    model_config, transform = load_configs(path)
    assert model_config == config.model, "train.json and config.json of a checkpoint are written together"
    model = make_model(config, device)
    load_frozen(model, config, path)
    state = wrap(config, device, model, world)
    if state.world.first:
        state.adapter = adapter_config(model, config)
        if state.adapter is not None and state.adapter.base_sha256 != (base := read_adapter_config(path).base_sha256):
            raise ValueError(
                f"{path} holds adapters of weights with sha256 {base}, init has {state.adapter.base_sha256}; give as "
                "init the weights that they were trained on"
            )
    load_trained(state, path / STATE, counters.step)
    state.step, state.seconds, state.interval = counters.step, counters.seconds, counters.interval
    return state, load_robots(path, transform)


def load_frozen(model: Pi0, config: TrainConfig, path: Path) -> None:
    """Copy into the model what no step changes, and the weights that the average starts from."""
    if config.tune in ("full", "expert"):
        model.load_state_dict(load_weights(path, config.model, "cpu"))
    else:
        assert config.init is not None, "TrainConfig checks it"
        load_init(model, config.init)


def load_trained(state: TrainState, folder: Path, step: int) -> None:
    """Give the state the weights, averages and optimiser that the folder holds, each process its part of them."""
    averages = optimizer_tensors(state.optimizer, state.parameters)
    load_shards(folder, state_tensors(state, averages))
    load_optimizer_tensors(state.optimizer, state.parameters, averages, step)
