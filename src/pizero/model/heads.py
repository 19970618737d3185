"""What surrounds the action expert: state and noisy actions in, velocity out."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pizero.model.config import Pi0Config, TimeRounding


def time_embedding(
    t: Float[Tensor, " b"], width: int, min_period: float, max_period: float, rounding: TimeRounding = "none"
) -> Float[Tensor, "b d"]:
    """Sines, then cosines, of 2 pi t / period, periods log-spaced; float32 (openpi, models/pi0.py, posemb_sincos).

    Angles reach 2 pi / 0.004, where float32 has lost four digits: they are float64, as in openpi's PyTorch. `rounding`:
    see `Pi0Config.time_rounding`.
    """
    exact = torch.float32 if t.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
    frequency = 2 * math.pi / log_spaced(width // 2, min_period, max_period, t.device, exact)
    if rounding == "none":
        angle = t.to(exact)[:, None] * frequency
    else:  # 2 pi / period, less the angle of 1 - t as JAX has it
        period = log_spaced(width // 2, min_period, max_period, t.device, torch.float32)
        angle = frequency - (1 - t.to(exact)).float()[:, None] * (1 / period * 2 * math.pi)
    return torch.cat([angle.sin(), angle.cos()], dim=-1).float()


def log_spaced(
    count: int, first: float, last: float, device: torch.device, dtype: torch.dtype
) -> Float[Tensor, " half"]:
    """`count` numbers from `first` to `last`, each the same multiple of the one before."""
    return first * (last / first) ** torch.linspace(0, 1, count, device=device, dtype=dtype)


def exact(device: torch.device) -> torch.autocast:
    """A context in which autocast is off: the heads compute in the type of their weights, float32 in training."""
    return torch.autocast(device.type, enabled=False)


class Heads(nn.Module):
    """State projection, action and time networks, velocity read-out (pi0 paper, appendix B; names of openpi).

    With `time_conditioning` "input" the time is joined to the actions (pi0). Otherwise it conditions the norms of the
    action expert: "adarms" through an MLP, actions enter by one linear layer (pi0.5); "adaln" and "adaln-zero" as it
    is, actions enter by an MLP (open-pi-zero).
    """

    def __init__(self, config: Pi0Config) -> None:
        super().__init__()
        self.config = config
        width, kind = config.action.width, config.time_conditioning
        if config.state_token:
            self.state_proj = nn.Linear(config.state_dim, width)
        self.action_in_proj = nn.Linear(config.action_dim, width)
        if kind == "input":
            self.action_time_mlp_in = nn.Linear(2 * width, width)
            self.action_time_mlp_out = nn.Linear(width, width)
        elif kind == "adarms":
            self.time_mlp_in = nn.Linear(width, width)
            self.time_mlp_out = nn.Linear(width, width)
        else:
            self.action_mlp_in = nn.Linear(width, width)
            self.action_mlp_out = nn.Linear(width, width)
        self.action_out_proj = nn.Linear(width, config.action_dim)

    @property
    def dtype(self) -> torch.dtype:
        """In which the heads compute, whatever they are given."""
        return self.action_in_proj.weight.dtype

    def embed_state(self, state: Float[Tensor, "b s"]) -> Float[Tensor, "b 1 d"]:
        """The state as one token of the action expert."""
        with exact(state.device):
            return self.state_proj(state.to(self.dtype))[:, None]

    def embed_time(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b c"]:
        """Sines and cosines of the flow time."""
        c = self.config
        embedding = time_embedding(t, c.time_width, c.time_min_period, c.time_max_period, c.time_rounding)
        return embedding.to(self.dtype)

    def condition(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b c"] | None:
        """What the norms of the action expert depend on; None when they do not."""
        if self.config.time_conditioning == "input":
            return None
        time = self.embed_time(t)
        if self.config.time_conditioning == "adarms":
            with exact(t.device):
                return F.silu(self.time_mlp_out(F.silu(self.time_mlp_in(time))))
        return time

    def embed_actions(self, x_t: Float[Tensor, "b t a"], t: Float[Tensor, " b"]) -> Float[Tensor, "b t d"]:
        """Noisy actions, with the flow time where it enters here, as tokens: W3 swish(W2 [W1 x_t ; time])."""
        with exact(x_t.device):
            actions = self.action_in_proj(x_t.to(self.dtype))
            if self.config.time_conditioning == "adarms":
                return actions
            if self.config.time_conditioning == "input":
                time = self.embed_time(t)[:, None].expand(*actions.shape[:2], -1)
                return self.action_time_mlp_out(F.silu(self.action_time_mlp_in(torch.cat([actions, time], dim=-1))))
            return self.action_mlp_out(F.silu(self.action_mlp_in(actions)))

    def velocity(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t a"]:
        """The velocity that each action token predicts."""
        with exact(x.device):
            return self.action_out_proj(x.to(self.dtype))
