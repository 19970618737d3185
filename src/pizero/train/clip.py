"""The norm of the gradient of a whole model, and its limit; also where each process has a part of every gradient."""

from collections import defaultdict
from collections.abc import Iterable

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from pizero.train.local import local


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], limit: float | None, sharded: bool) -> Float[Tensor, ""]:
    """The L2 norm of all gradients together, float32, as it was before they are scaled down to `limit` (None: never).

    The formula is that of `torch.nn.utils.clip_grad_norm_`. `sharded`: each process has a part of every gradient.
    """
    gradients: dict[torch.dtype, list[Tensor]] = defaultdict(list)  # a kernel takes tensors of one type
    for parameter in parameters:
        if parameter.grad is not None:
            gradient = local(parameter.grad)
            gradients[gradient.dtype].append(gradient)
    norms = [norm for group in gradients.values() for norm in torch._foreach_norm(group, 2, dtype=torch.float32)]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    if sharded:
        square = norm.square()
        dist.all_reduce(square)
        norm = square.sqrt()
    if limit is not None:
        scale = (limit / (norm + 1e-6)).clamp(max=1.0)
        for group in gradients.values():
            torch._foreach_mul_(group, scale)
    return norm
