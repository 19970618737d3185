"""AdamW on bfloat16 weights that are rounded stochastically, so that small changes add up."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from jaxtyping import BFloat16, Float
from torch import Tensor
from torch.optim.adamw import adamw

from pizero.train.local import local
from pizero.train.seed import mixed

ROUNDING_STREAM = 13
"""Keeps these random numbers apart from all others of the seed."""
PIECE = 2**25
"""Weights that are changed at a time: of so many a float32 copy is made."""


def seed_rounding(seed: int, step: int, rank: int = 0) -> None:
    """Make the rounding of the next optimiser step depend on seed and step alone; to be called before each.

    torchao draws from torch's own generators, so it is those that are seeded, of the CPU and of every GPU. `rank` is
    that of a process with a part of the weights of its own (FSDP); where all have all weights (DDP) it is 0 in each,
    so that they stay equal.
    """
    torch.manual_seed(mixed(seed, ROUNDING_STREAM, step, rank))


def round_stochastically(values: Float[Tensor, "*shape"]) -> BFloat16[Tensor, "*shape"]:
    """float32 to one of the two nearest bfloat16, the nearer one more often, so that the mean is the value itself.

    bfloat16 is the upper half of a float32: with random bits added to the lower half, the upper one is carried over as
    often as the lower half is large. What bfloat16 can hold does not change.
    """
    random = torch.randint(0, 2**16, values.shape, dtype=torch.int32, device=values.device)
    bits = random.add_(values.contiguous().view(torch.int32)).bitwise_and_(-(2**16))
    return bits.view(torch.float32).bfloat16()


class RoundedAdamW(torch.optim.Optimizer):
    """AdamW as torch's fused one computes it in float32; what bfloat16 weights become is rounded stochastically.

    float32 weights are not rounded. The averages are float32 (8 bytes a weight), also of DTensors, of which every
    process changes its own part. Call `seed_rounding` before each step.
    """

    def __init__(
        self, params: list[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Change every parameter that has a gradient."""
        assert closure is None, "the loop computes the loss itself"
        for group in self.param_groups:
            given = [parameter for parameter in group["params"] if parameter.grad is not None]
            self._step_exact(group, [p for p in given if p.dtype != torch.bfloat16])
            rounded = [p for p in given if p.dtype == torch.bfloat16]
            for pieces in _batches(rounded, self.state):
                _step_rounded(group, pieces)
            if rounded:
                torch._foreach_add_([self.state[parameter]["step"] for parameter in rounded], 1)

    def _step_exact(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        if not parameters:
            return
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            [local(parameter) for parameter in parameters],
            [local(parameter.grad) for parameter in parameters if parameter.grad is not None],
            [local(state["exp_avg"]) for state in states],
            [local(state["exp_avg_sq"]) for state in states],
            [],
            [state["step"] for state in states],
            **_settings(group),
        )


Piece = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Some weights, their gradients, the two averages, and the number of steps done."""


def _batches(parameters: Iterable[Tensor], state: dict[Tensor, dict[str, Tensor]]) -> Iterator[list[Piece]]:
    """All numbers of the parameters in flat pieces, together up to PIECE at a time: few kernels, little memory."""
    batch: list[Piece] = []
    room = PIECE
    for parameter in parameters:
        assert parameter.grad is not None
        own = state[parameter]
        tensors = [local(t).view(-1) for t in (parameter, parameter.grad, own["exp_avg"], own["exp_avg_sq"])]
        start, length = 0, len(tensors[0])
        while start < length:
            count = min(room, length - start)
            weight, grad, exp_avg, exp_avg_sq = (tensor[start : start + count] for tensor in tensors)
            batch.append((weight, grad, exp_avg, exp_avg_sq, own["step"]))
            start, room = start + count, room - count
            if not room:
                yield batch
                batch, room = [], PIECE
    if batch:
        yield batch


def _step_rounded(group: dict[str, Any], pieces: list[Piece]) -> None:
    weights, grads, exp_avgs, exp_avg_sqs, steps = (list(column) for column in zip(*pieces, strict=True))
    lengths = [len(weight) for weight in weights]
    exact = torch.empty(sum(lengths), dtype=torch.float32, device=weights[0].device)
    gradient = torch.empty_like(exact)
    torch._foreach_copy_(exact.split(lengths), weights)
    torch._foreach_copy_(gradient.split(lengths), grads)
    counts = [step.clone() for step in steps]  # adamw adds 1 to them, in every piece of a parameter
    adamw(
        list(exact.split(lengths)),
        list(gradient.split(lengths)),
        exp_avgs,
        exp_avg_sqs,
        [],
        counts,
        **_settings(group),
    )
    torch._foreach_copy_(weights, round_stochastically(exact).split(lengths))


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    beta1, beta2 = group["betas"]
    return {
        "fused": True,
        "amsgrad": False,
        "maximize": False,
        "beta1": beta1,
        "beta2": beta2,
        "lr": group["lr"],
        "weight_decay": group["weight_decay"],
        "eps": group["eps"],
    }
