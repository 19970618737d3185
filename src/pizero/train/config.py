"""Everything that decides what a training run does. No torch here, so that `--help` answers at once."""

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pizero.data.choice import JointUnits, Normalization, PromptFormat, Resize
from pizero.model.config import Pi0Config
from pizero.weights.json_config import from_json, to_json

LORA_TARGETS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "out_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
    "fc1",
    "fc2",
)
"""Last names of the linear layers of the vision tower and of both experts."""
TimeDistribution = Literal["beta", "uniform"]
"""As in `flow`, which needs torch."""


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of the training pictures, drawn anew for each; computed on the device that trains."""

    crop: float = 1.0
    """Side of the random crop, which is scaled back, as a part of the picture's (openpi: 0.95). 1: none."""
    rotate_deg: float = 0.0
    """Largest rotation in either direction, in degrees (openpi: 5). 0: none."""
    shift_pixels: int = 0
    """Farthest shift in each direction, at the model's picture size; the edge is repeated. 0: none."""
    brightness: float = 0.0
    """Values are multiplied by 1 - brightness to 1 + brightness (openpi: 0.3). 0: none."""
    contrast: float = 0.0
    """Distances from the picture's mean grey are multiplied by 1 - contrast to 1 + contrast (openpi: 0.4). 0: none."""
    saturation: float = 0.0
    """Distances of the colours from their grey are multiplied by 1 - saturation to 1 + saturation (openpi: 0.5)."""
    still_cameras: tuple[str, ...] = ()
    """Cameras that are not cropped, rotated or shifted, such as one on the wrist (openpi); colours change there too."""

    def __post_init__(self) -> None:
        _check("augment.crop", self.crop, 0 < self.crop <= 1, "above 0 and at most 1")
        _check("augment.rotate_deg", self.rotate_deg, 0 <= self.rotate_deg <= 180, "from 0 to 180")
        _check("augment.shift_pixels", self.shift_pixels, self.shift_pixels >= 0, "at least 0")
        for name, value in (
            ("brightness", self.brightness),
            ("contrast", self.contrast),
            ("saturation", self.saturation),
        ):
            _check(f"augment.{name}", value, 0 <= value < 1, "from 0 to below 1")


