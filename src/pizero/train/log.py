"""What a run tells: metrics.jsonl and validation.jsonl for programs, boards for curves, a line per interval for people.

In a run of several processes the first alone opens the log; its metrics are those of the whole run, but for the memory.
"""

import json
import os
import resource
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pizero.train.board import Board, open_tensorboard, open_wandb
from pizero.train.config import TrainConfig
from pizero.train.validation import Validation

METRICS = "metrics.jsonl"
VALIDATION = "validation.jsonl"
GIB = 2**30


@dataclass(frozen=True)
class Metrics:
    """One line of metrics.jsonl; loss, gradient norm, rates, wait and counts are of the steps since the line before."""

    step: int
    """Optimiser steps done."""
    loss: float
    """Mean loss."""
    lr: float
    """Learning rate of the last step, of the action expert and the heads."""
    grad_norm: float
    """Mean gradient norm, before clipping."""
    samples_per_s: float
    """Observations per second, of all processes."""
    data_wait: float
    """Part of the time, 0 to 1, in which the training waited for data."""
    seconds: float
    """Training time since step 0, over all interruptions."""
    vlm_lr: float | None = None
    """Learning rate of the last step, of vision tower, projector, token embedding and vlm. None: not known."""
    mfu: float | None = None
    """Part of the cards' peak arithmetic, 0 to 1, that went into useful products (PaLM, Chowdhery et al. 2022, app. B).
    None: the peak is not known."""
    memory_gib: float | None = None
    """Most memory so far of this process: what torch allocated on the card, or, on a CPU, what was resident."""
    skipped: int = 0
    """Frames with a corrupt picture, each replaced by another frame."""
    restarts: int = 0
    """Loader processes that died and were replaced."""
    first_step_s: float | None = None
    """From the start of this process's training to the end of its first step; only in the first line after a start."""


@dataclass(frozen=True)
class Progress:
    """What the callback of `train` is given, once per interval."""

    metrics: Metrics
    """The newest metrics."""
    steps: int
    """Steps that the run does at most."""
    fraction: float
    """Part of the run that is done, 0 to 1, by steps or by time, whichever is further."""
    seconds_left: float
    """Time until the end, if it goes on as in the last interval."""


@dataclass(frozen=True)
class Interval:
    """Sums over the steps since the last line of metrics; saved with a run, so that a resumed one has equal means."""

    num_steps: int = 0
    """Steps in the sums."""
    loss: float = 0.0
    """Sum of the losses."""
    grad_norm: float = 0.0
    """Sum of the gradient norms."""
    seconds: float = 0.0
    """Time of the steps."""
    data_seconds: float = 0.0
    """Time of waiting for data in it."""
    skipped: int = 0
    """Frames with a corrupt picture."""
    restarts: int = 0
    """Loader processes that were replaced."""

    def add(
        self,
        loss: float,
        grad_norm: float,
        seconds: float,
        data_seconds: float,
        skipped: int = 0,
        restarts: int = 0,
    ) -> "Interval":
        """With one more step."""
        return replace(
            self,
            num_steps=self.num_steps + 1,
            loss=self.loss + loss,
            grad_norm=self.grad_norm + grad_norm,
            seconds=self.seconds + seconds,
            data_seconds=self.data_seconds + data_seconds,
            skipped=self.skipped + skipped,
            restarts=self.restarts + restarts,
        )

    @property
    def seconds_per_step(self) -> float:
        """Mean time of a step."""
        return self.seconds / self.num_steps

    def metrics(
        self,
        step: int,
        lr: float,
        batch_size: int,
        seconds: float,
        *,
        vlm_lr: float | None = None,
        ideal_s: float | None = None,
        memory_gib: float | None = None,
        first_step_s: float | None = None,
    ) -> Metrics:
        """The means, as a line of metrics.

        `ideal_s`: seconds that an observation would take at the peak of all cards together, that is its useful FLOPs
        over their FLOP/s; None where the peak is not known.
        """
        samples_per_s = batch_size * self.num_steps / self.seconds
        return Metrics(
            step=step,
            loss=self.loss / self.num_steps,
            lr=lr,
            grad_norm=self.grad_norm / self.num_steps,
            samples_per_s=samples_per_s,
            data_wait=self.data_seconds / self.seconds,
            seconds=seconds,
            vlm_lr=vlm_lr,
            mfu=None if ideal_s is None else samples_per_s * ideal_s,
            memory_gib=memory_gib,
            skipped=self.skipped,
            restarts=self.restarts,
            first_step_s=first_step_s,
        )


