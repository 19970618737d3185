"""The network that a run starts with."""

from pathlib import Path

import torch

from pizero.model.pi0 import Pi0
from pizero.train.config import TrainConfig
from pizero.weights.checkpoint import is_checkpoint, load_configs, load_weights
from pizero.weights.json_config import to_json
from pizero.weights.paligemma import load_paligemma


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
    model.load_state_dict(load_weights(path, model.config, "cpu"))  # a second copy on a small card would not fit


def check_init(path: Path) -> Path:
    """The same path. Raises ValueError when it is no folder."""
    if not path.is_dir():
        raise ValueError(f"init: {path} is no folder; give a checkpoint, or google/paligemma-3b-pt-224, downloaded")
    return path


def different_fields(saved: object, given: object, free: frozenset[str], path: str = "") -> list[str]:
    """ "field is A here and B there" for every leaf of two JSON values that differs, but for the fields in `free`."""
    if path in free:
        return []
    if isinstance(saved, dict) and isinstance(given, dict):
        prefix = f"{path}." if path else ""
        return [line for key in saved for line in different_fields(saved[key], given[key], free, prefix + key)]
    return [] if saved == given else [f"{path} is {given} now and {saved} there"]
