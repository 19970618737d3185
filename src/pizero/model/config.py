"""Sizes of the networks: the released ones and tiny ones. No torch here, so that `--help` answers at once."""

from dataclasses import dataclass, field


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

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} does not divide image_size {self.image_size}")
        if self.width % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} does not divide the vision width {self.width}")

    @property
    def num_patches(self) -> int:
        """Tokens per picture."""
        return (self.image_size // self.patch_size) ** 2


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
    time_min_period: float = 4e-3
    """Shortest period of the sinusoidal time embedding (openpi, src/openpi/models/pi0.py)."""
    time_max_period: float = 4.0
    """Longest period of the sinusoidal time embedding (openpi, src/openpi/models/pi0.py)."""

    def __post_init__(self) -> None:
        for name, vlm, action in (
            ("depth", self.vlm.depth, self.action.depth),
            ("num_kv_heads", self.vlm.num_kv_heads, self.action.num_kv_heads),
            ("head_dim", self.vlm.head_dim, self.action.head_dim),
            ("rope_base", self.vlm.rope_base, self.action.rope_base),
        ):
            if vlm != action:
                raise ValueError(
                    f"{name} is {vlm} in the vlm and {action} in the action expert; "
                    "attention is shared, so they must be equal"
                )
        if self.action.width % 2:
            raise ValueError(f"action width is {self.action.width}, must be even for the time embedding")
        if self.horizon < 1:
            raise ValueError(f"horizon is {self.horizon}, must be at least 1")
