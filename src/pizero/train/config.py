"""Everything that decides what a training run does. No torch here, so that `--help` answers at once."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pizero.data.choice import Normalization, PromptFormat, Resize
from pizero.model.config import Pi0Config
from pizero.weights.json_config import from_json, to_json

TimeDistribution = Literal["beta", "uniform"]
"""As in `flow`, which needs torch."""


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of the training pictures, drawn anew for each; as `data.loader.Augment`, without torch."""

    shift_pixels: int = 0
    """Farthest shift in each direction, at the model's picture size; the edge is repeated. 0: none."""
    brightness: float = 0.0
    """Values are multiplied by 1 - brightness to 1 + brightness. 0: none."""
    contrast: float = 0.0
    """Distances from the picture's mean are multiplied by 1 - contrast to 1 + contrast. 0: none."""

    def __post_init__(self) -> None:
        _check("augment.shift_pixels", self.shift_pixels, self.shift_pixels >= 0, "at least 0")
        _check("augment.brightness", self.brightness, 0 <= self.brightness < 1, "from 0 to below 1")
        _check("augment.contrast", self.contrast, 0 <= self.contrast < 1, "from 0 to below 1")


@dataclass(frozen=True)
class DataConfig:
    """The demonstrations, and how they become model units."""

    root: Path | None = None
    """Folder of the LeRobot data set. Must be given, unless the preset does."""
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
    preload: bool = False
    """Decode all pictures into memory before the first step; for data sets that fit."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Random changes of the pictures."""

    def __post_init__(self) -> None:
        _check("data.prompt_length", self.prompt_length, self.prompt_length >= 3, "at least 3 (begin, token, end)")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, its learning rate over time, and the average of the weights. The defaults are openpi's for pi0."""

    lr: float = 2.5e-5
    """Learning rate after the warm-up."""
    min_lr: float = 2.5e-6
    """Learning rate at the end; it falls from `lr` on a half cosine. Equal to `lr`: it stays."""
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
        _check("optim.min_lr", self.min_lr, 0 <= self.min_lr <= self.lr, f"from 0 to optim.lr = {self.lr}")
        _check("optim.warmup_steps", self.warmup_steps, self.warmup_steps >= 0, "at least 0")
        _check("optim.weight_decay", self.weight_decay, self.weight_decay >= 0, "at least 0")
        _check("optim.betas", self.betas, all(0 <= beta < 1 for beta in self.betas), "two numbers from 0 to below 1")
        _check("optim.eps", self.eps, self.eps > 0, "above 0")
        if self.clip_norm is not None:
            _check("optim.clip_norm", self.clip_norm, self.clip_norm > 0, "above 0, or None")
        if self.ema_decay is not None:
            _check("optim.ema_decay", self.ema_decay, 0 < self.ema_decay < 1, "between 0 and 1, or None")


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
    steps: int = 30_000
    """Optimiser steps."""
    max_seconds: float | None = None
    """Stop after this much time, if `steps` are not done before; the learning rate follows whichever is further. Such a
    run cannot be resumed, since its learning rates depend on the clock. None: no limit."""
    batch_size: int = 32
    """Observations in an optimiser step."""
    accumulate: int = 1
    """Pieces in which a batch is computed, one after the other, to save memory; the result is the same but for
    rounding."""
    draws: int = 1
    """Draws of noise and flow time for each observation, which share its image and prompt tokens."""
    time_distribution: TimeDistribution = "beta"
    """Flow times in training: "beta" (pi0 paper, more weight on early, noisy times) or "uniform"."""
    sigma_min: float = 0.001
    """Noise left on the training path at t = 1, as `flow.SIGMA_MIN`; openpi has 0."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Of the network's arithmetic: "bf16" is autocast. Weights, their average and the optimiser are always fp32."""
    seed: int = 0
    """Of the fresh weights, the order of the data, augmentation, noise and flow times."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1" ...; "auto" is cuda where there is one."""
    compile: bool = False
    """Compile the network with torch.compile: faster after a slow start."""
    init: Path | None = None
    """Folder of weights to start from: a checkpoint of ours, or a PaliGemma of Hugging Face. None: fresh weights."""
    freeze_vlm: bool = False
    """Train the action expert and the heads only, the vision tower and the vlm keep the weights of `init`."""
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

    def __post_init__(self) -> None:
        for name, value in (
            ("steps", self.steps),
            ("batch_size", self.batch_size),
            ("accumulate", self.accumulate),
            ("draws", self.draws),
            ("save_every", self.save_every),
            ("keep", self.keep),
            ("log_every", self.log_every),
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
        if self.freeze_vlm and self.init is None:
            raise ValueError("freeze_vlm without init would keep a random vision tower and vlm; give init")
        if self.device.partition(":")[0] not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device is {self.device!r}, must be auto, cpu, cuda or cuda:N")


def config_to_json(config: TrainConfig) -> dict[str, object]:
    """Plain JSON; `config_from_json` gives the equal config back."""
    data: dict[str, object] = to_json(config)
    return data


def config_from_json(data: object, place: str) -> TrainConfig:
    """Strict: raises ValueError that names keys which are missing, unknown or of another type, and `place`."""
    return from_json(TrainConfig, data, place)


def _check(name: str, value: object, good: bool, allowed: str) -> None:
    if not good:
        raise ValueError(f"{name} is {value}, must be {allowed}")
