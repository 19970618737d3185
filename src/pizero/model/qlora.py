"""Linear layers of 4 bits a weight, and adapters over them (QLoRA, Dettmers et al. 2023), by bitsandbytes.

Weights are NF4 in blocks of 64 with one scale each, and the scales 8-bit in blocks of 256 (double quantisation): 4.13
bits a weight. The only file that needs bitsandbytes; import it where it is used.
"""

from collections.abc import Iterable
from copy import copy

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from pizero.model.lora import Adapted, plain_linear

try:
    from bitsandbytes.autograd._functions import matmul_4bit
    from bitsandbytes.functional import QuantState, dequantize_4bit, quantize_4bit
    from bitsandbytes.nn.modules import Linear4bit, Params4bit
except ImportError as error:
    raise ValueError('4-bit weights need bitsandbytes: pip install "pizero[train]"') from error


class QuantLinear(Linear4bit):
    """A frozen linear layer of 4 bits a weight; `compute` is the type of its products and outputs."""

    def __init__(self, base: nn.Linear, compute: torch.dtype) -> None:
        super().__init__(base.in_features, base.out_features, base.bias is not None, compute, device="meta")
        packed, state = quantize_nf4(base.weight)
        state.dtype = compute  # of what is unpacked for a product
        self.weight = Params4bit(
            packed, quant_state=state, quant_type="nf4", module=self, bnb_quantized=True, requires_grad=False
        )
        self.state: QuantState = state
        self.bias = base.bias
        self.compute = compute

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """W x + bias, in the type `compute`."""
        bias = None if self.bias is None else self.bias.to(self.compute)
        return matmul_4bit(x.to(self.compute), self.weight, self.state, bias=bias)

    def merged(self) -> nn.Linear:
        """See `Mergeable`."""
        return plain_linear(self.unpacked(), self.bias)

    def unpacked(self) -> Float[Tensor, "o i"]:
        """The weight that the 4 bits stand for, float32."""
        return _unpack(self.weight.data, self.state)


class QloraLinear(Adapted, QuantLinear):
    """A 4-bit linear layer with an adapter."""

    def __init__(
        self, base: nn.Linear, compute: torch.dtype, rank: int, alpha: float, dropout: float, generator: Generator
    ) -> None:
        QuantLinear.__init__(self, base, compute)
        widths = base.in_features, base.out_features
        self.add_factors(widths, rank, alpha, dropout, generator, base.weight.device)

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """W x + bias + alpha / rank * B A x, in the type `compute`."""
        return QuantLinear.forward(self, x) + self.delta(x.to(self.compute))

    def merged(self) -> nn.Linear:
        """See `Mergeable`."""
        return self.merge_into(self.unpacked(), self.bias)


def add_qlora(
    model: nn.Module,
    quantized: Iterable[str],
    names: Iterable[str],
    compute: torch.dtype,
    rank: int,
    alpha: float,
    dropout: float,
    generator: Generator,
) -> None:
    """Pack the linear layers `quantized` into 4 bits and put adapters on those of `names` among them, in place."""
    adapted = set(names)
    for name in quantized:
        base = model.get_submodule(name)
        assert type(base) is nn.Linear, f"{name} is a {type(base).__name__}, no plain linear layer"
        if name in adapted:
            model.set_submodule(name, QloraLinear(base, compute, rank, alpha, dropout, generator))
        else:
            model.set_submodule(name, QuantLinear(base, compute))


def quantize_nf4(weight: Float[Tensor, "o i"]) -> tuple[Tensor, QuantState]:
    """The packed 4-bit numbers of a weight, and what it takes to unpack them."""
    return quantize_4bit(weight.detach().float().contiguous(), compress_statistics=True, quant_type="nf4")


def round_to_nf4(weight: Float[Tensor, "o i"]) -> Float[Tensor, "o i"]:
    """The weight that is left when this one has been packed into 4 bits, float32."""
    return _unpack(*quantize_nf4(weight))


def _unpack(packed: Tensor, state: QuantState) -> Tensor:
    exact = copy(state)
    exact.dtype = torch.float32
    return dequantize_4bit(packed, exact)
