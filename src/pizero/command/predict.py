"""`pizero train PRESET --dry-run`: memory and time of a step, and which recipe fits which card; nothing is loaded."""

import json
import os
from dataclasses import asdict, replace
from typing import Literal

from pizero.train.config import TrainConfig
from pizero.train.flops import CARDS, Card, find_card, flops_per_sample
from pizero.train.predict import (
    EFFICIENCY_COMPILED,
    EFFICIENCY_EAGER,
    RESERVE_BYTES,
    Memory,
    Shape,
    observation_shape,
    predict_memory,
    predict_seconds,
    rows_at_once,
)
from pizero.train.recipes import RECIPES, Fit, first_fit, flags
from pizero.train.sizes import sizes

ASSUMED_DEVICES = 8
"""Shown beside one device when the command was not started by torchrun with a number of its own."""


def predict(config: TrainConfig, command: str) -> None:
    """Print the prediction for `config`, and one JSON line last. `command` is what was typed, without --dry-run."""
    shape, source = observation_shape(config)
    card = find_card("NVIDIA H200")
    assert card is not None
    world = int(os.environ.get("WORLD_SIZE", "1"))
    several = world if world > 1 else ASSUMED_DEVICES
    runs = [("1 device", config, 1)]
    runs += [(f"{several} x {kind}", replace(config, parallel=kind), several) for kind in _ways(config)]
    memories = {name: predict_memory(run, shape, devices) for name, run, devices in runs}
    seconds = {name: predict_seconds(run, shape, card, devices) for name, run, devices in runs}
    found = [(other, first_fit(config, shape, other)) for other in CARDS]
    _print_run(config, shape, source)
    _print_memory(memories)
    _print_time(config, shape, card, seconds)
    _print_fits(config, found, command)
    fits = {other.name: None if fit is None else _fit_json(fit, config) for other, fit in found}
    print(
        json.dumps(
            {
                "shape": asdict(shape),
                "sizes": asdict(sizes(config)),
                "flops_per_sample": _flops(config, shape),
                "card": card.name,
                "memory_bytes": {name: asdict(memory) for name, memory in memories.items()},
                "seconds_per_step": seconds,
                "fits": fits,
            }
        )
    )


def _ways(config: TrainConfig) -> list[Literal["ddp", "fsdp"]]:
    return ["ddp"] if config.tune == "qlora" else ["ddp", "fsdp"]


def _flops(config: TrainConfig, shape: Shape) -> float:
    return flops_per_sample(config.model, shape.views, shape.prompt_tokens, config.draws, config.tune, config.lora)


def _print_run(config: TrainConfig, shape: Shape, source: str) -> None:
    counted, rows = sizes(config), rows_at_once(config, 1)
    print(f"{config.name}: tune {config.tune}, precision {config.precision}, {config.optim.kind}", end="")
    print(f"{', recompute' if config.recompute else ''}{', compiled' if config.compile else ''}")
    print(f"trained {counted.trained / 1e6:,.1f} M parameters, frozen {counted.frozen / 1e6:,.1f} M")
    print(f"{shape.views} views ({source}), prompts of {shape.prompt_tokens} tokens (the most: data.prompt_length)")
    print(f"batch of {config.batch_size}, on one device in pieces of {rows}: --accumulate {config.accumulate}\n")


def _print_memory(memories: dict[str, Memory]) -> None:
    print(f"{'GB on each device':28}" + "".join(f"{name:>14}" for name in memories))
    for label, field in (
        ("trained weights", "trained"),
        ("frozen weights", "frozen"),
        ("bfloat16 copies", "copies"),
        ("gradients", "gradients"),
        ("optimiser", "optimizer"),
        ("average of weights", "average"),
        ("activations", "activations"),
        ("work space", "workspace"),
        ("peak", "peak"),
    ):
        print(f"{label:28}" + "".join(f"{asdict(memory)[field] / 1e9:>14.1f}" for memory in memories.values()))
    print("Gradients come as activations go: of the two, a step that is one piece on one device or with fsdp needs the")
    print(f"larger, any other both. A card must have {RESERVE_BYTES / 1e9:.1f} GB more, which is CUDA's.\n")


def _print_time(config: TrainConfig, shape: Shape, card: Card, seconds: dict[str, float | None]) -> None:
    efficiency = EFFICIENCY_COMPILED if config.compile else EFFICIENCY_EAGER
    print(
        f"{_flops(config, shape) / 1e12:.3f} TFLOP a sample; on {card.name} ({card.flops / 1e12:.0f} TFLOP/s, ", end=""
    )
    print(f"{card.bandwidth / 1e12:.1f} TB/s, both measured) both passes at {efficiency:.0%} of that:")
    for name, time in seconds.items():
        if time is None:
            print(f"{name:14}not predicted: the speed of float32 products is not known; give --precision bf16")
        else:
            print(f"{name:14}{1e3 * time:9.0f} ms a step{config.batch_size / time:9.1f} samples/s")
    print("Data and communication are taken to be faster than that.\n")


def _print_fits(config: TrainConfig, found: list[tuple[Card, Fit | None]], command: str) -> None:
    print(f"What one card has room for, with a batch of {config.batch_size}; the first of:")
    for number, recipe in enumerate(RECIPES, 1):
        print(f"{number:4} {recipe.name}")
    print()
    print(f"{'card':16}{'GB':>7}{'needs':>8}{'samples/s':>11}  {'recipe':38}{command} ...")
    for card, fit in found:
        if fit is None:
            print(f"{card.name:16}{card.memory_bytes / 1e9:7.1f}{'-':>8}{'-':>11}  none")
            continue
        speed = "-" if fit.seconds is None else f"{config.batch_size / fit.seconds:.1f}"
        print(f"{card.name:16}{card.memory_bytes / 1e9:7.1f}{fit.memory.peak / 1e9:8.1f}{speed:>11}  ", end="")
        print(f"{fit.recipe.name:38}{flags(fit.config, config)}".rstrip())


def _fit_json(fit: Fit, config: TrainConfig) -> dict[str, object]:
    return {
        "recipe": fit.recipe.name,
        "flags": flags(fit.config, config),
        "peak_bytes": fit.memory.peak,
        "seconds_per_step": fit.seconds,
    }
