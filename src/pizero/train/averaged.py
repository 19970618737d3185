"""The running average in the place of the weights, for as long as a `with` block lasts."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule


@contextmanager
def averaged(model: nn.Module, parameters: Mapping[str, nn.Parameter], average: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block the model computes with `average`, after it with its own weights again, to the last bit.

    `parameters` are the model's own, by the names that `average` has. Neither may be trained, saved or read within the
    block: a weight of the dtype of the average is in its place then, which costs no memory; of another dtype a
    copy is kept.
    """
    kept: dict[str, Tensor] = {}
    reshard(model)
    _exchange(parameters, average, kept)
    try:
        yield
    finally:
        reshard(model)
        _exchange(parameters, average, kept)


def reshard(model: nn.Module) -> None:
    """Drop the whole weights that FSDP2 has gathered, in every module; they are gathered anew when they are needed.

    Without a backward pass it keeps some, and would compute with them after the parts have changed.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@torch.no_grad()
def _exchange(parameters: Mapping[str, nn.Parameter], average: Mapping[str, Tensor], kept: dict[str, Tensor]) -> None:
    """There and, the second time, back. `kept` has the weights that the average cannot hold without loss."""
    for name, mean in average.items():
        weight = parameters[name]
        if name in kept:
            weight.copy_(kept.pop(name))
        elif weight.dtype == mean.dtype:
            before = weight.detach().clone()
            weight.copy_(mean)
            mean.copy_(before)
        else:
            kept[name] = weight.detach().clone()
            weight.copy_(mean)
