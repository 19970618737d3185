"""Projections that read the same input as one matrix product: fewer, larger kernels, equal up to rounding."""

from typing import cast

import torch
from torch import Tensor, nn

from pizero.model.gemma import Attention, FeedForward, Gemma, GemmaLayer
from pizero.model.pi0 import Pi0
from pizero.model.siglip import SiglipLayer


def stack(*linears: nn.Linear) -> nn.Linear:
    """One linear layer whose output is the outputs of the given ones, side by side."""
    first = linears[0]
    fused = nn.Linear(first.in_features, sum(x.out_features for x in linears), first.bias is not None, device="meta")
    fused.weight = nn.Parameter(torch.cat([x.weight.detach() for x in linears]), requires_grad=False)
    if first.bias is not None:
        fused.bias = nn.Parameter(torch.cat([x.bias.detach() for x in linears]), requires_grad=False)
    return fused


class FusedAttention(Attention):
    """Gemma attention with queries, keys and values from one product."""

    def __init__(self, plain: Attention) -> None:
        nn.Module.__init__(self)
        self.head_dim = plain.head_dim
        self.widths = [plain.q_proj.out_features, plain.k_proj.out_features, plain.v_proj.out_features]
        self.qkv_proj = stack(plain.q_proj, plain.k_proj, plain.v_proj)
        self.o_proj = plain.o_proj

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `Attention.qkv`."""
        q, k, v = self.qkv_proj(x).split(self.widths, dim=-1)
        return q, k, v

    def kv(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `Attention.kv`."""
        q_width, k_width, v_width = self.widths
        joined = nn.functional.linear(x, self.qkv_proj.weight[q_width:])
        k, v = joined.split([k_width, v_width], dim=-1)
        return k, v


class FusedFeedForward(FeedForward):
    """Gemma feed-forward with gate and value from one product."""

    def __init__(self, plain: FeedForward) -> None:
        nn.Module.__init__(self)
        self.gate_up_proj = stack(plain.gate_proj, plain.up_proj)
        self.down_proj = plain.down_proj

    def gate_up(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `FeedForward.gate_up`."""
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return gate, up


class FusedSiglipLayer(SiglipLayer):
    """SigLIP layer with queries, keys and values from one product."""

    def __init__(self, plain: SiglipLayer) -> None:
        nn.Module.__init__(self)
        self.num_heads = plain.num_heads
        self.layer_norm1, self.layer_norm2 = plain.layer_norm1, plain.layer_norm2
        self.qkv_proj = stack(plain.q_proj, plain.k_proj, plain.v_proj)
        self.out_proj, self.fc1, self.fc2 = plain.out_proj, plain.fc1, plain.fc2

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `SiglipLayer.qkv`."""
        q, k, v = self.qkv_proj(x).chunk(3, dim=-1)
        return q, k, v


def fuse(model: Pi0) -> Pi0:
    """The same model with fused projections, for inference only. Changes `model` in place, layer by layer."""
    model.vision.layers = nn.ModuleList(FusedSiglipLayer(cast(SiglipLayer, layer)) for layer in model.vision.layers)
    for expert in (model.vlm, model.action):
        _fuse_expert(expert)
    return model.eval().requires_grad_(False)


def _fuse_expert(expert: Gemma) -> None:
    for module in expert.layers:
        layer = cast(GemmaLayer, module)
        layer.self_attn = FusedAttention(layer.self_attn)
        layer.mlp = FusedFeedForward(layer.mlp)
