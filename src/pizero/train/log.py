"""What a run tells: metrics.jsonl for programs, TensorBoard for curves, one line per interval for people."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


@dataclass(frozen=True)
class Metrics:
    """One line of metrics.jsonl; loss, gradient norm, rate and wait are over the steps since the line before."""

    step: int
    """Optimiser steps done."""
    loss: float
    """Mean loss."""
    lr: float
    """Learning rate of the last step."""
    grad_norm: float
    """Mean gradient norm, before clipping."""
    samples_per_s: float
    """Observations per second."""
    data_wait: float
    """Part of the time, 0 to 1, in which the training waited for data."""
    seconds: float
    """Training time since step 0, over all interruptions."""


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

    def add(self, loss: float, grad_norm: float, seconds: float, data_seconds: float) -> "Interval":
        """With one more step."""
        return replace(
            self,
            num_steps=self.num_steps + 1,
            loss=self.loss + loss,
            grad_norm=self.grad_norm + grad_norm,
            seconds=self.seconds + seconds,
            data_seconds=self.data_seconds + data_seconds,
        )

    @property
    def seconds_per_step(self) -> float:
        """Mean time of a step."""
        return self.seconds / self.num_steps

    def metrics(self, step: int, lr: float, batch_size: int, seconds: float) -> Metrics:
        """The means, as a line of metrics."""
        return Metrics(
            step=step,
            loss=self.loss / self.num_steps,
            lr=lr,
            grad_norm=self.grad_norm / self.num_steps,
            samples_per_s=batch_size * self.num_steps / self.seconds,
            data_wait=self.data_seconds / self.seconds,
            seconds=seconds,
        )


@contextmanager
def open_log(output: Path, step: int, tensorboard: bool) -> Iterator[Callable[[Metrics], None]]:
    """A function that appends metrics to the files of the run, which goes on after `step`.

    Lines beyond `step`, of a run that was killed after its last checkpoint, are dropped.
    """
    file = output / METRICS
    drop_lines_after(file, step)
    writer: Any = None
    if tensorboard:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            message = f"tensorboard cannot be imported ({error}); pip install tensorboard, or give --no-tensorboard"
            raise ValueError(message) from error
        writer = SummaryWriter(output / TENSORBOARD, purge_step=step + 1)

    with file.open("a") as lines:

        def write(metrics: Metrics) -> None:
            lines.write(json.dumps(asdict(metrics)) + "\n")
            lines.flush()
            if writer is not None:
                for name, value in asdict(metrics).items():
                    if name != "step":
                        writer.add_scalar(f"train/{name}", value, metrics.step)

        try:
            yield write
        finally:
            if writer is not None:
                writer.close()


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


def print_progress(progress: Progress) -> None:
    """One line on stderr."""
    m = progress.metrics
    print(
        f"step {m.step}/{progress.steps}  loss {m.loss:.4f}  lr {m.lr:.2e}  grad norm {m.grad_norm:.3f}  "
        f"{m.samples_per_s:.1f} samples/s  data wait {m.data_wait:.0%}  {clock(progress.seconds_left)} left",
        file=sys.stderr,
        flush=True,
    )


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, as 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
