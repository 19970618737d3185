"""Sizes of the networks: the released ones and tiny ones. No torch here, so that `--help` answers at once."""

import math
from dataclasses import dataclass, field
from typing import Literal

TimeConditioning = Literal["input", "adarms", "adaln", "adaln-zero"]
Positions = Literal["counted", "restart"]
EulerGrid = Literal["even", "openpi", "lerobot", "open-pi-zero"]
TimeRounding = Literal["none", "openpi-jax"]
Stem = Literal["patches", "convolutions"]


@dataclass(frozen=True)
class SiglipConfig:
    """A SigLIP vision tower."""

    width: int = 1152
    """Size of a patch embedding."""
    depth: int = 27
    """Number of layers."""
    mlp_dim: int = 4304
    """Hidden size of the feed-forward networks."""
    num_heads: int = 16
    """Attention heads; must divide the width."""
    image_size: int = 224
    """Side of the square input picture in pixels."""
    patch_size: int = 14
    """Side of a square patch in pixels; must divide the image size."""
    stem: Stem = "patches"
    """How pixels become patches: "patches", one product for each, which is SigLIP; "convolutions", 3x3 convolutions
    that halve the picture until a patch is a pixel (Xiao et al. 2021, "Early Convolutions Help Transformers See
    Better"): for networks from scratch on few scenes, where each place need not be learned on its own."""

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} does not divide image_size {self.image_size}")
        if self.width % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} does not divide the vision width {self.width}")
        if self.stem == "convolutions":
            self._check_convolutions()

    @property
    def num_patches(self) -> int:
        """Tokens per picture."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def stem_channels(self) -> tuple[int, ...]:
        """Of the picture, and after each convolution that halves it: half as many before each, at last the width."""
        halvings = self.patch_size.bit_length() - 1
        return 3, *(self.width >> left for left in reversed(range(halvings)))

    def _check_convolutions(self) -> None:
        if self.patch_size < 2 or self.patch_size & (self.patch_size - 1):
            raise ValueError(f"patch_size is {self.patch_size}; with stem 'convolutions' it must be 2, 4, 8, 16 or so")
        if self.width % (self.patch_size // 2):
            raise ValueError(
                f"the vision width is {self.width}; with stem 'convolutions' and patch_size {self.patch_size} it must "
                f"be a multiple of {self.patch_size // 2}, since each convolution doubles the channels"
            )


@dataclass(frozen=True)
class GemmaConfig:
    """A stack of Gemma layers; both experts are one."""

    width: int = 2048
    """Size of a token."""
    depth: int = 18
    """Number of layers; equal in both experts, since they share attention layer by layer."""
    mlp_dim: int = 16384
    """Hidden size of the gated feed-forward networks."""
    num_heads: int = 8
    """Query heads."""
    num_kv_heads: int = 1
    """Key and value heads; must divide the query heads."""
    head_dim: int = 256
    """Size of a head; even, since rotary embedding turns pairs."""
    rope_base: float = 10_000.0
    """Base of the rotary embedding's frequencies."""

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads {self.num_kv_heads} does not divide num_heads {self.num_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}, must be even")


@dataclass(frozen=True)
class Pi0Config:
    """The whole policy network. The defaults are the released 3.3 B model."""

    vision: SiglipConfig = field(default_factory=SiglipConfig)
    """The vision tower."""
    vlm: GemmaConfig = field(default_factory=GemmaConfig)
    """The expert of image and prompt tokens."""
    action: GemmaConfig = field(default_factory=lambda: GemmaConfig(width=1024, mlp_dim=4096))
    """The expert of state and action tokens."""
    vocab_size: int = 257_152
    """Rows of the token embedding."""
    state_dim: int = 32
    """Width of the state that the model takes; a robot's state is padded to it with zeros."""
    action_dim: int = 32
    """Width of the actions that the model gives; a robot's actions are padded to it with zeros."""
    horizon: int = 50
    """Timesteps of an action chunk."""
    state_token: bool = True
    """Whether the state is a token of the action expert. False: the model sees it in the prompt, or not at all."""
    time_conditioning: TimeConditioning = "input"
    """How the flow time enters: "input", joined to the actions (pi0); "adarms", through the norms of the action expert,
    which scale, shift and gate (pi0.5); "adaln" and "adaln-zero", through open-pi-zero's own adaptive norms."""
    time_dim: int | None = None
    """Width of the time embedding; None: that of the action expert."""
    time_min_period: float = 4e-3
    """Shortest period of the sinusoidal time embedding (openpi, src/openpi/models/pi0.py). open-pi-zero's geometric
    embedding with base P is the same with periods from 2 pi to 2 pi P."""
    time_max_period: float = 4.0
    """Longest period of the sinusoidal time embedding (openpi, src/openpi/models/pi0.py)."""
    time_rounding: TimeRounding = "none"
    """"openpi-jax": angles of the time embedding are rounded as openpi's JAX side rounds them, to float32 and in its
    direction of time, which moves the fastest sine by 1e-4."""
    positions: Positions = "counted"
    """In the rotary embedding: "counted", from 0, state and actions after the real tokens of image and prompt;
    "restart", from 1, and from 1 again for state and actions (open-pi-zero)."""
    attention_softcap: float | None = None
    """Logits become softcap * tanh(logits / softcap) in every layer of both experts (open-pi-zero: 50); None: none."""
    euler_grid: EulerGrid = "even"
    """Rounding of the flow times when sampling, which fast sines of the time embedding can see: "even", k / steps;
    "openpi", "lerobot" and "open-pi-zero", as that code computes them."""

    def __post_init__(self) -> None:
        for name, vlm, action in (
            ("depth", self.vlm.depth, self.action.depth),
            ("num_kv_heads", self.vlm.num_kv_heads, self.action.num_kv_heads),
            ("head_dim", self.vlm.head_dim, self.action.head_dim),
        ):
            if vlm != action:
                raise ValueError(
                    f"{name} is {vlm} in the vlm and {action} in the action expert; "
                    "attention is shared, so they must be equal"
                )
        if self.time_width < 2 or self.time_width % 2:
            raise ValueError(f"the time embedding is {self.time_width} wide, must be even: see time_dim")
        if self.time_conditioning in ("input", "adarms") and self.time_width != self.action.width:
            raise ValueError(
                f"time_dim is {self.time_width}; with time_conditioning {self.time_conditioning!r} it is the width of "
                f"the action expert, {self.action.width}: leave it out"
            )
        if not 0 < self.time_min_period < self.time_max_period:
            raise ValueError(
                f"time_min_period {self.time_min_period} and time_max_period {self.time_max_period} "
                "must be above 0 and rise"
            )
        if self.attention_softcap is not None and not self.attention_softcap > 0:
            raise ValueError(f"attention_softcap is {self.attention_softcap}, must be above 0 or None")
        if self.horizon < 1:
            raise ValueError(f"horizon is {self.horizon}, must be at least 1")

    @property
    def time_width(self) -> int:
        """Width of the time embedding."""
        return self.action.width if self.time_dim is None else self.time_dim


def geometric_periods(base: float) -> tuple[float, float]:
    """Shortest and longest period of open-pi-zero's embedding [sin, cos](t base^-f), f from 0 to 1."""
    return 2 * math.pi, 2 * math.pi * base
