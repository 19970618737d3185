"""The SigLIP vision tower: one picture in, one embedding per patch out (Zhai et al. 2023; big_vision's vit.py)."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pizero.model.config import SiglipConfig
from pizero.model.recompute import run_layer

LAYER_NORM_EPS = 1e-6
"""big_vision, models/vit.py."""
SINCOS_BASE = 10_000.0
"""The same, posemb_sincos_2d."""


def sincos_positions(side: int, width: int) -> Float[Tensor, "p d"]:
    """Sines and cosines of row and column of each patch: fresh position embeddings that tell places apart at once.

    big_vision, models/vit.py, posemb_sincos_2d (Beyer et al. 2022, "Better plain ViT baselines"), which learns faster
    from scratch than small random numbers. They are trained on. Columns beyond a multiple of 4 are 0.
    """
    quarter = width // 4
    frequency = SINCOS_BASE ** -torch.linspace(0, 1, quarter)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [place.flatten()[:, None] * frequency for place in (x, y)]
    embedding = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
    return F.pad(embedding, (0, width - 4 * quarter))


class SiglipLayer(nn.Module):
    """Pre-norm self-attention and feed-forward; every patch sees every patch."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.layer_norm1 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.q_proj = nn.Linear(config.width, config.width)
        self.k_proj = nn.Linear(config.width, config.width)
        self.v_proj = nn.Linear(config.width, config.width)
        self.out_proj = nn.Linear(config.width, config.width)
        self.layer_norm2 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.fc1 = nn.Linear(config.width, config.mlp_dim)
        self.fc2 = nn.Linear(config.mlp_dim, config.width)

    def qkv(self, x: Float[Tensor, "n p d"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of all heads, each (n, p, d)."""
        return self.q_proj(x), self.k_proj(x), self.v_proj(x)

    def forward(self, x: Float[Tensor, "n p d"]) -> Float[Tensor, "n p d"]:
        """The patches after one layer."""
        q, k, v = (y.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for y in self.qkv(self.layer_norm1(x)))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out_proj(attended)
        return x + self.fc2(F.gelu(self.fc1(self.layer_norm2(x)), approximate="tanh"))


class Halving(nn.Module):
    """A 3x3 convolution that halves the picture, a norm over all of it, and a non-linearity.

    Xiao et al. (2021) normalise over the batch, with ReLU; here a picture does not depend on the others of its batch.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(before, after, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(1, after, eps=LAYER_NORM_EPS)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n e h2 w2"]:
        """Half as high and wide."""
        return F.gelu(self.norm(self.convolution(x)), approximate="tanh")


def patch_embedding(config: SiglipConfig) -> nn.Module:
    """Pictures (n, 3, h, w) to patches (n, width, h / patch_size, w / patch_size)."""
    if config.stem == "patches":
        return nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size)
    halvings = (Halving(before, after) for before, after in pairwise(config.stem_channels))
    return nn.Sequential(*halvings, nn.Conv2d(config.width, config.width, 1))


class Siglip(nn.Module):
    """Patch embedding, learned positions, layers, final norm."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        """Keep only the inputs of layers for the backward pass."""
        self.patch_embedding = patch_embedding(config)
        self.position_embedding = nn.Embedding(config.num_patches, config.width)
        self.layers = nn.ModuleList(SiglipLayer(config) for _ in range(config.depth))
        self.post_layernorm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)

    @torch.no_grad()
    def init_positions(self) -> None:
        """Fresh position embeddings, in place."""
        side = self.config.image_size // self.config.patch_size
        self.position_embedding.weight.copy_(sincos_positions(side, self.config.width))

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n p d"]:
        """Patch embeddings, row by row from the upper left, of pictures in [-1, 1]."""
        side = self.config.image_size  # the convolution would take other sizes too, and give wrong numbers
        assert images.shape[2:] == (side, side), f"pictures of {tuple(images.shape[2:])}, the model takes {side, side}"
        x = self.patch_embedding(images).flatten(2).transpose(1, 2)
        x = x + self.position_embedding.weight.to(x.dtype)  # under autocast the patches are bfloat16
        for layer in self.layers:
            x = run_layer(layer, self.recompute, x)
        return self.post_layernorm(x)
