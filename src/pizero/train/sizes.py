"""How many numbers the network's weights have, and in which type a run keeps them, from the config alone.

The counterpart of `tune.prepare`, which tests hold it equal to. No torch here.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from pizero.model.config import GemmaConfig, Pi0Config, SiglipConfig
from pizero.train.config import LoraConfig, TrainConfig

Part = Literal["vision", "projector", "embed_tokens", "vlm", "action", "heads"]
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Of a weight in 4 bits: 64 share a scale of 8 bits, and 256 scales one of 32 (QLoRA, Dettmers et al. 2023)."""


@dataclass(frozen=True)
class Linear:
    """Matrices of equal shape that can have adapters."""

    part: Part
    name: str
    """Last name, as in `lora.targets`."""
    inputs: int
    outputs: int
    count: int
    used: bool = True
    """Whether the loss depends on them; not on most of the last vlm layer."""

    @property
    def numbers(self) -> int:
        """In all of them."""
        return self.count * self.inputs * self.outputs


@dataclass(frozen=True)
class Rest:
    """Weights that are not such matrices."""

    part: Part
    numbers: int
    exact: bool
    """Kept in float32 by every recipe: norms and heads."""
    used: bool = True


def linears(model: Pi0Config) -> list[Linear]:
    """The matrices of the layers of vision tower and experts."""
    vision, vlm, action = model.vision, model.vlm, model.action
    square = ("q_proj", "k_proj", "v_proj", "out_proj")
    return [
        *(Linear("vision", name, vision.width, vision.width, vision.depth) for name in square),
        Linear("vision", "fc1", vision.width, vision.mlp_dim, vision.depth),
        Linear("vision", "fc2", vision.mlp_dim, vision.width, vision.depth),
        *_gemma("vlm", vlm, vlm.depth - 1),
        *(linear for linear in _gemma("vlm", vlm, 1, used=False) if linear.name not in ("k_proj", "v_proj")),
        *(linear for linear in _gemma("vlm", vlm, 1) if linear.name in ("k_proj", "v_proj")),
        *_gemma("action", action, action.depth),
    ]


def rests(model: Pi0Config) -> list[Rest]:
    """Everything else."""
    vision, vlm, action = model.vision, model.vlm, model.action
    biases = vision.depth * (5 * vision.width + vision.mlp_dim)
    stem, stem_norms = _stem(vision)
    patches = stem + vision.num_patches * vision.width
    norms = 2 * action.depth + 1
    per_norm = action.width
    if model.time_conditioning == "adarms":
        per_norm = 3 * action.width * (model.time_width + 1)
    elif model.time_conditioning != "input":
        per_norm = action.width * (2 * model.time_width + 1)
    gates = 2 * action.depth * action.width * (model.time_width + 1) if model.time_conditioning == "adaln-zero" else 0
    return [
        Rest("vision", biases + patches, exact=False),
        Rest("vision", (2 * vision.depth + 1) * 2 * vision.width + stem_norms, exact=True),
        Rest("projector", (vision.width + 1) * vlm.width, exact=False),
        Rest("embed_tokens", model.vocab_size * vlm.width, exact=False),
        Rest("vlm", (2 * vlm.depth - 1) * vlm.width, exact=True),
        Rest("vlm", 2 * vlm.width, exact=True, used=False),
        Rest("action", norms * per_norm + gates, exact=model.time_conditioning == "input"),
        Rest("heads", _heads(model), exact=True),
    ]


@dataclass(frozen=True)
class Sizes:
    """What a run keeps, in numbers of weights by how they are kept."""

    trained_float32: int
    trained_bfloat16: int
    trained_matrices: int
    """Of the trained float32 ones, those in matrices of layers and in adapters, which arithmetic in bfloat16 copies."""
    frozen_float32: int
    frozen_bfloat16: int
    frozen_nf4: int

    @property
    def trained(self) -> int:
        """All trained ones."""
        return self.trained_float32 + self.trained_bfloat16

    @property
    def frozen(self) -> int:
        """All others."""
        return self.frozen_float32 + self.frozen_bfloat16 + self.frozen_nf4


def sizes(config: TrainConfig) -> Sizes:
    """What `config` trains and keeps frozen, in which type."""
    adapters = sum(
        adapter_numbers(linear, config.lora) for linear in linears(config.model) if is_adapted(linear, config)
    )
    count = {"trained_float32": adapters, "trained_bfloat16": 0, "trained_matrices": adapters}
    count |= {"frozen_float32": 0, "frozen_bfloat16": 0, "frozen_nf4": 0}
    pure, single = config.precision == "bf16-pure", config.precision == "fp32"
    everything: list[Linear | Rest] = [*linears(config.model), *rests(config.model)]
    for weights in everything:
        exact = isinstance(weights, Rest) and weights.exact
        if weights.used and is_trained(weights.part, config):
            count["trained_bfloat16" if pure and not exact else "trained_float32"] += weights.numbers
            if isinstance(weights, Linear) and not pure:
                count["trained_matrices"] += weights.numbers
        elif isinstance(weights, Linear) and config.tune == "qlora" and has_adapters(weights.part, config.lora):
            count["frozen_nf4"] += weights.numbers
        else:
            count["frozen_float32" if exact or single else "frozen_bfloat16"] += weights.numbers
    return Sizes(**count)


def is_trained(part: Part, config: TrainConfig) -> bool:
    """Whether the weights of this part themselves are, as far as the loss depends on them."""
    if config.tune == "expert":
        return part in ("action", "heads")
    return config.tune == "full" or part == "heads"


def has_adapters(part: Part, lora: LoraConfig) -> bool:
    """Whether "lora" and "qlora" adapt this part."""
    return {"vision": lora.vision, "vlm": lora.vlm, "action": lora.action}.get(part, False)


def is_adapted(linear: Linear, config: TrainConfig) -> bool:
    """Whether these matrices have adapters."""
    lora = config.lora
    wanted = linear.used and linear.name in lora.targets and has_adapters(linear.part, lora)
    return wanted and config.tune in ("lora", "qlora")


def adapter_numbers(linear: Linear, lora: LoraConfig) -> int:
    """In the two factors of all their adapters."""
    return linear.count * lora.rank * (linear.inputs + linear.outputs)


def _gemma(part: Part, config: GemmaConfig, count: int, used: bool = True) -> list[Linear]:
    heads, kv_heads = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return [
        Linear(part, name, inputs, outputs, count, used)
        for name, inputs, outputs in (
            ("q_proj", config.width, heads),
            ("k_proj", config.width, kv_heads),
            ("v_proj", config.width, kv_heads),
            ("o_proj", heads, config.width),
            ("gate_proj", config.width, config.mlp_dim),
            ("up_proj", config.width, config.mlp_dim),
            ("down_proj", config.mlp_dim, config.width),
        )
    ]


def _stem(vision: SiglipConfig) -> tuple[int, int]:
    """Weights and biases of what makes patches of pixels, and of its norms."""
    if vision.stem == "patches":
        return (3 * vision.patch_size**2 + 1) * vision.width, 0
    channels = vision.stem_channels
    halvings = sum((9 * before + 1) * after for before, after in pairwise(channels))
    return halvings + (vision.width + 1) * vision.width, 2 * sum(channels[1:])


def _heads(model: Pi0Config) -> int:
    width = model.action.width
    inner = (3 if model.time_conditioning == "input" else 2) * width**2 + 2 * width
    state = (model.state_dim + 1) * width if model.state_token else 0
    return state + inner + (model.action_dim + 1) * width + (width + 1) * model.action_dim
