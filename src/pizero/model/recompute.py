"""Activation checkpointing: layers whose inputs alone are kept for the backward pass (Chen et al. 2016)."""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def run_layer(layer: nn.Module, recompute: bool, *inputs: Any) -> Any:
    """What the layer gives; with `recompute` its inside is computed again when gradients need it."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(layer, *inputs, use_reentrant=False)
    return layer(*inputs)
