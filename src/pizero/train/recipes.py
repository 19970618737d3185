"""Ways to train, from the most exact to the smallest, and which of them is the first that a card has room for."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pizero.train.config import LoraConfig, TrainConfig
from pizero.train.flops import Card
from pizero.train.predict import Memory, Shape, fits, predict_memory, predict_seconds

CHECKPOINT = Path("CHECKPOINT")
"""Stands for the checkpoint that adapters need, where the config has none."""


@dataclass(frozen=True)
class Recipe:
    """What trains, and what is done to save memory."""

    name: str
    tune: Literal["full", "expert", "lora", "qlora"] = "full"
    precision: Literal["bf16", "bf16-pure"] = "bf16"
    eight_bit: bool = False
    recompute: bool = False

    def apply(self, config: TrainConfig) -> TrainConfig:
        """The config with this recipe in place of its own."""
        adapters = self.tune in ("lora", "qlora")
        return replace(
            config,
            tune=self.tune,
            precision=self.precision,
            optim=replace(config.optim, kind="adamw8bit" if self.eight_bit else "adamw"),
            recompute=self.recompute,
            lora=config.lora if adapters else LoraConfig(),
            init=CHECKPOINT if config.init is None and self.tune != "full" else config.init,
            parallel="ddp" if self.tune == "qlora" else config.parallel,
        )


RECIPES = (
    Recipe("full"),
    Recipe("full, 8-bit AdamW", eight_bit=True),
    Recipe("full, 8-bit AdamW, recompute", eight_bit=True, recompute=True),
    Recipe("full in bf16, 8-bit AdamW", precision="bf16-pure", eight_bit=True),
    Recipe("full in bf16, 8-bit AdamW, recompute", precision="bf16-pure", eight_bit=True, recompute=True),
    Recipe("LoRA", tune="lora"),
    Recipe("LoRA, recompute", tune="lora", recompute=True),
    Recipe("QLoRA", tune="qlora"),
    Recipe("QLoRA, recompute", tune="qlora", recompute=True),
    Recipe("expert", tune="expert"),
)
"""In the order of preference."""


@dataclass(frozen=True)
class Fit:
    """A recipe that a card has room for."""

    recipe: Recipe
    config: TrainConfig
    memory: Memory
    seconds: float | None
    """Predicted time of a step."""


def first_fit(config: TrainConfig, shape: Shape, card: Card) -> Fit | None:
    """The first recipe that one such card can train this config with, in as few pieces as it takes; None: none does."""
    for recipe in RECIPES:
        for pieces in pieces_of(config):
            changed = replace(recipe.apply(config), accumulate=pieces)
            memory = predict_memory(changed, shape)
            if fits(memory, card):
                return Fit(recipe, changed, memory, predict_seconds(changed, shape, card))
    return None


def pieces_of(config: TrainConfig) -> list[int]:
    """In how many pieces a batch can be computed, from one."""
    return [count for count in range(1, config.batch_size + 1) if config.batch_size % count == 0]


def flags(changed: TrainConfig, config: TrainConfig) -> str:
    """What to type after the command of `config` for `changed`; empty when nothing."""
    pairs = (
        ("--tune", changed.tune, config.tune),
        ("--init", str(changed.init), str(config.init)),
        ("--precision", changed.precision, config.precision),
        ("--optim.kind", changed.optim.kind, config.optim.kind),
        ("--accumulate", str(changed.accumulate), str(config.accumulate)),
        ("--parallel", changed.parallel, config.parallel),
    )
    words = [f"{flag} {now}" for flag, now, before in pairs if now != before]
    if changed.recompute != config.recompute:
        words.append("--recompute" if changed.recompute else "--no-recompute")
    return " ".join(words)
