"""How well the weights do on episodes that were not trained on: flow matching loss, and error of sampled chunks.

Noise and flow times are the same at every validation, so that its numbers differ by the weights alone.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pizero import flow
from pizero.data.dataset import CorruptPicture, Dataset
from pizero.data.transform import Transform
from pizero.embodiment import Embodiment
from pizero.frame import Frame
from pizero.model.pi0 import Pi0
from pizero.train.config import TrainConfig
from pizero.train.seed import mixed
from pizero.train.validation import THRESHOLDS, RobotError, Validation
from pizero.types import Actions, Observation

NUM_STEPS = 10
"""Euler steps of the sampled chunks (pi0 paper, app. D)."""
VALIDATION_STREAM = 3
"""Keeps the random numbers apart from those of training, which have other streams."""

Reduce = Callable[[Tensor], Tensor]
"""The sum of a float64 tensor on the host over all processes."""
Sums = dict[str, Tensor]
"""float64 vectors by name."""


@dataclass(frozen=True)
class Piece:
    """Held-out frames of one data set that one pass through the model looks at, on the host."""

    transform: Transform
    """Of the data set."""
    observation: Observation
    """The frames in model units."""
    actions: Actions
    """Recorded chunks in model units; the mask is False in rows that do not count."""
    state: Float[np.ndarray, "b robot_s"]
    """Of the frames, in real units."""
    recorded: Float[np.ndarray, "b t robot_a"]
    """The chunks in real units, the robot's own dimensions."""
    counts: Bool[np.ndarray, " b"]
    """False for rows that only fill the piece, and for corrupt pictures that are skipped."""
    t: Float[Tensor, " n"]
    """Flow times of the loss; n is a multiple of b."""
    noise: Float[Tensor, "n t a"]
    """Noise of the loss."""
    start: Float[Tensor, "b t a"]
    """Noise that sampling starts from."""


