"""The training loop: `train_step`, and a short loop around it."""

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pizero import flow
from pizero.data.lerobot import LeRobotDataset
from pizero.data.loader import Augment, Batches
from pizero.data.transform import Transform
from pizero.train.config import AugmentConfig, TrainConfig
from pizero.train.host import Clock, Stop, choose_device, deterministic
from pizero.train.log import Interval, Metrics, Progress, open_log, print_progress
from pizero.train.optimizer import learning_rate
from pizero.train.state import (
    TrainState,
    check_same_data,
    checkpoints,
    load_state,
    make_state,
    make_transform,
    save_state,
    training_stats,
)
from pizero.types import Actions, Observation

NOISE_STREAM = 2
"""Keeps the random numbers of noise and flow time apart from those of `Batches`, which have streams 0 and 1."""


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

    @property
    def exit_code(self) -> int:
        """What a process should exit with: 0, or 128 + signal, so that `train && eval` stops when interrupted."""
        return 0 if self.interrupted_by is None else 128 + self.interrupted_by


def train(config: TrainConfig, progress: Callable[[Progress], None] | None = None) -> TrainResult:
    """Train as `config` says and give the last checkpoint.

    `progress` is called once per `log_every` steps; None prints a line on stderr each time. Ctrl-C and SIGTERM save and
    return. Raises ValueError for what the config or the data set gets wrong, and FloatingPointError, naming the step,
    when the loss or the gradient is not finite; nothing is saved then.
    """
    device = choose_device(config.device)
    dataset = open_dataset(config)
    state, transform = start(config, dataset, device)
    with ExitStack() as stack:
        stack.callback(dataset.close)
        stack.enter_context(deterministic(device))
        log = stack.enter_context(open_log(config.output, state.step, config.tensorboard))
        batches = stack.enter_context(
            Batches(dataset, transform, config.batch_size, config.seed, state.step, make_augment(config))
        )
        stop = stack.enter_context(Stop())
        return run(state, transform, iter(batches), stop, log, progress or print_progress)


def run(
    state: TrainState,
    transform: Transform,
    batches: Iterator[tuple[Observation, Actions]],
    stop: Stop,
    log: Callable[[Metrics], None],
    progress: Callable[[Progress], None],
) -> TrainResult:
    """Steps until the last one, the time limit or a signal."""
    config, clock = state.config, Clock(state.seconds, state.config.max_seconds)
    while True:
        asked = clock.elapsed()
        observation, actions = next(batches)
        waited = clock.elapsed() - asked
        result = train_step(state, observation, actions, clock.fraction())
        state.seconds, before = clock.total(), state.seconds
        state.interval = state.interval.add(result.loss, result.grad_norm, state.seconds - before, waited)
        metrics = state.interval.metrics(state.step, result.lr, config.batch_size, state.seconds)
        done = max(state.step / config.steps, clock.fraction())
        if done >= 1 or state.step % config.log_every == 0:
            log(metrics)
            left = min((config.steps - state.step) * state.interval.seconds_per_step, clock.left())
            progress(Progress(metrics, config.steps, min(done, 1.0), left))
            state.interval = Interval()
        ended = done >= 1 or stop.signal is not None
        if ended or state.step % config.save_every == 0:
            path = save_state(state, transform)
        if ended:
            interrupted_by = None if done >= 1 else stop.signal
            return TrainResult(path, state.step, metrics.loss, state.seconds, interrupted_by)


@dataclass(frozen=True)
class StepResult:
    """The numbers of one optimiser step."""

    loss: float
    grad_norm: float
    lr: float


def train_step(state: TrainState, observation: Observation, actions: Actions, time_fraction: float = 0.0) -> StepResult:
    """One optimiser step on one batch, which changes `state`; the batch is on the host.

    Raises FloatingPointError, before any weight is changed, when the loss or the norm of the gradient is not finite.
    """
    config, optim = state.config, state.config.optim
    lr = learning_rate(optim, state.step, config.steps, time_fraction)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    t, noise = draw(config, state.step)
    loss = backward(state, observation, actions, t, noise)
    limit = math.inf if optim.clip_norm is None else optim.clip_norm
    grad_norm = float(torch.nn.utils.clip_grad_norm_(state.parameters.values(), limit))
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise FloatingPointError(
            f"step {state.step + 1}: loss is {loss}, gradient norm {grad_norm}; the run stops and saves nothing. "
            f"Lower optim.lr (it was {lr:.3g}), or look for outliers in the data set with `pizero stats`"
        )
    state.optimizer.step()
    state.optimizer.zero_grad()
    if state.ema is not None:
        state.ema.update(state.parameters, state.step)
    state.step += 1
    return StepResult(loss, grad_norm, lr)


