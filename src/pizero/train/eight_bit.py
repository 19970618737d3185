"""8-bit AdamW of bitsandbytes and torchao: made with all averages at zero, and what their averages are."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from pizero.train.blockwise import to_codes, to_values
from pizero.train.config import OptimConfig
from pizero.train.local import local

TORCHAO_SMALLEST = 1e-12
"""torchao's scales are not smaller (torchao/optim/quant_utils.py, scale_tensor)."""


def make_bitsandbytes(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    """bitsandbytes' AdamW8bit. Raises ValueError when it is not installed."""
    try:
        from bitsandbytes.optim.adamw import AdamW8bit
    except ImportError as error:
        raise _missing("bitsandbytes") from error
    optimizer = AdamW8bit(groups, lr=config.lr, betas=config.betas, eps=config.eps)
    for g, group in enumerate(optimizer.param_groups):
        for p, parameter in enumerate(group["params"]):
            optimizer.init_state(group, parameter, g, p)
    return cast(torch.optim.Optimizer, optimizer)


def make_torchao(groups: list[dict[str, Any]], config: OptimConfig, stochastic_rounding: bool) -> torch.optim.Optimizer:
    """torchao's AdamW8bit, whose first step compiles the update (a CPU needs a C++ compiler for that).

    Raises ValueError when it is not installed.
    """
    try:
        from torchao.optim import AdamW8bit  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError as error:
        raise _missing("torchao") from error
    optimizer = AdamW8bit(
        groups, lr=config.lr, betas=config.betas, eps=config.eps, bf16_stochastic_round=stochastic_rounding
    )
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.tensor(0.0),
                "exp_avg": _buffer(optimizer, parameter, signed=True),
                "exp_avg_sq": _buffer(optimizer, parameter, signed=False),
            }
    return cast(torch.optim.Optimizer, optimizer)


def _buffer(optimizer: Any, parameter: Tensor, signed: bool) -> Tensor:
    """As torchao makes it at its first step for a float32 parameter.

    For a bfloat16 one it would keep small averages in bfloat16, and fail where the parameter is a DTensor.
    """
    buffer: Tensor = optimizer._new_buffer(torch.empty_like(parameter, dtype=torch.float32), signed)
    return buffer


def is_coded(average: Tensor) -> bool:
    """Whether torchao keeps it in 8 bits, which it does in a kind of tensor of its own."""
    return type(local(average)) is not Tensor


@dataclass(frozen=True)
class Coded:
    """An average as it is kept in 8 bits, in the memory of the optimiser; see `blockwise`."""

    codes: Tensor
    scale: Tensor
    qmap: Tensor
    smallest: float

    def values(self) -> Tensor:
        """In float32."""
        return to_values(self.codes, self.scale, self.qmap)

    def set(self, values: Tensor) -> None:
        """Take these values, as near as 8 bits can hold them."""
        codes, scale = to_codes(values.float(), self.qmap, self.smallest)
        self.codes.copy_(codes)
        self.scale.copy_(scale)


def find_average(state: dict[str, Any], key: str) -> Tensor | Coded:
    """The average "exp_avg" or "exp_avg_sq" in the state that any of our optimisers keeps for a parameter."""
    if "state1" in state:  # bitsandbytes
        n = 1 if key == "exp_avg" else 2
        if f"qmap{n}" not in state:
            return cast(Tensor, state[f"state{n}"])
        return Coded(state[f"state{n}"], state[f"absmax{n}"], state[f"qmap{n}"], smallest=0.0)
    average: Tensor = state[key]
    if not is_coded(average):
        return average
    part: Any = local(average)
    return Coded(part.codes, part.scale, part.qmap, TORCHAO_SMALLEST)


def _missing(package: str) -> ValueError:
    return ValueError(f'optim.kind adamw8bit needs {package}, which is not installed: pip install "pizero[train]"')