def make_pieces(
    sources: Sequence[tuple[Dataset, Transform]],
    source: Int[np.ndarray, " n"],
    frame: Int[np.ndarray, " n"],
    config: TrainConfig,
    rank: int = 0,
    world_size: int = 1,
) -> list[Piece]:
    """This process's share of the frames `frame` of the data sets `source`, decoded, with their noise.

    Every process gets as many pieces, of the sizes that training has room for. Noise and times depend on the config's
    seed and a frame's place in the list alone, not on the processes.
    Raises ValueError when there is no frame, and CorruptPicture unless the config skips corrupt pictures.
    """
    if not len(frame):
        raise ValueError("there is no held-out frame to validate on; give data.held_out above 0")
    t, noise, start = _draw(config, len(frame))
    room = max(1, config.batch_size // (config.accumulate * world_size))
    pieces = []
    for number, (dataset, transform) in enumerate(sources):
        places = np.flatnonzero(source == number)
        rows = max(1, min(room, math.ceil(len(places) / world_size)))
        for first in range(0, len(places), rows * world_size):
            mine = places[first + rank * rows : first + (rank + 1) * rows]
            filled = np.concatenate([mine, np.full(rows - len(mine), places[0])])  # all processes have as many rows
            drawn = (filled[:, None] * config.draws + np.arange(config.draws)).ravel()
            draws = t[drawn], noise[drawn], start[filled]
            pieces.append(_piece(dataset, transform, frame[filled], np.arange(rows) < len(mine), config, draws))
    return pieces


def validate(
    model: Pi0,
    pieces: Sequence[Piece],
    config: TrainConfig,
    step: int,
    *,
    weights: Callable[[], AbstractContextManager[None]] | None = None,
    reduce: Reduce = lambda sums: sums,
) -> Validation:
    """The numbers of the model as it is after `step`.

    `weights` opens a block in which the model has the averaged weights (`averaged`); the loss outside it is `raw_loss`.
    `reduce` adds up the sums of all processes, each of which gives its own pieces. The model is as before afterwards:
    weights, mode, gradients; no global random number is drawn, and nothing is compiled.
    """
    began = time.monotonic()
    robots = _robots(pieces)
    sums = _zeros(robots, config)
    with _at_rest(model, config.compile):
        if weights is not None:
            for piece in pieces:
                sums["raw_loss"] += _loss(model, piece, config)
        with ExitStack() as stack:
            if weights is not None:
                stack.enter_context(weights())
            for piece in pieces:
                sums["loss"] += _loss(model, piece, config)  # before sampling: FSDP cannot start in inference mode
                sums["draws"] += float(piece.actions.mask.sum()) * config.draws
                sums["frames"] += float(piece.counts.sum())
                number = robots.index(piece.transform.config.embodiment)
                _add_errors(sums, number, piece, _sample(model, piece, config))
    sums = _reduced(sums, reduce)
    return _summary(sums, robots, step, time.monotonic() - began, raw=weights is not None)


@contextmanager
def _at_rest(model: Pi0, compiled: bool) -> Iterator[None]:
    """Without dropout, gradients, and compiling: what is compiled for training would be once more without gradients."""
    modes = [(module, module.training) for module in model.modules()]
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if compiled:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode


def _draw(config: TrainConfig, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Flow times (n draws), noise (n draws, t, a), and noise to sample from (n, t, a), from the seed alone."""
    generator = torch.Generator().manual_seed(mixed(config.seed, VALIDATION_STREAM))
    shape, draws = (config.model.horizon, config.model.action_dim), count * config.draws
    t = flow.sample_time(draws, config.time_distribution, generator)
    return t, torch.randn(draws, *shape, generator=generator), torch.randn(count, *shape, generator=generator)


def _piece(
    dataset: Dataset,
    transform: Transform,
    frame: np.ndarray,
    counts: np.ndarray,
    config: TrainConfig,
    draws: tuple[Tensor, Tensor, Tensor],
) -> Piece:
    frames, counts = [], counts.copy()
    for row, i in enumerate(frame):
        shown = None
        if counts[row]:
            try:
                shown = dataset.frame(i)
            except CorruptPicture:
                if config.data.corrupt == "stop":
                    raise
                counts[row] = False
        frames.append(_black(dataset, i) if shown is None else shown)
    state = dataset.state[frame]
    recorded, real = dataset.chunks(frame, transform.config.horizon)
    actions = transform.actions(recorded, real & counts[:, None], state)
    return Piece(transform, transform.observation(frames).trim(), actions, state, recorded, counts, *draws)


def _black(dataset: Dataset, i: np.integer) -> Frame:
    """The frame without its pictures."""
    pictures = {camera: np.zeros((2, 2, 3), np.uint8) for camera in dataset.embodiment.cameras}
    return Frame(images=pictures, state=dataset.state[i], prompt=dataset.prompt(i))


def _loss(model: Pi0, piece: Piece, config: TrainConfig) -> float:
    """Sum of the squared errors over all real elements of all draws."""
    device = model.embed_tokens.weight.device
    actions = piece.actions
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision != "fp32"):
        mean = model.loss(
            piece.observation.to(device),
            Actions(actions.values.to(device), actions.mask.to(device)),
            piece.t.to(device),
            piece.noise.to(device),
            config.sigma_min,
        )
    return mean.item() * float(actions.mask.sum()) * config.draws


def _sample(model: Pi0, piece: Piece, config: TrainConfig) -> Float[Tensor, "b t a"]:
    """Chunks in model units, on the host."""
    device = model.embed_tokens.weight.device
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision != "fp32"):
        return model.sample(
            piece.observation.to(device),
            NUM_STEPS,
            piece.start.to(device),
            action_mask=piece.transform.action_mask.to(device),
        ).cpu()


def _zeros(robots: Sequence[Embodiment], config: TrainConfig) -> Sums:
    def zeros(size: int) -> Tensor:
        return torch.zeros(size, dtype=torch.float64)

    sums = {name: zeros(1) for name in ("frames", "draws", "loss", "raw_loss", "timesteps")}
    sums |= {"right": zeros(len(THRESHOLDS)), "right_elements": zeros(len(THRESHOLDS))}
    sums |= {"error_by_timestep": zeros(config.model.horizon), "count_by_timestep": zeros(config.model.horizon)}
    for number, robot in enumerate(robots):
        sums |= {f"{name}/{number}": zeros(len(robot.actions)) for name in ("error", "model_error", "count")}
    return sums


def _robots(pieces: Sequence[Piece]) -> list[Embodiment]:
    """Each robot once, in an order that all processes share."""
    return list(dict.fromkeys(piece.transform.config.embodiment for piece in pieces))


def _add_errors(sums: Sums, number: int, piece: Piece, sampled: Float[Tensor, "b t a"]) -> None:
    """Add what the sampled chunks of a piece, of robot `number`, are wrong by."""
    mask = piece.actions.mask
    error = torch.where(mask, (sampled.float() - piece.actions.values).abs(), 0).double()
    timestep = mask.any(-1)
    sums["timesteps"] += timestep.sum()
    for i, threshold in enumerate(THRESHOLDS):
        below = error < threshold
        sums["right"][i] += (below.all(-1) & timestep).sum()  # padded dimensions have no error
        sums["right_elements"][i] += (below & mask).sum()
    sums["error_by_timestep"] += error.sum((0, 2))
    sums["count_by_timestep"] += mask.sum((0, 2))
    own = piece.recorded.shape[-1]
    real = np.abs(piece.transform.invert_actions(sampled, piece.state) - piece.recorded).astype(np.float64)
    sums[f"error/{number}"] += torch.from_numpy(np.where(mask[..., :own].numpy(), real, 0).sum((0, 1)))
    sums[f"model_error/{number}"] += error[..., :own].sum((0, 1))
    sums[f"count/{number}"] += mask[..., :own].sum((0, 1))


def _reduced(sums: Sums, reduce: Reduce) -> Sums:
    """The sums of all processes, in one exchange."""
    whole = reduce(torch.cat(list(sums.values())))
    parts = whole.split([len(values) for values in sums.values()])
    return dict(zip(sums, parts, strict=True))


def _summary(sums: Sums, robots: Sequence[Embodiment], step: int, seconds: float, raw: bool) -> Validation:
    """The means. Raises ValueError when no frame counted."""
    num_frames, elements = int(sums["frames"].item()), sums["count_by_timestep"].sum()
    if num_frames == 0:
        raise ValueError("no held-out frame can be decoded; `pizero doctor` says what is wrong with the data set")

    def mean(name: str, count: Tensor) -> float:
        return (sums[name].sum() / count.sum()).item()

    def shares(name: str, count: Tensor) -> dict[str, float]:
        return {str(threshold): value.item() for threshold, value in zip(THRESHOLDS, sums[name] / count, strict=True)}

    def by_dimension(name: str, number: int) -> tuple[float, ...]:
        return tuple((sums[f"{name}/{number}"] / sums[f"count/{number}"]).tolist())

    by_timestep = zip(sums["error_by_timestep"].tolist(), sums["count_by_timestep"].tolist(), strict=True)
    return Validation(
        step=step,
        loss=mean("loss", sums["draws"]),
        raw_loss=mean("raw_loss", sums["draws"]) if raw else None,
        error=mean("error_by_timestep", elements),
        accuracy=shares("right", sums["timesteps"]),
        element_accuracy=shares("right_elements", elements),
        error_by_timestep=tuple(error / count if count else None for error, count in by_timestep),
        robots=tuple(
            RobotError(robot.name, robot.actions, by_dimension("error", i), by_dimension("model_error", i))
            for i, robot in enumerate(robots)
            if sums[f"count/{i}"].all()
        ),
        num_frames=num_frames,
        seconds=seconds,
    )
