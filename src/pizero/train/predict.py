"""Memory and time of a training step, from the config alone. No torch here.

The rules are those of arithmetic; the constants on top are what arithmetic does not know, to be set from measurements
(bench/train_step.py).
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from pizero.data.lerobot_layout import INFO
from pizero.model.config import GemmaConfig, SiglipConfig
from pizero.train.config import TrainConfig
from pizero.train.flops import Card, flops_per_sample, forward_flops, passes
from pizero.train.sizes import NF4_BYTES, Sizes, linears, rests, sizes

EFFICIENCY_COMPILED, EFFICIENCY_EAGER = 0.64, 0.40
"""Part of `Card.flops` that the forward and backward pass reaches on one device, compiled (an H200, full fine-tune of
set-ups a, b and c: 0.64 to 0.65 without the optimiser) or not (assumed)."""
ADAPTER_SLOWDOWN = 1.3
"""Of that efficiency with adapters, whose small products move memory (an H200, set-up a: 0.50)."""
ACTIVATION_COMPILED, ACTIVATION_EAGER = 1.19, 1.6
"""Memory kept for the backward pass, over the inputs of products that must be kept, compiled (an H200, set-ups a, b and
c: 1.19) or not (assumed)."""
COPIES_COMPILED, COPIES_EAGER = 0.0, 1.0
"""Part of the bfloat16 copies of float32 matrices that is alive at a time; compiled layers make them again."""
LAUNCH_SECONDS, LAUNCH_SECONDS_ADAPTERS = 1.5e-3, 6e-3
"""Least time of a layer in a piece of a batch, forward and backward, without adapters and with: Python starts kernels
one by one (on a virtual machine with an H200; a machine of its own is faster)."""
WORKSPACE_BYTES = 0.7e9
"""Pictures and tokens of a batch, gradients and copies of a layer at work, buffers of kernels."""
RESERVE_BYTES = 1.2e9
"""Of a card's memory that PyTorch cannot have: CUDA's own, and gaps between tensors."""
EIGHT_BIT_BYTES = 2 * (1 + 4 / 256)
"""Of 8-bit AdamW for a weight: two codes, and two scales for each 256."""


@dataclass(frozen=True)
class Shape:
    """What an observation is."""

    views: int
    prompt_tokens: int


ASSUMED_VIEWS = 3
"""Cameras of an observation before its data are known: as many as the released checkpoints take."""


def observation_shape(config: TrainConfig) -> tuple[Shape, str]:
    """What an observation of this run is at most, and where the number of views comes from, in words.

    Reads nothing but the info.json of LeRobot folders. Raises ValueError when one is damaged.
    """
    files = [folder / INFO for folder, _ in config.data.sources() if (folder / INFO).is_file()]
    if not files:
        return Shape(ASSUMED_VIEWS, config.data.prompt_length), "assumed: no LeRobot folder is there to read"
    return Shape(max(map(_views, files)), config.data.prompt_length), f"from {', '.join(map(str, files))}"


def _views(file: Path) -> int:
    try:
        features = json.loads(file.read_text())["features"].values()
        return sum(feature["dtype"] in ("image", "video") for feature in features)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is damaged: it has no JSON of features with a dtype each") from error


@dataclass(frozen=True)
class Memory:
    """Bytes on each device at the worst moment of a step."""

    trained: float
    """Weights that are trained, as they are kept."""
    frozen: float
    """Weights that are not."""
    copies: float
    """bfloat16 copies of float32 weights, and, with "fsdp", the whole layers at work."""
    gradients: float
    optimizer: float
    average: float
    """The running average of the weights."""
    activations: float
    """What the forward pass keeps for the backward pass."""
    workspace: float
    peak: float
    """All together: gradients come as activations go, so that of these the larger counts where that is so."""


def predict_memory(config: TrainConfig, shape: Shape, devices: int = 1) -> Memory:
    """Of a run on one device, or on each of several, which share `config.batch_size`."""
    counted = sizes(config)
    sharded = config.parallel == "fsdp" and devices > 1
    share = 1 / devices if sharded else 1.0
    trained = share * (4.0 * counted.trained_float32 + 2.0 * counted.trained_bfloat16)
    frozen = share * frozen_bytes(counted)
    optimizer = share * optimizer_bytes(config, counted)
    average = 0.0 if config.optim.ema_decay is None else share * 4.0 * counted.trained
    copied = COPIES_COMPILED if config.compile else COPIES_EAGER
    copies = 0.0 if config.precision == "fp32" else copied * 2.0 * counted.trained_matrices
    if sharded:
        copies = gathered_bytes(config)
    activations = activation_bytes(config, shape, rows_at_once(config, devices))
    gradients = trained  # of the same type
    at_once = config.accumulate > 1 or (devices > 1 and not sharded)  # else there are none when the forward pass ends
    working = activations + gradients if at_once else max(activations, gradients)
    peak = trained + frozen + copies + optimizer + average + working + WORKSPACE_BYTES
    return Memory(trained, frozen, copies, gradients, optimizer, average, activations, WORKSPACE_BYTES, peak)


def fits(memory: Memory, card: Card) -> bool:
    """Whether the card has room for it."""
    return memory.peak + RESERVE_BYTES <= card.memory_bytes


def rows_at_once(config: TrainConfig, devices: int) -> int:
    """Observations that a device computes in one piece."""
    return math.ceil(config.batch_size / (devices * config.accumulate))


def frozen_bytes(counted: Sizes) -> float:
    """Of the weights that are not trained."""
    return 4.0 * counted.frozen_float32 + 2.0 * counted.frozen_bfloat16 + NF4_BYTES * counted.frozen_nf4


def optimizer_bytes(config: TrainConfig, counted: Sizes) -> float:
    """Of AdamW's two averages; those of parameters below 4096 numbers, which stay float32, make no difference."""
    return (EIGHT_BIT_BYTES if config.optim.kind == "adamw8bit" else 8.0) * counted.trained


