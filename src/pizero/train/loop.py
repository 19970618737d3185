"""The training loop: a short loop around `train_step`, and what it stands on."""

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from pizero.data.loader import Batches
from pizero.data.transform import Transform
from pizero.train.config import TrainConfig
from pizero.train.host import TORCHRUN_REPEATS_S, Clock, Stop, choose_device
from pizero.train.log import Progress, open_log, print_progress
from pizero.train.recompile import CompileCheck
from pizero.train.recordings import (
    Recordings,
    check_same_data,
    make_augmentation,
    make_mixture,
    make_transforms,
    open_recordings,
)
from pizero.train.resume import load_state
from pizero.train.saver import Saver, checkpoints
from pizero.train.state import TrainState, make_state
from pizero.train.step import train_step
from pizero.train.watch import News, Watch
from pizero.train.world import World, check_shares, join, local_rank


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    checkpoint: Path
    """The newest checkpoint, of the last step done."""
    step: int
    """Optimiser steps done, over all interruptions."""
    loss: float
    """Mean loss of the last line of metrics; of the steps since then where the run was interrupted."""
    seconds: float
    """Training time, over all interruptions."""
    interrupted_by: int | None
    """Number of the signal that stopped the run early, after saving; None: it is complete."""
    first: bool = True
    """Whether this process, of several, is the one that tells people about it."""

    @property
    def exit_code(self) -> int:
        """What a process should exit with: 0, or 128 + signal, so that `train && eval` stops when interrupted."""
        return 0 if self.interrupted_by is None else 128 + self.interrupted_by


def train(config: TrainConfig, progress: Callable[[Progress], None] | None = None) -> TrainResult:
    """Train as `config` says and give the last checkpoint; under torchrun, together with the other processes.

    `progress` is called once per `log_every` steps, in the first process; None prints a line on stderr each time.
    Ctrl-C and SIGTERM save and return. Raises ValueError for what the config or the data set gets wrong, and
    FloatingPointError, naming the step, when the loss or the gradient is not finite; nothing is saved then.
    """
    began = time.monotonic()
    device = choose_device(config.device, local_rank())
    with ExitStack() as stack:
        world = stack.enter_context(join(device))
        check_shares(config.batch_size, config.accumulate)
        recordings = open_recordings(config)
        stack.callback(recordings.close)
        state, transforms = start(config, recordings, device, world)
        mixture = make_mixture(config, recordings, transforms)
        state.augment = make_augmentation(config, mixture)
        log = stack.enter_context(open_log(config, state.step)) if world.first else None
        watch = Watch(state, mixture, log, (progress or print_progress) if world.first else None, began)
        data, part = config.data, world.part(config.batch_size)
        batches = stack.enter_context(
            Batches(mixture, config.batch_size, part, state.step, data.workers, data.corrupt, device)
        )
        saver = stack.enter_context(Saver(state, transforms))
        repeats_s = 0.0 if world.size == 1 else TORCHRUN_REPEATS_S
        stop = stack.enter_context(Stop(repeats_s, announce=world.first))
        return run(state, batches, saver, stop, watch)


def run(state: TrainState, batches: Batches, saver: Saver, stop: Stop, watch: Watch) -> TrainResult:
    """Steps until the last one, the time limit or a signal."""
    config, clock, fraction = state.config, Clock(state.seconds, state.config.max_seconds), 0.0
    compiled = CompileCheck(config.compile)
    while True:
        asked = clock.elapsed()
        batch = next(batches)
        waited = clock.elapsed() - asked
        result = train_step(state, batch, fraction)
        compiled.after_step(state.step)
        saver.check()
        state.seconds, seconds = clock.total(), clock.elapsed() - asked  # without validations and saving
        own = News(clock.fraction(), stop.signal or 0, waited, batch.skipped, batches.counters.restarts)
        news = own.shared(state.world)
        fraction = news.fraction
        done = max(state.step / config.steps, fraction)
        ended = done >= 1 or news.signal != 0
        watch.step(result, seconds, news, done, clock.left())
        if ended or state.step % config.save_every == 0:
            path = saver.save()
        if watch.validates(done >= 1):
            watch.validation()
            compiled.after_validation(state.step)
        if ended:
            saver.wait()
            watch.report("done" if done >= 1 else "interrupted")
            interrupted_by = None if done >= 1 else news.signal
            return TrainResult(path, state.step, watch.loss, state.seconds, interrupted_by, state.world.first)


def start(
    config: TrainConfig, recordings: Recordings, device: torch.device, world: World
) -> tuple[TrainState, tuple[Transform, ...]]:
    """A new run, or the one that is resumed. Raises ValueError when there is none, or one already."""
    found = checkpoints(config.output)
    if config.resume:
        if not found:
            raise ValueError(f"{config.output} has no checkpoint to resume; leave resume out to start the run")
        state, transforms = load_state(config, found[-1], device, world)
        check_same_data(transforms, recordings, str(found[-1]))
        if state.step >= config.steps:
            raise ValueError(f"{found[-1]} has done {state.step} of {config.steps} steps; raise steps to train on")
    else:
        if found:
            raise ValueError(f"{config.output} already holds {found[-1].name}; give --resume, or another output")
        transforms = make_transforms(config, recordings)
        state = make_state(config, device, world)
    world.wait()  # all have looked at the folder
    if world.first:
        config.output.mkdir(parents=True, exist_ok=True)
        for stale in config.output.glob("step-*.part"):  # left by a run that was killed while saving
            shutil.rmtree(stale)
    return state, transforms
