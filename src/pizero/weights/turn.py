"""Time turned round: weights for t = 0 data, t = 1 noise become weights for t = 0 noise, t = 1 data, and back.

The velocity changes its sign, so the read-out is negated. The linear layer that reads the time embedding gets other
columns: sin w(1 - t) and cos w(1 - t) are linear in sin wt and cos wt, so each pair of columns is rotated (and
mirrored, so the same operation leads back). The rotated columns are float64: rounded to the type they had, they are
what they were, bit for bit.
"""

import math

import torch
from torch import Tensor

from pizero.model.config import Pi0Config
from pizero.model.heads import log_spaced


def turn_columns(weight: Tensor, config: Pi0Config) -> Tensor:
    """The layer after the time embedding, (out, in), with its last `time_dim` columns turned round; float64."""
    half = config.time_width // 2
    others, sines, cosines = weight.double().split([weight.shape[1] - 2 * half, half, half], dim=1)
    period = log_spaced(half, config.time_min_period, config.time_max_period, weight.device, torch.float64)
    sin, cos = torch.sin(2 * math.pi / period), torch.cos(2 * math.pi / period)
    return torch.cat([others, cosines * sin - sines * cos, sines * sin + cosines * cos], dim=1)


def time_layer(config: Pi0Config) -> str:
    """Name of the weight whose columns read the time embedding."""
    return "heads.time_mlp_in.weight" if config.time_conditioning == "adarms" else "heads.action_time_mlp_in.weight"


READ_OUT = ("heads.action_out_proj.weight", "heads.action_out_proj.bias")
"""The parameters that change their sign."""