def gathered_bytes(config: TrainConfig) -> float:
    """FSDP: two layers, one at work and the next on its way, whole in the type of the arithmetic, with the gradients of
    one; and what belongs to no layer."""
    layers: dict[str, float] = {}
    for linear in linears(config.model):
        if linear.used:
            layers[linear.part] = layers.get(linear.part, 0.0) + linear.inputs * linear.outputs
    width = 4 if config.precision == "fp32" else 2
    loose = sum(rest.numbers for rest in rests(config.model) if rest.part in ("projector", "embed_tokens", "heads"))
    return (2 * width + 4) * max(layers.values()) + width * loose


@dataclass(frozen=True)
class Stack:
    """Layers of the network, and how many numbers they keep of each token for the backward pass."""

    tokens: int
    layers: int
    inside: int
    """Of a layer: both norms' outputs, queries, keys and values, the attention's output, and the hidden layer before
    and after its non-linearity, which are the inputs of every product."""
    width: int
    """What comes into a layer."""


def stacks(config: TrainConfig, shape: Shape) -> list[Stack]:
    """Those through which gradients go; the others keep nothing."""
    model, times = config.model, passes(config.tune, config.lora)
    vision, patches = model.vision, shape.views * model.vision.num_patches
    suffix = int(model.state_token) + config.draws * model.horizon
    found = [Stack(suffix, model.action.depth, _gemma_numbers(model.action), model.action.width)]
    if times.vlm > 1:
        prefix = patches + shape.prompt_tokens
        found.append(Stack(prefix, model.vlm.depth - 1, _gemma_numbers(model.vlm), model.vlm.width))
    if times.vision > 1:
        found.append(Stack(patches, vision.depth, 7 * vision.width + 2 * vision.mlp_dim, vision.width))
    return found


def activation_bytes(config: TrainConfig, shape: Shape, rows: int) -> float:
    """What the forward pass of `rows` observations keeps for the backward pass.

    With `recompute` it is the inputs of layers, keys and values that the action expert sees, and one layer whole; the
    vision tower's stem is not computed again.
    """
    kept, vlm = stacks(config, shape), config.model.vlm
    numbers = sum(stack.tokens * stack.layers * stack.inside for stack in kept)
    if config.recompute:
        prefix = shape.views * config.model.vision.num_patches + shape.prompt_tokens
        numbers = 2 * vlm.num_kv_heads * vlm.head_dim * prefix * vlm.depth
        numbers += sum(stack.tokens * stack.layers * stack.width for stack in kept)
        numbers += max(stack.tokens * stack.inside for stack in kept)
    factor = ACTIVATION_COMPILED if config.compile else ACTIVATION_EAGER
    stem = 0.0
    if passes(config.tune, config.lora).vision > 1:
        stem = factor * shape.views * stem_numbers(config.model.vision)
    if config.recompute and config.compile:
        factor = 1.0  # inputs are what they are
    return rows * (factor * numbers + stem) * (4.0 if config.precision == "fp32" else 2.0)


def stem_numbers(vision: SiglipConfig) -> int:
    """Of a picture, what convolutions keep: itself, and what comes out of each, of its norm and of its non-linearity.
    Patches keep the picture, which is there anyway."""
    if vision.stem == "patches":
        return 0
    made = (channels * (vision.image_size >> i) ** 2 for i, channels in enumerate(vision.stem_channels))
    return next(made) + 3 * sum(made)  # the picture is made by none


def predict_seconds(config: TrainConfig, shape: Shape, card: Card, devices: int = 1) -> float | None:
    """Of an optimiser step on each of `devices`: arithmetic, then the optimiser, which is bound by memory.

    Data and communication are taken to be faster. None for products in float32, whose speed is not known.
    """
    if config.precision == "fp32":
        return None
    forward = forward_flops(config.model, shape.views, shape.prompt_tokens, config.draws)
    times = passes(config.tune, config.lora)
    flops = flops_per_sample(config.model, shape.views, shape.prompt_tokens, config.draws, config.tune, config.lora)
    if config.recompute:  # a second forward pass of what has a backward pass
        flops += forward.action + forward.vlm * (times.vlm > 1) + forward.vision * (times.vision > 1)
    efficiency = EFFICIENCY_COMPILED if config.compile else EFFICIENCY_EAGER
    memory = predict_memory(config, shape, devices)
    moved = 2 * (memory.trained + memory.optimizer + memory.average) + 3 * memory.gradients  # norm, step, set to zero
    layers = config.model.vision.depth + config.model.vlm.depth + config.model.action.depth
    adapters = config.tune in ("lora", "qlora")
    slower, launch = (ADAPTER_SLOWDOWN, LAUNCH_SECONDS_ADAPTERS) if adapters else (1.0, LAUNCH_SECONDS)
    arithmetic = config.batch_size / devices * flops / (efficiency * card.flops) * slower
    return max(arithmetic, config.accumulate * layers * launch) + moved / card.bandwidth


def _gemma_numbers(config: GemmaConfig) -> int:
    heads = config.num_heads * config.head_dim
    return 2 * config.width + 2 * heads + 2 * config.num_kv_heads * config.head_dim + 3 * config.mlp_dim
