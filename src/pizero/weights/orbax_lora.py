"""Low-rank adapters of openpi's JAX experts, merged into the weights that they change.

A weight (..., in, out) has an adapter a (..., in, rank) and b (..., rank, out), and their product is added to it, with
two surprises (openpi, src/openpi/models/lora.py). Only attention adapters are scaled, by alpha / rank; feed-forward
adapters are not. And the output projection sums over the heads before its second factor is applied, so that the a of
each head meets the sum of the b of all heads.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from pizero.weights.facts import Facts, flag
from pizero.weights.source import Source

Group = Literal["attn", "mlp"]
VARIANT_RANK = {"vlm": 16, "action": 32}
"""Of openpi's gemma_2b_lora and gemma_300m_lora, whose alpha is equal to it (src/openpi/models/gemma.py)."""


@dataclass(frozen=True)
class Adapter:
    """What the adapters of one expert's attention, or feed-forward network, have in common."""

    rank: int
    """Numbers between the two factors."""
    scale: float
    """What their product is multiplied with."""


def merge_adapter(weight: Tensor, a: Tensor, b: Tensor, scale: float, *, over_heads: bool) -> Tensor:
    """The weight (..., in, out) with its adapter in it; computed in float64, float32.

    `over_heads`: the first axis are heads, which are summed between the factors.
    """
    second = b.double().sum(0) if over_heads else b.double()
    return (weight.double() + scale * (a.double() @ second)).float()


def adapter_keys(key: str) -> tuple[str, str]:
    """Keys of a and b: beside the `w` of an attention weight, a longer name for the others."""
    stem = key.removesuffix("w") if key.endswith("/w") else key + "_"
    return stem + "lora_a", stem + "lora_b"


def adapter_shapes(shape: tuple[int, ...], rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of a and b of a weight of this shape."""
    return (*shape[:-1], rank), (*shape[:-2], rank, shape[-1])


def find_rank(source: Source, weights: Iterable[str]) -> int | None:
    """The rank that most adapters of these weights have; None when none of them has an adapter."""
    ranks = [
        source.tensors[key].shape[axis]
        for weight in weights
        for key, axis in zip(adapter_keys(weight), (-1, -2), strict=True)
        if key in source.tensors and len(source.tensors[key].shape) > 2
    ]
    return max(ranks, key=ranks.count, default=None)


def asks_alpha(ranks: Mapping[str, int]) -> bool:
    """Whether attention adapters have another rank than openpi's variants; `ranks` by expert."""
    return any(rank != VARIANT_RANK[expert] for expert, rank in ranks.items())


def attention_scale(expert: str, ranks: Mapping[str, int], facts: Facts) -> float:
    """What the product of an expert's attention adapters is multiplied with; `ranks` by expert.

    Raises ValueError when the one alpha that is told cannot be that of both experts.
    """
    rank, alpha = ranks[expert], facts.lora_alpha
    if alpha is None:
        assert rank == VARIANT_RANK[expert], "needs() asks for lora_alpha"
        alpha = float(rank)
    elif rank == VARIANT_RANK[expert] != alpha and set(ranks.values()) != {rank}:
        raise ValueError(
            f"{flag('lora_alpha')} is {alpha}, but the adapters of the {expert} expert have rank {rank}, with which "
            f"openpi has alpha {rank}, and those of the other expert have another rank; merge them in openpi first"
        )
    return alpha / (math.sqrt(rank) if facts.lora_rslora else rank)
