"""A stack of Gemma layers whose tokens attend to themselves and to keys and values computed before.

Both experts of pi0 are such a stack. Calling them one after the other, each on the cache of those before, *is* the
block-wise causal attention of pi0: image and prompt see each other; the state sees them and itself; actions see all.
No attention mask is needed for the blocks; only padding needs one.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pizero.model.config import GemmaConfig
from pizero.model.norm import MakeNorm, RMSNorm, add
from pizero.model.recompute import run_layer


@dataclass(frozen=True)
class Cache:
    """What later blocks may attend to: per layer the keys (already rotated) and values, (b, kv heads, k, head_dim)."""

    keys: list[Tensor]
    values: list[Tensor]
    mask: Bool[Tensor, "b k"] | None
    """True where the token is real; None when all are."""

    def __len__(self) -> int:
        return self.keys[0].shape[2]

    def allowed(self, length: int, own: Bool[Tensor, "b q"] | None) -> Bool[Tensor, "b k"] | None:
        """Mask over these tokens followed by `length` more, of which `own` tells the real ones (None: all)."""
        if self.mask is None and own is None:
            return None
        rows = self.keys[0].shape[0]
        past = self.keys[0].new_ones(rows, len(self), dtype=torch.bool) if self.mask is None else self.mask
        return torch.cat([past, past.new_ones(rows, length) if own is None else own], dim=1)

    def extend(self, new: "Cache") -> "Cache":
        """This cache followed by the tokens of another one."""
        return Cache(
            [torch.cat(pair, dim=2) for pair in zip(self.keys, new.keys, strict=True)],
            [torch.cat(pair, dim=2) for pair in zip(self.values, new.values, strict=True)],
            self.allowed(len(new), new.mask),
        )

    def repeat(self, times: int) -> "Cache":
        """Each row `times` in a row, for several noise draws on one observation."""
        return Cache(
            [k.repeat_interleave(times, 0) for k in self.keys],
            [v.repeat_interleave(times, 0) for v in self.values],
            None if self.mask is None else self.mask.repeat_interleave(times, 0),
        )

    def next_positions(self, length: int) -> Int[Tensor, "b q"]:
        """Positions of the `length` tokens after this cache: the real tokens are counted, padding is not."""
        following = torch.arange(length, device=self.keys[0].device)
        if self.mask is None:
            return (len(self) + following).expand(self.keys[0].shape[0], length)
        return self.mask.sum(1, keepdim=True) + following


def rotary_table(
    positions: Int[Tensor, "b q"], head_dim: int, base: float
) -> tuple[Float[Tensor, "b 1 q half"], Float[Tensor, "b 1 q half"]]:
    """Cosine and sine of position * base^(-2i / head_dim), float32 (Su et al. 2021)."""
    exponent = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angle = positions.float()[:, None, :, None] * base**-exponent
    return angle.cos(), angle.sin()


def rotate(x: Float[Tensor, "b n q d"], table: tuple[Tensor, Tensor]) -> Float[Tensor, "b n q d"]:
    """Rotary embedding on the two halves of each head, computed in float32."""
    cos, sin = table
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def attend(
    q: Float[Tensor, "b n q h"],
    k: Float[Tensor, "b m k h"],
    v: Float[Tensor, "b m k h"],
    mask: Bool[Tensor, "b k"] | None,
    softcap: float | None = None,
) -> Float[Tensor, "b q d"]:
    """Softmax attention over all keys that the mask lets through, heads joined; logits capped when `softcap` is given.

    No query is treated unlike another, so the n / m query heads that share a key head can stand in one long row.
    """
    b, n, length, h = q.shape
    m = k.shape[1]
    rows = q.reshape(b, m, n // m * length, h)
    allowed = None if mask is None else mask[:, None, None, :]
    if softcap is None:
        out = F.scaled_dot_product_attention(rows, k, v, attn_mask=allowed)
    else:
        out = capped_attention(rows, k, v, allowed, softcap)
    return out.reshape(b, n, length, h).transpose(1, 2).flatten(2)


def capped_attention(
    q: Float[Tensor, "b m q h"],
    k: Float[Tensor, "b m k h"],
    v: Float[Tensor, "b m k h"],
    mask: Bool[Tensor, "b 1 1 k"] | None,
    softcap: float,
) -> Float[Tensor, "b m q h"]:
    """Attention whose logits become softcap * tanh(logits / softcap); softmax in float32 (open-pi-zero)."""
    logits = softcap * torch.tanh(q @ k.mT * q.shape[-1] ** -0.5 / softcap)
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return logits.softmax(-1, dtype=torch.float32).to(v.dtype) @ v


class Attention(nn.Module):
    """Projections of one expert's tokens into the shared attention."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(config.width, config.num_heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(config.width, config.num_kv_heads * config.head_dim, bias=False)
        self.v_proj = nn.Linear(config.width, config.num_kv_heads * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.num_heads * config.head_dim, config.width, bias=False)

    def qkv(self, x: Float[Tensor, "b q d"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (b, q, heads * head_dim)."""
        return self.q_proj(x), self.k_proj(x), self.v_proj(x)

    def kv(self, x: Float[Tensor, "b q d"]) -> tuple[Tensor, Tensor]:
        """Keys and values alone."""
        return self.k_proj(x), self.v_proj(x)

    def split_heads(self, x: Float[Tensor, "b q d"]) -> Float[Tensor, "b n q h"]:
        """(b, q, heads * head_dim) to (b, heads, q, head_dim)."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class FeedForward(nn.Module):
    """GELU-gated feed-forward network; GELU in its tanh form."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.mlp_dim, bias=False)
        self.up_proj = nn.Linear(config.width, config.mlp_dim, bias=False)
        self.down_proj = nn.Linear(config.mlp_dim, config.width, bias=False)

    def gate_up(self, x: Float[Tensor, "b q d"]) -> tuple[Tensor, Tensor]:
        """Gate and value of the hidden layer, each (b, q, mlp_dim)."""
        return self.gate_proj(x), self.up_proj(x)

    def forward(self, x: Float[Tensor, "b q d"]) -> Float[Tensor, "b q d"]:
        """down(gelu(gate(x)) * up(x))."""
        gate, up = self.gate_up(x)
        return self.down_proj(F.gelu(gate, approximate="tanh") * up)


class GemmaLayer(nn.Module):
    """One layer: attention over the cache and the layer's own tokens, then the feed-forward network."""

    def __init__(self, config: GemmaConfig, make_norm: MakeNorm, softcap: float | None = None) -> None:
        super().__init__()
        self.softcap = softcap
        self.input_layernorm = make_norm(True)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = make_norm(True)
        self.mlp = FeedForward(config)

    def forward(
        self,
        x: Tensor,
        table: tuple[Tensor, Tensor],
        past: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        condition: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The tokens after this layer, and their own keys and values.

        x (b, q, d); `table` from `rotary_table`; `past` keys and values seen before the own ones, or None; `mask`
        (b, k) over past and own keys, or None; `condition` (b, c) for adaptive norms.
        """
        attn = self.self_attn
        y, gate = self.input_layernorm(x, condition)
        q, k, v = (attn.split_heads(z) for z in attn.qkv(y))
        q, k = rotate(q, table), rotate(k, table)
        keys, values = (k, v) if past is None else (torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2))
        x = add(x, attn.o_proj(attend(q, keys, values, mask, self.softcap)), gate)
        y, gate = self.post_attention_layernorm(x, condition)
        return add(x, self.mlp(y), gate), k, v

    def only_kv(
        self, x: Tensor, table: tuple[Tensor, Tensor], condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The keys and values of the tokens, all that later blocks need of the last layer."""
        attn = self.self_attn
        k, v = (attn.split_heads(y) for y in attn.kv(self.input_layernorm(x, condition)[0]))
        return rotate(k, table), v


class Gemma(nn.Module):
    """The layers of one expert and its final norm. `make_norm` None: Gemma's own norms."""

    def __init__(self, config: GemmaConfig, make_norm: MakeNorm | None = None, softcap: float | None = None) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        """Keep only the inputs of layers for the backward pass."""
        make = make_norm or (lambda inner: RMSNorm(config.width))
        self.layers = nn.ModuleList(GemmaLayer(config, make, softcap) for _ in range(config.depth))
        self.norm = make(False)

    def forward(
        self,
        x: Float[Tensor, "b q d"],
        positions: Int[Tensor, "b q"],
        mask: Bool[Tensor, "b q"] | None = None,
        past: Cache | None = None,
        condition: Float[Tensor, "b c"] | None = None,
    ) -> Float[Tensor, "b q d"]:
        """The tokens after all layers and the final norm. Each sees all real tokens of `past` and of its own block."""
        table = rotary_table(positions, self.config.head_dim, self.config.rope_base)
        allowed = mask if past is None else past.allowed(x.shape[1], mask)
        for i, layer in enumerate(self.layers):
            seen = None if past is None else (past.keys[i], past.values[i])
            x, _, _ = run_layer(layer, self.recompute, x, table, seen, allowed, condition)
        y, _ = self.norm(x, condition)
        return y

    def cache(
        self,
        x: Float[Tensor, "b q d"],
        positions: Int[Tensor, "b q"],
        mask: Bool[Tensor, "b q"] | None = None,
        past: Cache | None = None,
        condition: Float[Tensor, "b c"] | None = None,
    ) -> Cache:
        """Keys and values of a block, for the blocks after it; of the last layer nothing else is computed."""
        table = rotary_table(positions, self.config.head_dim, self.config.rope_base)
        allowed = mask if past is None else past.allowed(x.shape[1], mask)
        keys, values = [], []
        for i, layer in enumerate(self.layers[:-1]):
            seen = None if past is None else (past.keys[i], past.values[i])
            x, k, v = run_layer(layer, self.recompute, x, table, seen, allowed, condition)
            keys.append(k)
            values.append(v)
        k, v = cast(GemmaLayer, self.layers[-1]).only_kv(x, table, condition)
        own = Cache([*keys, k], [*values, v], mask)
        return own if past is None else past.extend(own)
