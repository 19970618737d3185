"""Low-rank adapters of linear layers: W x becomes W x + alpha / rank * B A x, and W stays as it is (Hu et al. 2021).

Names as PEFT has them: `weight` and `bias` are the layer's own, `lora_A.weight` (rank, in) and `lora_B.weight`
(out, rank) the adapter's.
"""

import math
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, device, nn


@runtime_checkable
class Mergeable(Protocol):
    """A layer that stands in the place of a plain linear one."""

    def merged(self) -> nn.Linear:
        """The plain layer, float32, that gives the same."""
        ...


class Adapted(nn.Module):
    """What an adapter adds to a linear layer. Both factors are float32."""

    lora_A: nn.Linear  # noqa: N815 (PEFT's name)
    lora_B: nn.Linear  # noqa: N815 (PEFT's name)
    scale: float
    """Of what is added: alpha / rank."""
    dropout: float
    """Part of the adapter's inputs that is set to zero in training; torch's global generator draws which."""

    def add_factors(
        self, widths: tuple[int, int], rank: int, alpha: float, dropout: float, generator: Generator, place: device
    ) -> None:
        """Fresh factors, whose product is zero: A is uniform in +-1 / sqrt(in), as PEFT has it, and B zero.

        `widths` of the inputs and of the outputs. `generator` is one of the CPU, so that all devices get the same.
        """
        inputs, outputs = widths
        self.lora_A, self.lora_B = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5), generator=generator)
        nn.init.zeros_(self.lora_B.weight)
        self.lora_A.to(place)
        self.lora_B.to(place)
        self.scale, self.dropout = alpha / rank, dropout

    @property
    def together(self) -> bool:
        """Whether the adapter can be added to the weight, in place of the output: it drops none of its inputs."""
        return self.dropout == 0 or not self.training

    def delta(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """What is added for x: in the type of x, in that of autocast where it is on."""
        x = F.dropout(x, self.dropout, self.training)
        low = F.linear(x, self.lora_A.weight.to(x.dtype)) * self.scale  # scaled where it is smallest
        return F.linear(low, self.lora_B.weight.to(x.dtype))

    def merge_into(self, weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None) -> nn.Linear:
        """A plain float32 layer of this weight and bias with the adapter added."""
        return plain_linear(merged_weight(weight, self.lora_A.weight, self.lora_B.weight, self.scale), bias)


class AdaptedProduct(torch.autograd.Function):
    """x (W + scale B A)^T with gradients for x, A and B.

    Forward the small product is added to W and not to the outputs, which would have to be read and written once more.
    The sum is rounded to the type of W, as the weights of a full fine-tune are, and those of the merged policy. Of what
    is as large as the batch nothing but x is kept for the backward pass.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        """x (*b, i), W (o, i), A (r, i), B (o, r), all of one type."""
        return F.linear(x, torch.addmm(weight, b, a, alpha=scale))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the inputs."""
        *tensors, ctx.scale = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """No gradient of W's size is made."""
        x, weight, a, b = ctx.saved_tensors
        rows, dy, scaled = x.flatten(0, -2), gradient.flatten(0, -2), b * ctx.scale
        # written unlike in `forward`, or torch.compile would see that it is the same and keep a second copy of W
        dx = (dy @ torch.addmm(weight, scaled, a)).view_as(x) if ctx.needs_input_grad[0] else None
        return dx, None, (dy @ scaled).mT @ rows, dy.mT @ (rows @ (a * ctx.scale).mT), None


class LoraLinear(Adapted, nn.Linear):
    """A linear layer with an adapter; it takes over the parameters of the layer that it stands for."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float, generator: Generator) -> None:
        nn.Linear.__init__(self, base.in_features, base.out_features, base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        widths = base.in_features, base.out_features
        self.add_factors(widths, rank, alpha, dropout, generator, base.weight.device)

    def forward(self, input: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """(W + alpha / rank * B A) x + bias; in the type of autocast where it is on, else in that of x."""
        kind = input.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else input.dtype
        x, weight = input.to(dtype), self.weight.to(dtype)
        with torch.autocast(kind, enabled=False):
            if not self.together:
                return F.linear(x, weight, None if self.bias is None else self.bias.to(dtype)) + self.delta(x)
            a, b = self.lora_A.weight.to(dtype), self.lora_B.weight.to(dtype)
            y = AdaptedProduct.apply(x, weight, a, b, self.scale)
            return y if self.bias is None else y + self.bias.to(dtype)

    def merged(self) -> nn.Linear:
        """See `Mergeable`."""
        return self.merge_into(self.weight, self.bias)


def merged_weight(
    weight: Float[Tensor, "o i"], a: Float[Tensor, "r i"], b: Float[Tensor, "o r"], scale: float
) -> Float[Tensor, "o i"]:
    """W + scale B A, rounded once, to float32; the product is float64."""
    return (weight.detach().double() + scale * (b.detach().double() @ a.detach().double())).float()


def plain_linear(weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None) -> nn.Linear:
    """A linear layer of these numbers, which are not trained."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().float(), requires_grad=False)
    return linear


def add_lora(
    model: nn.Module, names: Iterable[str], rank: int, alpha: float, dropout: float, generator: Generator
) -> None:
    """Put adapters on the linear layers of these names, in place. The outputs of the model do not change yet."""
    for name in names:
        base = model.get_submodule(name)
        assert type(base) is nn.Linear, f"{name} is a {type(base).__name__}, no plain linear layer"
        model.set_submodule(name, LoraLinear(base, rank, alpha, dropout, generator))


def merge_lora(model: nn.Module) -> None:
    """Make plain float32 linear layers of all adapted and quantised ones, in place; the outputs stay as they are."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Mergeable):
            model.set_submodule(name, module.merged())