@dataclass(frozen=True)
class DataConfig:
    """The demonstrations, and how they become model units."""

    root: Path | None = None
    """Folder of the data set, LeRobot (v3.0, v2.1) or RLDS. Must be given, or `mix`, unless the preset does."""
    mix: tuple[str, ...] = ()
    """Several data sets in place of `root`, each as FOLDER=WEIGHT: the parts of a batch that come from them. Of one
    robot or of several; each robot is normalised with the statistics of its own data."""
    held_out: float = 0.0
    """Part of the episodes of each data set that is not trained on but validated on; 0: none."""
    normalization: Normalization = "bounds"
    """How state and actions are scaled with the data set's own statistics: "bounds" maps the 1 % and 99 % quantiles to
    -1 and 1 and clips (open-pi-zero), "quantile" does not clip (openpi, pi0.5), "z-score" gives mean 0 and deviation 1
    (openpi, pi0). With "lerobot-" in front, as lerobot rounds; "identity" scales nothing."""
    raw_state: tuple[str, ...] = ()
    """Names of state dimensions that are passed on unchanged."""
    raw_actions: tuple[str, ...] = ()
    """Names of action dimensions that are passed on unchanged, such as a gripper of 0 and 1."""
    delta_actions: tuple[str, ...] = ()
    """Names of action dimensions that the model gives relative to the state dimension of the same index, at the start
    of the chunk (openpi's delta actions). The statistics are then those of the relative chunks."""
    prompt_format: PromptFormat = "pi0"
    """How an instruction is written for the model: as openpi for pi0, as lerobot, as open-pi-zero, or as pi0.5, with
    the state in it or without."""
    prompt_length: int = 48
    """Most tokens a prompt may have."""
    resize: Resize = "pad"
    """How pictures get the model's size: "pad" keeps their shape, averages and adds black (openpi), "squash" stretches
    them (open-pi-zero), "lerobot" keeps their shape, does not average and adds black."""
    tokenizer: Path | None = None
    """Sentencepiece model or tokenizer.json of the prompts. None: the one of `init`; without `init`, a small one is
    trained on the data set's own prompts."""
    joint_units: JointUnits = "robot"
    """Whose units joints are in: the robot's own, or, "pi-aloha", those of openpi's pre-trained ALOHA checkpoints."""
    preload: bool = False
    """Decode all pictures into memory before the first step; for data sets that fit."""
    workers: int = 0
    """Processes on each host process that decode pictures; 0: a thread of the training process does."""
    corrupt: Literal["stop", "skip"] = "stop"
    """What a picture that cannot be decoded does: "stop" the run, or "skip": another frame takes its place, counted in
    the log."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Random changes of the pictures."""

    def __post_init__(self) -> None:
        _check("data.prompt_length", self.prompt_length, self.prompt_length >= 3, "at least 3 (begin, token, end)")
        _check("data.held_out", self.held_out, 0 <= self.held_out < 1, "from 0 to below 1")
        _check("data.workers", self.workers, self.workers >= 0, "at least 0")
        if self.mix and self.root is not None:
            raise ValueError("data.root and data.mix are both given; give one of them")
        if self.preload and self.workers:
            raise ValueError(
                "data.workers has no effect with data.preload, whose pictures are in memory; leave one out"
            )
        self.sources()

    def sources(self) -> list[tuple[Path, float]]:
        """Each data set's folder and its part of a batch; the parts add up to 1. Empty when none is given."""
        if self.root is not None:
            return [(self.root, 1.0)]
        pairs = [_source(entry) for entry in self.mix]
        total = sum(weight for _, weight in pairs)
        if len({folder for folder, _ in pairs}) < len(pairs):
            raise ValueError(f"data.mix names a folder twice: {self.mix}; give it once, with the sum of the weights")
        return [(folder, weight / total) for folder, weight in pairs]


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, its learning rate over time, and the average of the weights. The defaults are openpi's for pi0."""

    kind: Literal["adamw", "adamw8bit"] = "adamw"
    """ "adamw8bit" keeps AdamW's averages in 8 bits each: a quarter of the memory (pizero[train] installs it)."""
    lr: float = 2.5e-5
    """Learning rate after the warm-up."""
    vlm_lr: float | None = None
    """Learning rate of vision tower, projector, token embedding and vlm, which follows the same curve. None: `lr`."""
    min_lr: float | None = 2.5e-6
    """Learning rate at the end; it falls from `lr` on a half cosine. None: it stays at `lr`."""
    warmup_steps: int = 1000
    """The learning rate grows in a line over this many steps."""
    weight_decay: float = 1e-10
    """Decoupled weight decay, of matrices only (not of biases and norms)."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of AdamW's averages of the gradient and of its square."""
    eps: float = 1e-8
    """Added to the denominator of AdamW."""
    clip_norm: float | None = 1.0
    """Gradients are scaled down to this norm when theirs is larger. None: never."""
    ema_decay: float | None = 0.99
    """Decay of the running average of the weights, which is what a checkpoint holds. None: no average."""

    def __post_init__(self) -> None:
        _check("optim.lr", self.lr, self.lr > 0, "above 0")
        if self.vlm_lr is not None:
            _check("optim.vlm_lr", self.vlm_lr, self.vlm_lr > 0, "above 0, or None")
        if self.min_lr is not None:
            _check("optim.min_lr", self.min_lr, 0 <= self.min_lr <= self.lr, f"from 0 to optim.lr = {self.lr}, or None")
        _check("optim.warmup_steps", self.warmup_steps, self.warmup_steps >= 0, "at least 0")
        _check("optim.weight_decay", self.weight_decay, self.weight_decay >= 0, "at least 0")
        _check("optim.betas", self.betas, all(0 <= beta < 1 for beta in self.betas), "two numbers from 0 to below 1")
        _check("optim.eps", self.eps, self.eps > 0, "above 0")
        if self.clip_norm is not None:
            _check("optim.clip_norm", self.clip_norm, self.clip_norm > 0, "above 0, or None")
        if self.ema_decay is not None:
            _check("optim.ema_decay", self.ema_decay, 0 < self.ema_decay < 1, "between 0 and 1, or None")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters: W becomes W + alpha / rank * B A, of which A and B are trained (Hu et al. 2021)."""

    rank: int = 32
    """Rows of A, columns of B."""
    alpha: float = 32.0
    """Scale of the adapters, times the rank."""
    dropout: float = 0.0
    """Part of an adapter's inputs that is set to zero in training."""
    targets: tuple[str, ...] = LORA_TARGETS
    """Last names of the linear layers that get an adapter."""
    vision: bool = False
    """Whether the vision tower gets adapters; else it runs forward only, which saves a fifth of the time."""
    vlm: bool = True
    """Whether the vlm does."""
    action: bool = True
    """Whether the action expert does. The action heads are always trained whole."""

    def __post_init__(self) -> None:
        _check("lora.rank", self.rank, self.rank >= 1, "at least 1")
        _check("lora.alpha", self.alpha, self.alpha > 0, "above 0")
        _check("lora.dropout", self.dropout, 0 <= self.dropout < 1, "from 0 to below 1")
        for name in self.targets:
            if name not in LORA_TARGETS:
                near = difflib.get_close_matches(name, LORA_TARGETS, 1)
                hint = f", did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"lora.targets has {name!r}{hint}; linear layers are called {', '.join(LORA_TARGETS)}")
        if not (self.targets and (self.vision or self.vlm or self.action)):
            raise ValueError("lora adapts nothing: give targets, and vision, vlm or action")