class Log:
    """Appends what a run tells to its files and boards; made by `open_log`."""

    def __init__(self, output: Path, boards: list[Board]) -> None:
        self._output, self._boards = output, boards

    def __call__(self, metrics: Metrics) -> None:
        """A line of metrics.jsonl, and train/... on the boards."""
        self._write(METRICS, metrics.step, asdict(metrics), "train", _numbers(asdict(metrics)))

    def validation(self, validation: Validation) -> None:
        """A line of validation.jsonl, and val/... on the boards."""
        self._write(VALIDATION, validation.step, asdict(validation), "val", validation.scalars())

    def _write(self, file: str, step: int, line: dict[str, Any], group: str, scalars: Mapping[str, float]) -> None:
        with (self._output / file).open("a") as lines:
            lines.write(json.dumps(line) + "\n")
        for board in self._boards:
            board(step, {f"{group}/{name}": value for name, value in scalars.items()})


@contextmanager
def open_log(config: TrainConfig, step: int) -> Iterator[Log]:
    """The log of the run in `config.output`, which goes on after `step`, with the boards that the config asks for.

    Lines beyond `step`, of a run that was killed after its last checkpoint, are dropped.
    """
    for name in (METRICS, VALIDATION):
        drop_lines_after(config.output / name, step)
    with ExitStack() as stack:
        boards: list[Board] = []
        if config.tensorboard:
            boards.append(stack.enter_context(open_tensorboard(config.output, step)))
        if config.wandb is not None:
            boards.append(stack.enter_context(open_wandb(config)))
        yield Log(config.output, boards)


def drop_lines_after(file: Path, step: int) -> None:
    """Keep the lines up to `step`; one that a kill has cut off goes too. Written aside, then renamed."""
    if not file.exists():
        return
    kept = []
    for line in file.read_text().splitlines(keepends=True):
        if line.endswith("\n") and json.loads(line)["step"] <= step:
            kept.append(line)
    aside = file.with_name(file.name + ".part")
    aside.write_text("".join(kept))
    os.replace(aside, file)


def memory_gib(device: torch.device) -> float:
    """Most memory of this process so far in GiB: allocated by torch on a cuda device, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2) counts bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def print_progress(progress: Progress) -> None:
    """One line on stderr."""
    print(progress_line(progress), file=sys.stderr, flush=True)


def print_validation(validation: Validation) -> None:
    """One line on stderr."""
    shares = "  ".join(f"<{threshold} {share:.0%}" for threshold, share in validation.accuracy.items())
    print(
        f"step {validation.step}  validation loss {validation.loss:.4f}  action error {validation.error:.4f}  "
        f"within {shares}  ({validation.num_frames} frames, {clock(validation.seconds)})",
        file=sys.stderr,
        flush=True,
    )


def progress_line(progress: Progress) -> str:
    """Step, loss, learning rates, gradient norm, speed, waiting, memory, what went wrong, and the time left."""
    m = progress.metrics
    parts = [f"step {m.step}/{progress.steps}", f"loss {m.loss:.4f}", f"lr {m.lr:.2e}"]
    if m.vlm_lr is not None and m.vlm_lr != m.lr:
        parts.append(f"vlm lr {m.vlm_lr:.2e}")
    parts += [f"grad norm {m.grad_norm:.3f}", f"{m.samples_per_s:.1f} samples/s"]
    if m.mfu is not None:
        parts.append(f"mfu {m.mfu:.1%}")
    parts.append(f"data wait {m.data_wait:.0%}")
    if m.memory_gib is not None:
        parts.append(f"{m.memory_gib:.1f} GiB")
    if m.skipped:
        parts.append(f"{m.skipped} corrupt frames skipped")
    if m.restarts:
        parts.append(f"{m.restarts} loader processes restarted")
    if m.first_step_s is not None:
        parts.append(f"first step after {m.first_step_s:.1f} s")
    return "  ".join([*parts, f"{clock(progress.seconds_left)} left"])


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, as 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl or validation.jsonl, oldest first; empty where there is no such file yet."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _numbers(fields: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in fields.items() if value is not None and name != "step"}
