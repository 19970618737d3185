"""AdamW in four kinds, its groups, its learning rate over time, and its state as plain tensors."""

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

from pizero.train.config import OptimConfig
from pizero.train.eight_bit import Coded, find_average, make_bitsandbytes, make_torchao
from pizero.train.local import like, local
from pizero.train.rounding import RoundedAdamW

VLM_PARTS = ("vision.", "projector.", "embed_tokens.", "vlm.")
"""How the names of the parameters start that are of the pre-trained vision-language model."""
AVERAGES = ("exp_avg", "exp_avg_sq")
"""Of the gradient and of its square, as torch names them."""


def make_optimizer(
    parameters: dict[str, nn.Parameter],
    config: OptimConfig,
    stochastic_rounding: bool = False,
    sharded: bool = False,
) -> torch.optim.Optimizer:
    """AdamW, its averages at zero, over up to four groups: vlm and the rest, each matrices with weight decay and others
    (biases, norms) without.

    "adamw" is torch's fused one, or, with `stochastic_rounding`, `RoundedAdamW`. "adamw8bit" is bitsandbytes', or,
    where parameters are `sharded` (DTensors of FSDP) or rounded stochastically, torchao's: both keep the averages of
    parameters of 4096 and more numbers in 8 bits, with a scale for each 256, embeddings too, and those of smaller ones
    in float32 (torchao's also of those whose size, or whose part in a process, is no multiple of 256).

    Raises ValueError when a package is missing, or `vlm_lr` is given and nothing of the vlm is trained.
    """
    if config.vlm_lr is not None and not any(name.startswith(VLM_PARTS) for name in parameters):
        raise ValueError("optim.vlm_lr has no effect: nothing of the vlm is trained; leave it out, or give --tune full")
    groups = make_groups(parameters, config)
    if config.kind == "adamw8bit":
        if sharded or stochastic_rounding:
            return make_torchao(groups, config, stochastic_rounding)
        return make_bitsandbytes(groups, config)
    optimizer: torch.optim.Optimizer
    if stochastic_rounding:
        optimizer = RoundedAdamW(groups, config.lr, config.betas, config.eps)
    else:
        fused = all(p.device.type in ("cpu", "cuda") for p in parameters.values())
        optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)
    for parameter in parameters.values():
        kept = torch.float32 if stochastic_rounding else parameter.dtype
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, dtype=kept),
            "exp_avg_sq": torch.zeros_like(parameter, dtype=kept),
        }
    return optimizer


def make_groups(parameters: dict[str, nn.Parameter], config: OptimConfig) -> list[dict[str, Any]]:
    """The groups that are not empty; "vlm" tells which learning rate is theirs."""
    groups = []
    for vlm, matrices in itertools.product((True, False), (True, False)):
        chosen = [
            parameter
            for name, parameter in parameters.items()
            if name.startswith(VLM_PARTS) == vlm and (parameter.ndim >= 2) == matrices
        ]
        if chosen:
            groups.append({"params": chosen, "weight_decay": config.weight_decay * matrices, "vlm": vlm})
    return groups


def learning_rate(config: OptimConfig, step: int, steps: int, time_fraction: float = 0.0) -> float:
    """The learning rate of step 0, 1, ... `steps` - 1: a line up to `lr`, then half a cosine down to `min_lr`, or none.

    The same numbers as openpi's (optax.warmup_cosine_decay_schedule from lr / (warmup_steps + 1)). `time_fraction` is
    the part of the allowed time that has passed; the cosine follows it where it is further than the steps.
    """
    lowest = config.lr if config.min_lr is None else config.min_lr
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    done = max(0.0, (step - config.warmup_steps) / (steps - config.warmup_steps), min(1.0, time_fraction))
    return warmup * (lowest + (config.lr - lowest) * 0.5 * (1 + math.cos(math.pi * done)))


def set_learning_rates(
    optimizer: torch.optim.Optimizer, config: OptimConfig, step: int, steps: int, time_fraction: float = 0.0
) -> tuple[float, float]:
    """Give each group its learning rate of this step; those of the expert and of the vlm, which follows its curve."""
    expert = learning_rate(config, step, steps, time_fraction)
    vlm = expert if config.vlm_lr is None else expert * (config.vlm_lr / config.lr)
    for group in optimizer.param_groups:
        rate = vlm if group["vlm"] else expert
        if isinstance(group["lr"], Tensor):  # torchao compiles the step, in which a number would be a constant
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
    return expert, vlm


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """AdamW's averages as "PARAMETER.exp_avg" and "PARAMETER.exp_avg_sq", of each optimiser and at any step alike.

    Each has its parameter's shape, and is shared between processes where the parameter is. What is kept in float32 is
    the tensor itself; what is kept in 8 bits is given in float32 on the host, so that it can be loaded by another
    number of processes or another optimiser; the same layout gives the same bits again.
    """
    return {
        f"{name}.{key}": _values(find_average(optimizer.state[parameter], key), parameter)
        for name, parameter in parameters.items()
        for key in AVERAGES
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], tensors: dict[str, Tensor], step: int
) -> None:
    """Give the optimiser the averages that `optimizer_tensors` gave after `step` steps."""
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        if isinstance(state["step"], Tensor):
            state["step"].fill_(step)
        else:
            state["step"] = step
        for key in AVERAGES:
            given = local(tensors[f"{name}.{key}"])
            average = find_average(state, key)
            if isinstance(average, Coded):
                average.set(given.to(average.codes.device))
            else:
                local(average).copy_(given)


def _values(average: Tensor | Coded, parameter: Tensor) -> Tensor:
    return like(average.values(), parameter).cpu() if isinstance(average, Coded) else average