@dataclass(frozen=True)
class TrainConfig:
    """A training run."""

    name: str
    """Name of the run."""
    output: Path
    """Folder of the run: checkpoints, metrics.jsonl, tensorboard/."""
    model: Pi0Config = field(default_factory=Pi0Config)
    """Sizes of the network."""
    data: DataConfig = field(default_factory=DataConfig)
    """The demonstrations."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimiser."""
    tune: Literal["full", "expert", "lora", "qlora"] = "full"
    """What is trained: everything ("full"), the action expert and the heads ("expert"), low-rank adapters and the heads
    ("lora"), or those over a base of 4 bits a weight ("qlora"). Frozen weights are kept in bfloat16 with a `precision`
    of bf16."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """The adapters of "lora" and "qlora"."""
    steps: int = 30_000
    """Optimiser steps."""
    max_seconds: float | None = None
    """Stop after this much time, if `steps` are not done before; the learning rate follows whichever is further. Such a
    run cannot be resumed, since its learning rates depend on the clock. None: no limit."""
    batch_size: int = 32
    """Observations in an optimiser step, on all processes together."""
    accumulate: int = 1
    """Pieces in which each process computes its part of a batch, one after the other, to save memory; the result is
    the same but for rounding."""
    recompute: bool = False
    """Keep only the inputs of layers for the backward pass, and compute the rest again: less memory, a third more
    arithmetic (activation checkpointing)."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How several processes (torchrun) share the work: each with all weights ("ddp"), or each with a part of weights,
    gradients and optimiser state ("fsdp"). Of no meaning in one process."""
    draws: int = 1
    """Draws of noise and flow time for each observation, which share its image and prompt tokens."""
    time_distribution: TimeDistribution = "beta"
    """Flow times in training: "beta" (pi0 paper, more weight on early, noisy times) or "uniform"."""
    sigma_min: float = 0.001
    """Noise left on the training path at t = 1, as `flow.SIGMA_MIN`; openpi has 0."""
    precision: Literal["fp32", "bf16", "bf16-pure"] = "bf16"
    """Of the network's arithmetic. "bf16": matrix products in bfloat16, weights, their gradients and the optimiser in
    float32; "bf16-pure": weights and gradients in bfloat16 too, which are rounded stochastically when they change (half
    the memory). Norms, softmax, loss, heads and the average of the weights are float32 always."""
    seed: int = 0
    """Of the fresh weights, the order of the data, augmentation, noise and flow times."""
    device: str = "auto"
    """ "cpu", "cuda", "cuda:1" ...; "auto" is cuda where there is one."""
    compile: bool = True
    """Compile the network's layers with torch.compile: faster after a slow start."""
    graph: bool = False
    """Capture forward and backward pass as a CUDA graph: faster where a step of a small network is bound by Python, of
    no use for large ones. For one process, one piece per batch, and neither 4-bit weights nor dropout."""
    init: Path | None = None
    """Folder of weights to start from: a checkpoint of ours, or a PaliGemma of Hugging Face. None: fresh weights."""
    resume: bool = False
    """Go on from the newest checkpoint in `output`, as if the run had not been interrupted."""
    save_every: int = 5_000
    """Steps between checkpoints. The last step is always saved."""
    keep: int = 1
    """Newest checkpoints to keep; older ones are deleted."""
    log_every: int = 50
    """Steps between lines of metrics. Losses and gradient norms in them are means over these steps."""
    tensorboard: bool = True
    """Write the metrics for TensorBoard too, to `output`/tensorboard."""
    wandb: str | None = None
    """Project of Weights & Biases to which the metrics go too (`pip install wandb`). None: not used."""
    validate_every: int = 1_000
    """Steps between validations on the held-out episodes (`data.held_out`); the last step is always one."""
    validate_frames: int = 256
    """Frames of the held-out episodes that a validation looks at, evenly spread."""
    dry_run: bool = False
    """Predict memory and time per step from this config, say which recipes fit the card, and stop: nothing is loaded,
    nothing is written."""

    def __post_init__(self) -> None:
        for name, value in (
            ("steps", self.steps),
            ("batch_size", self.batch_size),
            ("accumulate", self.accumulate),
            ("draws", self.draws),
            ("save_every", self.save_every),
            ("keep", self.keep),
            ("log_every", self.log_every),
            ("validate_every", self.validate_every),
            ("validate_frames", self.validate_frames),
        ):
            _check(name, value, value >= 1, "at least 1")
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate is {self.accumulate}, must divide batch_size = {self.batch_size}")
        if self.optim.warmup_steps >= self.steps:
            raise ValueError(f"optim.warmup_steps is {self.optim.warmup_steps}, must be below steps = {self.steps}")
        _check("sigma_min", self.sigma_min, 0 <= self.sigma_min < 1, "from 0 to below 1")
        _check("seed", self.seed, 0 <= self.seed < 2**32, "from 0 to 2^32 - 1")
        if self.max_seconds is not None:
            _check("max_seconds", self.max_seconds, self.max_seconds > 0, "above 0, or None")
            if self.resume:
                raise ValueError("resume continues bit for bit, which max_seconds makes impossible; use steps alone")
        if self.tune != "full" and self.init is None:
            raise ValueError(f"tune {self.tune} without init would keep random weights; give init, or tune full")
        if self.tune not in ("lora", "qlora") and self.lora != LoraConfig():
            raise ValueError(f"lora has no effect with tune {self.tune}; give --tune lora or qlora, or leave it out")
        if self.tune in ("lora", "qlora") and self.precision == "bf16-pure":
            raise ValueError(
                f"precision bf16-pure has no effect with tune {self.tune}, whose trained weights are float32 and whose "
                "frozen ones are bfloat16 already; give --precision bf16"
            )
        if self.tune == "qlora" and self.parallel == "fsdp":
            raise ValueError(
                "tune qlora does not work with parallel fsdp: 4-bit weights are not split; use ddp, or lora"
            )
        if self.graph and (self.accumulate > 1 or self.tune == "qlora" or self.lora.dropout):
            raise ValueError(
                f"graph works with accumulate 1, no dropout and no 4-bit weights; accumulate is {self.accumulate}, "
                f"lora.dropout {self.lora.dropout}, tune {self.tune}: give --no-graph, or change them"
            )
        if self.device.partition(":")[0] not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device is {self.device!r}, must be auto, cpu, cuda or cuda:N")


def config_to_json(config: TrainConfig) -> dict[str, object]:
    """Plain JSON; `config_from_json` gives the equal config back."""
    data: dict[str, object] = to_json(config)
    return data


def config_from_json(data: object, place: str) -> TrainConfig:
    """Strict: raises ValueError that names keys which are missing, unknown or of another type, and `place`."""
    return from_json(TrainConfig, data, place)


def _source(entry: str) -> tuple[Path, float]:
    folder, separator, weight = entry.rpartition("=")
    try:
        value = float(weight)
    except ValueError:
        value = 0.0
    if not separator or not folder or not 0 < value < float("inf"):
        raise ValueError(
            f"data.mix has {entry!r}, must be FOLDER=WEIGHT with a weight above 0, such as runs/drawer=0.5"
        )
    return Path(folder), value


def _check(name: str, value: object, good: bool, allowed: str) -> None:
    if not good:
        raise ValueError(f"{name} is {value}, must be {allowed}")
