"""Norms of the two experts: Gemma's, and those whose scale depends on the flow time."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pizero.model.config import TimeConditioning

RMS_NORM_EPS = 1e-6
"""gemma_pytorch, gemma/model.py."""
CLOSED_GATE = -2.0
"""First bias of a gate of adaLN-Zero (open-pi-zero, src/model/vla/modules.py)."""


def rms_normalize(x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """x / rms(x) in float32."""
    y = x.float()
    return y * torch.rsqrt(y.square().mean(-1, keepdim=True) + RMS_NORM_EPS)


class RMSNorm(nn.Module):
    """x / rms(x) * (1 + weight), computed in float32 (Gemma scales by 1 + weight)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Float[Tensor, "*b d"], condition: None = None) -> tuple[Float[Tensor, "*b d"], None]:
        """Same dtype as x; no gate."""
        return (rms_normalize(x) * (1 + self.weight.float())).to(x.dtype), None

    def init_weights(self) -> None:
        """A scale of 1."""
        nn.init.zeros_(self.weight)


class AdaRMSNorm(nn.Module):
    """x / rms(x) * (1 + scale) + shift, and a gate for what follows; all three linear in the condition (pi0.5).

    openpi, src/openpi/models/gemma.py: RMSNorm with `cond`; computed in float32.
    """

    def __init__(self, width: int, condition_width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(condition_width, 3 * width)

    def forward(
        self, x: Float[Tensor, "b q d"], condition: Float[Tensor, "b c"]
    ) -> tuple[Float[Tensor, "b q d"], Float[Tensor, "b 1 d"]]:
        """The normalised tokens and the gate, in the dtype of x."""
        scale, shift, gate = self.dense(condition)[:, None].float().chunk(3, dim=-1)
        return (rms_normalize(x) * (1 + scale) + shift).to(x.dtype), gate.to(x.dtype)

    def init_weights(self) -> None:
        """Scale 1, shift 0, closed gates."""
        nn.init.zeros_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)


class AdaLayerNorm(nn.Module):
    """x / rms(x) * sigmoid(gamma) + beta, and with `gated` a gate sigmoid(g) for what follows (adaLN, adaLN-Zero).

    open-pi-zero, src/model/vla/modules.py: AdaptiveRMSNorm and AdaptiveLayerscale.
    """

    def __init__(self, width: int, condition_width: int, gated: bool) -> None:
        super().__init__()
        self.to_gamma = nn.Linear(condition_width, width)
        self.to_beta = nn.Linear(condition_width, width, bias=False)
        self.to_gate = nn.Linear(condition_width, width) if gated else None

    def forward(
        self, x: Float[Tensor, "b q d"], condition: Float[Tensor, "b c"]
    ) -> tuple[Float[Tensor, "b q d"], Float[Tensor, "b 1 d"] | None]:
        """The normalised tokens and the gate, in the dtype of x."""
        condition = condition[:, None]
        y = rms_normalize(x).to(x.dtype) * self.to_gamma(condition).sigmoid() + self.to_beta(condition)
        return y, None if self.to_gate is None else self.to_gate(condition).sigmoid()

    def init_weights(self) -> None:
        """Independent of the condition: half scale, gates nearly closed."""
        for linear in (self.to_gamma, self.to_beta, self.to_gate):
            if linear is not None:
                nn.init.zeros_(linear.weight)
        nn.init.zeros_(self.to_gamma.bias)
        if self.to_gate is not None:
            nn.init.constant_(self.to_gate.bias, CLOSED_GATE)


Norm = RMSNorm | AdaRMSNorm | AdaLayerNorm
MakeNorm = Callable[[bool], Norm]
"""make(inner): a norm before a sublayer (inner), or the last one of an expert."""


def norm_maker(width: int, conditioning: TimeConditioning, condition_width: int) -> MakeNorm:
    """How the norms of an expert are made."""
    if conditioning == "adarms":
        return lambda inner: AdaRMSNorm(width, condition_width)
    if conditioning in ("adaln", "adaln-zero"):
        return lambda inner: AdaLayerNorm(width, condition_width, inner and conditioning == "adaln-zero")
    return lambda inner: RMSNorm(width)


def add(x: Float[Tensor, "b q d"], y: Float[Tensor, "b q d"], gate: Tensor | None) -> Float[Tensor, "b q d"]:
    """What a sublayer adds to its input, through its gate where it has one."""
    return x + y if gate is None else x + y * gate
