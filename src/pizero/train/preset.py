"""Presets: functions that give a complete training config."""

import difflib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pizero.model.config import GemmaConfig, Pi0Config, SiglipConfig
from pizero.train.config import AugmentConfig, DataConfig, OptimConfig, TrainConfig


def debug() -> TrainConfig:
    """Two layers of width 32 for 20 steps: to see in seconds that a data set trains."""
    return TrainConfig(
        name="debug",
        output=Path("runs/debug"),
        model=Pi0Config(
            vision=SiglipConfig(width=32, depth=2, mlp_dim=64, num_heads=2, image_size=32, patch_size=8),
            vlm=GemmaConfig(width=32, depth=2, mlp_dim=64, num_heads=4, num_kv_heads=1, head_dim=16),
            action=GemmaConfig(width=32, depth=2, mlp_dim=64, num_heads=4, num_kv_heads=1, head_dim=16),
            vocab_size=512,
            horizon=4,
        ),
        data=DataConfig(prompt_length=64),
        optim=OptimConfig(lr=1e-3, min_lr=1e-4, warmup_steps=2),
        steps=20,
        batch_size=8,
        draws=2,
        precision="fp32",
        compile=False,
        save_every=10,
        log_every=5,
    )


def tiny_model() -> Pi0Config:
    """A pi0 that trains on two CPU cores in minutes: 2.1 million parameters, one 96-pixel picture."""
    return Pi0Config(
        vision=SiglipConfig(width=128, depth=3, mlp_dim=384, num_heads=4, image_size=96, patch_size=16),
        vlm=GemmaConfig(width=128, depth=4, mlp_dim=384, num_heads=4, num_kv_heads=1, head_dim=32),
        action=GemmaConfig(width=96, depth=4, mlp_dim=288, num_heads=4, num_kv_heads=1, head_dim=32),
        vocab_size=512,
        state_dim=4,
        action_dim=4,
        horizon=10,
    )


def demo() -> TrainConfig:
    """A tiny pi0 on a Meta-World data set, on the CPU, in eight minutes; what `pizero demo` trains."""
    return TrainConfig(
        name="demo",
        output=Path("runs/demo/train"),
        model=tiny_model(),
        data=DataConfig(prompt_length=16, preload=True, raw_actions=("gripper",)),
        optim=OptimConfig(lr=1e-3, min_lr=2e-5, warmup_steps=100, weight_decay=1e-2, ema_decay=0.998),
        steps=1_000_000,
        max_seconds=480.0,
        batch_size=32,
        draws=2,
        precision="fp32",
        compile=False,
        save_every=1_000_000,
        log_every=20,
    )


def small_model(state_dim: int, horizon: int) -> Pi0Config:
    """A pi0 that learns a simulator's tasks from scratch on one GPU: 4.3 million parameters."""
    return Pi0Config(
        vision=SiglipConfig(
            width=192, depth=4, mlp_dim=576, num_heads=6, image_size=128, patch_size=8, stem="convolutions"
        ),
        vlm=GemmaConfig(width=192, depth=4, mlp_dim=512, num_heads=6, num_kv_heads=1, head_dim=32),
        action=GemmaConfig(width=128, depth=4, mlp_dim=384, num_heads=6, num_kv_heads=1, head_dim=32),
        vocab_size=512,
        state_dim=state_dim,
        action_dim=7,
        horizon=horizon,
    )


def simpler() -> TrainConfig:
    """A small pi0 from scratch on demonstrations of SimplerEnv's Bridge tasks; runs/simpler.sh has all commands.

    Pictures are shifted at random, against learning scenes by heart (docs/log.md, 2026-11-29). The still photograph
    behind them shows by how much, so that no place need be lost.
    """
    return TrainConfig(
        name="simpler",
        output=Path("runs/simpler/train"),
        model=small_model(state_dim=7, horizon=8),
        data=DataConfig(
            normalization="quantile",
            prompt_length=32,
            preload=True,
            raw_actions=("gripper",),
            augment=AugmentConfig(shift_pixels=3),
        ),
        optim=OptimConfig(lr=1e-3, min_lr=1e-5, warmup_steps=300, weight_decay=1e-2, ema_decay=0.998),
        steps=15_000,
        batch_size=256,
        draws=4,
        graph=True,
        save_every=5_000,
        log_every=100,
    )


def libero() -> TrainConfig:
    """A small pi0 from scratch on demonstrations of a LIBERO suite; runs/libero.sh has all commands.

    Both cameras' pictures are shifted, each by itself, as in `simpler`.
    """
    return replace(
        simpler(), name="libero", output=Path("runs/libero/train"), model=small_model(state_dim=8, horizon=16)
    )


def pi0() -> TrainConfig:
    """The released 3.3 B sizes, from a PaliGemma, on a LeRobot data set, with openpi's default recipe."""
    return TrainConfig(
        name="pi0",
        output=Path("runs/pi0"),
        data=DataConfig(normalization="z-score", prompt_length=48, workers=8),
        init=Path("paligemma-3b-pt-224"),
    )


def pi05() -> TrainConfig:
    """pi0.5 from an imported checkpoint (--init), on a LeRobot data set, with openpi's recipe."""
    return replace(
        pi0(),
        name="pi05",
        output=Path("runs/pi05"),
        model=Pi0Config(time_conditioning="adarms", state_token=False),
        data=DataConfig(normalization="quantile", prompt_format="pi05", prompt_length=200, workers=8),
        optim=OptimConfig(ema_decay=0.999),
        init=Path("pi05_base"),
    )


def bridge() -> TrainConfig:
    """One view and chunks of 4 for Bridge data, with open-pi-zero's recipe (no decay of the learning rate)."""
    return TrainConfig(
        name="bridge",
        output=Path("runs/bridge"),
        model=Pi0Config(state_dim=7, action_dim=7, horizon=4),
        data=DataConfig(normalization="bounds", raw_actions=("gripper",), prompt_length=20, workers=8),
        optim=OptimConfig(lr=5e-5, min_lr=None, warmup_steps=200, weight_decay=0.0, ema_decay=None),
        steps=19_000,
        batch_size=1024,
        accumulate=16,
        init=Path("paligemma-3b-pt-224"),
    )


def presets() -> dict[str, Callable[[], TrainConfig]]:
    """All presets by name."""
    return {
        "debug": debug,
        "demo": demo,
        "simpler": simpler,
        "libero": libero,
        "pi0": pi0,
        "pi05": pi05,
        "bridge": bridge,
    }


def make_preset(name: str) -> TrainConfig:
    """The config of a preset. Raises ValueError that names the nearest ones when there is none of that name."""
    known = presets()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"there is no preset {name!r}; {hint}All presets: {', '.join(known)}")
    return known[name]()
