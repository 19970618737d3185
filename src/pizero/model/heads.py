"""What surrounds the action expert: state and noisy actions in, velocity out."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pizero.model.config import Pi0Config


def time_embedding(t: Float[Tensor, " b"], width: int, min_period: float, max_period: float) -> Float[Tensor, "b d"]:
    """Sines, then cosines, of 2 pi t / period, periods log-spaced; float32 (openpi, models/pi0.py, posemb_sincos).

    Angles reach 2 pi / 0.004, where float32 has lost four digits: they are float64, as in openpi's PyTorch.
    """
    exact = torch.float32 if t.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
    fraction = torch.linspace(0, 1, width // 2, device=t.device, dtype=exact)
    period = min_period * (max_period / min_period) ** fraction
    angle = t.to(exact)[:, None] * (2 * math.pi / period)
    return torch.cat([angle.sin(), angle.cos()], dim=-1).float()


class Heads(nn.Module):
    """State projection, action-time MLP and velocity read-out of pi0 (paper, appendix B; parameter names of openpi)."""

    def __init__(self, config: Pi0Config) -> None:
        super().__init__()
        self.config = config
        width = config.action.width
        self.state_proj = nn.Linear(config.state_dim, width)
        self.action_in_proj = nn.Linear(config.action_dim, width)
        self.action_time_mlp_in = nn.Linear(2 * width, width)
        self.action_time_mlp_out = nn.Linear(width, width)
        self.action_out_proj = nn.Linear(width, config.action_dim)

    def embed_state(self, state: Float[Tensor, "b s"]) -> Float[Tensor, "b 1 d"]:
        """The state as one token of the action expert."""
        return self.state_proj(state)[:, None]

    def embed_actions(self, x_t: Float[Tensor, "b t a"], t: Float[Tensor, " b"]) -> Float[Tensor, "b t d"]:
        """Noisy actions and flow time as tokens: W3 swish(W2 [W1 x_t ; time])."""
        actions = self.action_in_proj(x_t)
        c = self.config
        time = time_embedding(t, c.action.width, c.time_min_period, c.time_max_period).to(actions.dtype)
        joined = torch.cat([actions, time[:, None].expand_as(actions)], dim=-1)
        return self.action_time_mlp_out(F.silu(self.action_time_mlp_in(joined)))

    def velocity(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t a"]:
        """The velocity that each action token predicts."""
        return self.action_out_proj(x)
