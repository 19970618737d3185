"""What is trained, by AdamW, at which learning rate."""

import math

import torch
from torch import nn

from pizero.model.config import Pi0Config
from pizero.model.pi0 import Pi0
from pizero.train.config import OptimConfig

VLM_PARTS = ("vision.", "projector.", "embed_tokens.", "vlm.")
"""How the names of the parameters start that are of the pre-trained vision-language model."""


def unused_parameters(config: Pi0Config) -> frozenset[str]:
    """Names of the parameters that no output depends on.

    The action expert attends to the keys and values of the vlm, so that of the last vlm layer nothing else is needed,
    and the norm after it neither.
    """
    last = f"vlm.layers.{config.vlm.depth - 1}."
    parts = (
        "self_attn.q_proj",
        "self_attn.o_proj",
        "post_attention_layernorm",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    )
    return frozenset({"vlm.norm.weight", *(f"{last}{part}.weight" for part in parts)})


def trained_parameters(model: Pi0, expert_only: bool = False) -> dict[str, nn.Parameter]:
    """The parameters that are given to the optimiser, by name, in the model's order."""
    unused = unused_parameters(model.config)
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if name not in unused and not (expert_only and name.startswith(VLM_PARTS))
    }


def make_optimizer(parameters: dict[str, nn.Parameter], config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over two groups: matrices with weight decay, then vectors (biases, norms) without."""
    groups = [
        {"params": [p for p in parameters.values() if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters.values() if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters.values())
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)


def learning_rate(config: OptimConfig, step: int, steps: int, time_fraction: float = 0.0) -> float:
    """The learning rate of step 0, 1, ... `steps` - 1: a line up to `lr`, then half a cosine down to `min_lr`, or none.

    The same numbers as openpi's (optax.warmup_cosine_decay_schedule from lr / (warmup_steps + 1)). `time_fraction` is
    the part of the allowed time that has passed; the cosine follows it where it is further than the steps.
    """
    lowest = config.lr if config.min_lr is None else config.min_lr
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    done = max(0.0, (step - config.warmup_steps) / (steps - config.warmup_steps), min(1.0, time_fraction))
    return warmup * (lowest + (config.lr - lowest) * 0.5 * (1 + math.cos(math.pi * done)))