def backward(
    state: TrainState, observation: Observation, actions: Actions, t: Float[Tensor, " n"], noise: Float[Tensor, "n t a"]
) -> float:
    """The loss of the batch; its gradients are added to those of the parameters.

    The batch is computed in `config.accumulate` pieces. The loss is a mean over real elements, of which a piece may
    have more than another: each piece counts by its share of them, so that the sum is the mean over the whole batch.
    """
    config, rows = state.config, actions.values.shape[0] // state.config.accumulate
    total, loss = int(actions.mask.sum()), 0.0
    for i in range(config.accumulate):
        part = slice(i * rows, (i + 1) * rows)
        drawn = slice(i * rows * config.draws, (i + 1) * rows * config.draws)
        piece, target = take(observation, part), Actions(actions.values[part].clone(), actions.mask[part])
        if not config.compile:  # compiled code wants the same shapes every time
            piece = piece.trim()
        with torch.autocast(state.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            mean = state.loss(
                piece.to(state.device),
                target.to(state.device),
                t[drawn].to(state.device),
                noise[drawn].to(state.device),
                config.sigma_min,
            )
        share = mean * (int(target.mask.sum()) / total)
        share.backward()
        loss += share.item()
    return loss


def take(observation: Observation, rows: slice) -> Observation:
    """Some rows of a batch, what is multiplied in memory of its own.

    On the CPU the last bits of a product can depend on where its numbers lie; torch aligns them, numpy does so less.
    The pictures are copied by `trim`.
    """
    return Observation(
        images=observation.images[rows],
        prompt=observation.prompt[rows],
        state=observation.state[rows].clone(),
        image_mask=None if observation.image_mask is None else observation.image_mask[rows],
        prompt_mask=None if observation.prompt_mask is None else observation.prompt_mask[rows],
    )


def draw(config: TrainConfig, step: int) -> tuple[Float[Tensor, " n"], Float[Tensor, "n t a"]]:
    """Flow times and noise of a step, for the whole batch, from seed and step alone; the same on every device."""
    mixed = np.random.SeedSequence((config.seed, NOISE_STREAM, step)).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(mixed[0]))
    count = config.batch_size * config.draws
    t = flow.sample_time(count, config.time_distribution, generator)
    return t, torch.randn(count, config.model.horizon, config.model.action_dim, generator=generator)


def open_dataset(config: TrainConfig) -> LeRobotDataset:
    """The data set of the run."""
    if config.data.root is None:
        raise ValueError("data.root is not set; give the folder of a LeRobot data set with --data.root")
    dataset = LeRobotDataset(config.data.root)
    if config.data.preload:
        side = config.model.vision.image_size
        dataset.preload((side, side), config.data.resize)
    return dataset


def make_augment(config: TrainConfig) -> Augment | None:
    """Random changes of the pictures; None when the config asks for none."""
    chosen = config.data.augment
    if chosen == AugmentConfig():
        return None
    return Augment(chosen.shift_pixels, chosen.brightness, chosen.contrast)


def start(config: TrainConfig, dataset: LeRobotDataset, device: torch.device) -> tuple[TrainState, Transform]:
    """A new run, or the one that is resumed. Raises ValueError when there is none, or one already."""
    stats, found = training_stats(config, dataset), checkpoints(config.output)
    if config.resume:
        if not found:
            raise ValueError(f"{config.output} has no checkpoint to resume; leave resume out to start the run")
        state, transform = load_state(config, found[-1], device)
        check_same_data(transform, dataset.embodiment, stats, found[-1])
        if state.step >= config.steps:
            raise ValueError(f"{found[-1]} has done {state.step} of {config.steps} steps; raise steps to train on")
    else:
        if found:
            raise ValueError(f"{config.output} already holds {found[-1].name}; give --resume, or another output")
        transform = make_transform(config, dataset.embodiment, stats, tuple(dataset.prompts))
        state = make_state(config, device)
    config.output.mkdir(parents=True, exist_ok=True)
    for stale in config.output.glob("step-*.part"):  # left by a run that was killed while saving
        shutil.rmtree(stale)
    return state, transform
