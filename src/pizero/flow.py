"""Flow matching: the path from noise to actions, the training target, the loss, and Euler integration.

Time runs as in the pi0 paper (sec. IV and appendix B): t = 0 is noise, t = 1 is data. No other file knows which way.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SIGMA_MIN = 0.001
"""Noise left at t = 1 on the training path (open-pi-zero, src/model/vla/pizero.py)."""
MAX_TIME = 0.999
"""s of the shifted Beta distribution: times above it are never sampled (pi0 paper, appendix B)."""

TimeDistribution = Literal["beta", "uniform"]


def sample_time(
    batch_size: int,
    distribution: TimeDistribution = "beta",
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Float[Tensor, " b"]:
    """Training times in [0, 0.999].

    "beta": t = s (1 - z), z ~ Beta(1.5, 1), s = 0.999, which gives early, noisy times more weight (pi0 paper, app. B).
    "uniform": t = s u. A generator must live on `device`.
    """
    u = torch.rand(batch_size, generator=generator, device=device)
    if distribution == "uniform":
        return MAX_TIME * u
    if distribution == "beta":
        return MAX_TIME * (1 - u ** (1 / 1.5))  # inverse of the Beta(1.5, 1) distribution function z^1.5
    raise ValueError(f"time distribution {distribution!r} is unknown; choose 'beta' or 'uniform'")


def interpolate(
    noise: Float[Tensor, "b t a"], actions: Float[Tensor, "b t a"], t: Float[Tensor, " b"], sigma_min: float = SIGMA_MIN
) -> Float[Tensor, "b t a"]:
    """x_t = (1 - (1 - sigma_min) t) noise + t actions."""
    t = t[:, None, None]
    return (1 - (1 - sigma_min) * t) * noise + t * actions


def target_velocity(
    noise: Float[Tensor, "b t a"], actions: Float[Tensor, "b t a"], sigma_min: float = SIGMA_MIN
) -> Float[Tensor, "b t a"]:
    """u_t = d x_t / dt = actions - (1 - sigma_min) noise."""
    return actions - (1 - sigma_min) * noise


def loss(v_t: Float[Tensor, "b t a"], u_t: Float[Tensor, "b t a"], mask: Bool[Tensor, "b t a"]) -> Float[Tensor, ""]:
    """Mean squared error over the masked-in elements, in float32."""
    squared = (v_t.float() - u_t.float()).square()
    return torch.where(mask, squared, 0).sum() / mask.sum().clamp(min=1)


def euler_times(num_steps: int, grid: str = "even", dtype: torch.dtype = torch.float32) -> list[float]:
    """Flow times of the Euler steps, from 0. All grids are k / num_steps up to rounding, as other code rounds it:

    "even": not at all. "openpi": its time, 1 - t, added up in float32 (sample_actions). "lerobot": its time, 1 + k dt,
    rounded to float32. "open-pi-zero": added up in `dtype`, that of the model.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}, must be at least 1")
    if grid == "even":
        return [step / num_steps for step in range(num_steps)]
    if grid == "lerobot":
        return [1 - torch.tensor(1 - step / num_steps).item() for step in range(num_steps)]
    if grid == "openpi":
        return [1 - time for time in _summed(1.0, -1 / num_steps, num_steps, torch.float32)]
    if grid == "open-pi-zero":
        return _summed(0.0, 1 / num_steps, num_steps, dtype)
    raise ValueError(f"euler grid {grid!r} is unknown; choose 'even', 'openpi', 'lerobot' or 'open-pi-zero'")


def integrate(
    velocity: Callable[[Float[Tensor, "b t a"], Float[Tensor, " b"]], Float[Tensor, "b t a"]],
    noise: Float[Tensor, "b t a"],
    num_steps: int = 10,
    grid: str = "even",
    grid_dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "b t a"]:
    """Actions at t = 1 from noise at t = 0 by `num_steps` Euler steps of dx/dt = velocity(x, t).

    `grid` and `grid_dtype` say how the times are rounded (`euler_times`); they are float64 where the device has it.
    The actions are kept in float32 whatever the dtype of the velocity, so that small steps are not rounded away.
    """
    exact = torch.float32 if noise.device.type == "mps" else torch.float64
    x = noise.float()
    for time in euler_times(num_steps, grid, grid_dtype):
        t = torch.full((noise.shape[0],), time, device=noise.device, dtype=exact)
        x = x + velocity(x, t).float() / num_steps
    return x


def _summed(start: float, step: float, count: int, dtype: torch.dtype) -> list[float]:
    times = [torch.tensor(start, dtype=dtype)]
    for _ in range(count - 1):
        times.append(times[-1] + torch.tensor(step, dtype=dtype))
    return [time.item() for time in times]
