"""One optimiser step."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pizero import flow
from pizero.data.batch import Batch
from pizero.train.clip import clip_gradients
from pizero.train.config import TrainConfig
from pizero.train.optimizer import set_learning_rates
from pizero.train.rounding import seed_rounding
from pizero.train.seed import mixed
from pizero.train.state import TrainState
from pizero.train.tune import seed_dropout

NOISE_STREAM = 2
"""Keeps the random numbers of noise and flow time apart from those of the data, which have other streams."""


@dataclass(frozen=True)
class StepResult:
    """The numbers of one optimiser step, of all processes together."""

    loss: float
    grad_norm: float
    lr: float
    """Learning rate of the action expert and the heads."""
    vlm_lr: float


def train_step(state: TrainState, batch: Batch, time_fraction: float = 0.0) -> StepResult:
    """One optimiser step, which changes `state`; `batch` are this process's rows of it, on the host.

    Raises FloatingPointError, before any weight is changed, when the loss or the norm of the gradient is not finite.
    """
    config, optim = state.config, state.config.optim
    lr, vlm_lr = set_learning_rates(state.optimizer, optim, state.step, config.steps, time_fraction)
    device_loss = state.world.sum(backward(state, batch, *draw(config, state.step)))
    device_norm = clip_gradients(state.parameters.values(), optim.clip_norm, state.loss.sharded)
    loss, grad_norm = torch.stack([device_loss, device_norm]).tolist()  # the one place where the host waits
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise FloatingPointError(
            f"step {state.step + 1}: loss is {loss}, gradient norm {grad_norm}; the run stops and saves nothing. "
            f"Lower optim.lr (it was {lr:.3g}), or look for outliers in the data set with `pizero stats`"
        )
    if config.precision == "bf16-pure":
        seed_rounding(config.seed, state.step, state.world.rank if state.loss.sharded else 0)
    state.optimizer.step()
    state.optimizer.zero_grad()
    if state.ema is not None:
        state.ema.update(state.parameters, state.step)
    state.step += 1
    return StepResult(loss, grad_norm, lr, vlm_lr)


def backward(
    state: TrainState, batch: Batch, t: Float[Tensor, " n"], noise: Float[Tensor, "n t a"]
) -> Float[Tensor, ""]:
    """This process's part of the loss; the gradients, of all processes, are added to those of the parameters.

    `t` and `noise` are those of the whole batch. The rows are computed in `config.accumulate` pieces. The loss is a
    mean over real elements, of which a piece may have more than another: each piece counts by its share of those of
    all processes, so that the sum of all parts is the mean over the whole batch.
    """
    config, world = state.config, state.world
    rows = config.batch_size // (world.size * config.accumulate)
    assert len(batch) == rows * config.accumulate, f"{len(batch)} rows, {rows} in each of {config.accumulate} pieces"
    loss = torch.zeros((), device=state.device)
    for i in range(config.accumulate):
        first = world.part(config.batch_size).start + i * rows  # in the whole batch
        piece = batch.rows(slice(i * rows, (i + 1) * rows))
        drawn = slice(first * config.draws, (first + rows) * config.draws)
        share = int(piece.action_mask.sum()) / batch.total
        seed_dropout(config, state.step, first)
        inputs = piece.observation(state.device, state.augment), piece.actions(state.device)
        draws = _move(t[drawn], state.device), _move(noise[drawn], state.device)
        weight = share * world.size  # processes average their gradients
        if state.graph is not None:
            loss += state.graph(*inputs, *draws, weight) * share
            continue
        with state.loss.exchange(last=i == config.accumulate - 1):
            mean = state.mean_loss(*inputs, *draws)
            (mean * weight).backward()
        loss += mean.detach() * share
    return loss


def draw(config: TrainConfig, step: int) -> tuple[Float[Tensor, " n"], Float[Tensor, "n t a"]]:
    """Flow times and noise of a step, for the whole batch, from seed and step alone; the same on every device."""
    generator = torch.Generator().manual_seed(mixed(config.seed, NOISE_STREAM, step))
    count = config.batch_size * config.draws
    t = flow.sample_time(count, config.time_distribution, generator)
    return t, torch.randn(count, config.model.horizon, config.model.action_dim, generator=generator)


def _move(drawn: Tensor, device: torch.device) -> Tensor:
    """On the device, in memory of its own: on the CPU the last bits can depend on where numbers lie in memory."""
    if device.type == "cuda":
        return drawn.pin_memory().to(device, non_blocking=True)
    return drawn.clone()
