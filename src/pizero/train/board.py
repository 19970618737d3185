"""Curves for people who watch many runs: TensorBoard, and Weights & Biases where it is asked for."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pizero.train.config import TrainConfig, config_to_json

TENSORBOARD = "tensorboard"
WANDB_ID = "wandb_id"
"""File in a run's folder with the name that Weights & Biases knows the run by, so that a resumed one goes on there."""

Board = Callable[[int, Mapping[str, float]], None]
"""Takes a step and its numbers, by names such as train/loss."""


@contextmanager
def open_tensorboard(output: Path, step: int) -> Iterator[Board]:
    """A board in `output`/tensorboard; what was written there beyond `step` no longer shows.

    Raises ValueError when tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        message = f"tensorboard cannot be imported ({error}); pip install tensorboard, or give --no-tensorboard"
        raise ValueError(message) from error
    writer = SummaryWriter(output / TENSORBOARD, purge_step=step + 1)

    def write(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    try:
        yield write
    finally:
        writer.close()


@contextmanager
def open_wandb(config: TrainConfig) -> Iterator[Board]:
    """A board in the project `config.wandb`; the run goes on in the one that `output` names, if it names one.

    Weights & Biases never goes back a step, so the step is one of the numbers and the horizontal axis of the others: a
    run that is resumed from a checkpoint draws over what came after it. Without a network: WANDB_MODE=offline.
    Raises ValueError when wandb is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise ValueError(f"wandb cannot be imported ({error}); pip install wandb, or leave --wandb out") from error
    file = config.output / WANDB_ID
    known = file.read_text().strip() if file.exists() else None
    run: Any = wandb.init(
        project=config.wandb,
        name=config.name,
        id=known,
        resume=None if known is None else "allow",
        dir=config.output,
        config=config_to_json(config),
    )
    if known is None:
        aside = file.with_name(file.name + ".part")
        aside.write_text(run.id + "\n")
        os.replace(aside, file)
    run.define_metric("*", step_metric="step")

    def write(step: int, values: Mapping[str, float]) -> None:
        run.log({**values, "step": step})

    failed = True
    try:
        yield write
        failed = False
    finally:
        run.finish(exit_code=int(failed))
