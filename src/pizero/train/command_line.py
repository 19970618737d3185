"""A training config as the words that one types: the nearest preset, and every field in which it differs."""

import shlex
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from pizero.train.config import TrainConfig
from pizero.train.preset import presets


def nearest_preset(config: TrainConfig) -> tuple[str, TrainConfig]:
    """The preset from which the config differs in the fewest fields."""
    made = {name: preset() for name, preset in presets().items()}
    name = min(made, key=lambda name: len(differences(config, made[name])))
    return name, made[name]


def differences(config: TrainConfig, preset: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Dotted path of every field that differs -> its value, and the preset's."""
    return {path: (value, other) for path, value, other in _leaves(config, preset, "") if value != other}


def command_line(config: TrainConfig, num_processes: int = 1) -> str:
    """What to type for a run of this config, on one machine; `pizero train` reads the equal config from it."""
    name, preset = nearest_preset(config)
    start = ["pizero"] if num_processes == 1 else ["torchrun", "--nproc-per-node", str(num_processes), "-m", "pizero"]
    words = [*start, "train", name]
    for path, (value, _) in differences(config, preset).items():
        words += _option(path, value)
    return shlex.join(words)


def _leaves(one: Any, other: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Path and both values of every field that is no dataclass itself."""
    for field in fields(one):
        value, counterpart = vars(one)[field.name], vars(other)[field.name]
        if is_dataclass(value):
            yield from _leaves(value, counterpart, f"{path}{field.name}.")
        else:
            yield path + field.name, value, counterpart


def _option(path: str, value: Any) -> list[str]:
    option = path.replace("_", "-")
    if isinstance(value, bool):
        group, _, name = option.rpartition(".")
        prefix = f"--{group}." if group else "--"
        return [prefix + name if value else f"{prefix}no-{name}"]
    if isinstance(value, tuple):
        return [f"--{option}", *map(str, value)]
    return [f"--{option}", str(value)]
