"""Arithmetic of a training step, and what cards can do of it. No torch here.

Useful FLOPs are those of matrix products that the loss depends on (2 for each multiplication with its addition): not of
what the last vlm layer computes beside keys and values, of padding, or of anything computed twice. Norms, GELU, softmax
and rotation, less than 1 %, are not counted.
"""

from dataclasses import dataclass
from itertools import pairwise

from pizero.model.config import GemmaConfig, Pi0Config, SiglipConfig
from pizero.train.config import LoraConfig

TERA = 1e12
GIB = 2.0**30


@dataclass(frozen=True)
class Card:
    """A GPU. Numbers are the data sheet's, without sparsity, with float32 sums, and those measured where they are."""

    name: str
    device_names: tuple[str, ...]
    """As torch.cuda.get_device_name gives it."""
    memory_bytes: float
    """As CUDA reports it, which is a little less than what the card is sold with."""
    sheet_flops: float
    """Of bfloat16 matrix products, per second."""
    sheet_bandwidth: float
    """Bytes per second."""
    measured_flops: float | None = None
    measured_bandwidth: float | None = None

    @property
    def flops(self) -> float:
        """Of bfloat16 matrix products per second, as measured, or as the H200's ratio to its sheet lets expect."""
        return self.measured_flops or SHEET_SHARE * self.sheet_flops

    @property
    def bandwidth(self) -> float:
        """Bytes per second, as measured, or as the H200's ratio to its sheet lets expect."""
        return self.measured_bandwidth or SHEET_BANDWIDTH_SHARE * self.sheet_bandwidth


SHEET_SHARE = 790 / 989
"""Measured share of the sheet's FLOPs on an H200."""
SHEET_BANDWIDTH_SHARE = 4.3 / 4.8
"""Measured share of the sheet's bandwidth on an H200."""


def _card(name: str, devices: tuple[str, ...], gib: float, tera_flops: float, tera_bytes: float) -> Card:
    return Card(name, devices, gib * GIB, tera_flops * TERA, tera_bytes * TERA)


# NVIDIA's architecture papers (Ampere GA102, Ada, Blackwell RTX) and data sheets (A100, L40S, H100, H200)
CARDS = (
    _card("RTX 4080 16 GB", ("NVIDIA GeForce RTX 4080",), 15.7, 97.5, 0.717),
    _card("RTX 3090 24 GB", ("NVIDIA GeForce RTX 3090",), 23.6, 71.0, 0.936),
    _card("RTX 4090 24 GB", ("NVIDIA GeForce RTX 4090",), 23.6, 165.2, 1.008),
    _card("RTX 5090 32 GB", ("NVIDIA GeForce RTX 5090",), 31.3, 209.5, 1.792),
    _card("A100 40 GB", ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"), 39.4, 312.0, 1.555),
    _card("L40S 48 GB", ("NVIDIA L40S",), 44.4, 362.0, 0.864),
    _card("A100 80 GB", ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"), 79.1, 312.0, 2.039),
    _card("H100 80 GB", ("NVIDIA H100 80GB HBM3",), 79.1, 989.0, 3.35),
    Card("H200 141 GB", ("NVIDIA H200",), 139.7 * GIB, 989 * TERA, 4.8 * TERA, 790 * TERA, 4.3 * TERA),
)
"""From little memory to much."""


def find_card(device_name: str) -> Card | None:
    """The card of this name (torch.cuda.get_device_name); None when its speed is not known here."""
    return next((card for card in CARDS if device_name in card.device_names), None)


@dataclass(frozen=True)
class Flops:
    """Of one sample, by the part of the network that does them."""

    vision: float
    """With the projector."""
    vlm: float
    action: float
    """With the heads."""

    @property
    def total(self) -> float:
        """All of them."""
        return self.vision + self.vlm + self.action


def forward_flops(model: Pi0Config, views: int, prompt_tokens: int, draws: int = 1) -> Flops:
    """FLOPs of the forward pass of one observation with `draws` noisy chunks."""
    vision, vlm, action = model.vision, model.vlm, model.action
    patches = views * vision.num_patches
    layer = 4 * vision.width**2 + 2 * vision.width * vision.mlp_dim
    ends = _stem(vision) + vision.width * vlm.width
    seen = 2 * vision.num_patches * vision.width  # q k^T and p v, one picture at a time
    prefix = patches + prompt_tokens
    last = 2 * vlm.num_kv_heads * vlm.head_dim * vlm.width  # keys and values alone
    rows, heads = int(model.state_token), model.action_dim
    chunk = rows + model.horizon
    tokens = rows + draws * model.horizon
    head = 2 * heads * action.width + action.width**2  # actions in, with the time, velocity out
    return Flops(
        vision=2.0 * patches * (vision.depth * (layer + seen) + ends),
        vlm=2.0 * prefix * ((vlm.depth - 1) * (_gemma(vlm) + _attention(vlm, prefix)) + last),
        action=2.0 * tokens * (action.depth * (_gemma(action) + _attention(action, prefix + chunk)) + head),
    )


def passes(tune: str, lora: LoraConfig) -> Flops:
    """How often each part's forward FLOPs are done in a step: forward, gradient of the tokens, gradient of the weights.

    What is frozen has no gradient of the weights (the small adapters are not counted), and, where nothing before it is
    trained either, none of its tokens.
    """
    if tune == "full":
        return Flops(3.0, 3.0, 3.0)
    if tune == "expert":
        return Flops(1.0, 1.0, 3.0)
    return Flops(1.0 + lora.vision, 1.0 + (lora.vision or lora.vlm), 2.0)


def flops_per_sample(
    model: Pi0Config,
    views: int,
    prompt_tokens: int,
    draws: int = 1,
    tune: str = "full",
    lora: LoraConfig | None = None,
) -> float:
    """Useful FLOPs of a training step for each observation, with `views` pictures and a prompt of so many real tokens.

    MFU is this, times samples per second, over `Card.flops`.
    """
    forward = forward_flops(model, views, prompt_tokens, draws)
    times = passes(tune, LoraConfig() if lora is None else lora)
    return forward.vision * times.vision + forward.vlm * times.vlm + forward.action * times.action


def _stem(config: SiglipConfig) -> int:
    """Multiplications for each patch until it is one."""
    if config.stem == "patches":
        return 3 * config.patch_size**2 * config.width
    convolutions = enumerate(pairwise(config.stem_channels), 1)
    halving = (9 * before * after * (config.patch_size >> i) ** 2 for i, (before, after) in convolutions)
    return sum(halving) + config.width**2


def _gemma(config: GemmaConfig) -> int:
    """Weights of the matrices of a layer."""
    heads = 2 * config.num_heads + 2 * config.num_kv_heads  # q and o, k and v
    return config.width * (heads * config.head_dim + 3 * config.mlp_dim)


def _attention(config: GemmaConfig, keys: int) -> int:
    """Multiplications for each query: with the keys, and of the weights with the values."""
    return 2 * keys * config.num_heads * config.head_dim
