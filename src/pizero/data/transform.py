"""Frames to model units and actions back to real units: the one place, used by the loader and by every policy."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pizero.data.choice import JointUnits, Normalization, PromptFormat, Resize
from pizero.data.images import blank, check_resize, resize, to_model
from pizero.data.normalize import Normalizer, check_mode, check_raw, refuse_no_spread
from pizero.data.prompt import STATE_EDGES, Tokenizer, check_format
from pizero.data.stats import DatasetStats
from pizero.data.units import Units
from pizero.embodiment import Embodiment
from pizero.frame import Frame
from pizero.types import Actions, Observation


@dataclass(frozen=True)
class TransformConfig:
    """Everything that decides how a robot's units become the model's, but for the statistics and the tokenizer."""

    embodiment: Embodiment
    """The robot: its cameras, its state and action names, the range of its actions."""
    normalization: Normalization = "bounds"
    """How state and actions are scaled: "bounds" as open-pi-zero, "z-score" or "quantile" as openpi, with "lerobot-" in
    front as lerobot, "identity" not at all."""
    raw_state: tuple[str, ...] = ()
    """State dimensions that pass unchanged."""
    raw_actions: tuple[str, ...] = ()
    """Action dimensions that pass unchanged, for example a gripper that is -1 or 1."""
    image_size: int = 224
    """Side of the model's square pictures in pixels."""
    prompt_length: int = 48
    """Most tokens of a prompt, the first and the newline included."""
    state_dim: int = 32
    """Width of the model's state; the robot's is padded to it with zeros."""
    action_dim: int = 32
    """Width of the model's actions; the robot's are padded to it with zeros."""
    horizon: int = 50
    """Timesteps of an action chunk."""
    prompt_format: PromptFormat = "pi0"
    """How an instruction is written for the model, as `prompt.pieces`; "pi05" writes the state into it."""
    resize: Resize = "pad"
    """How a picture becomes `image_size`: "pad" as openpi, "squash" as open-pi-zero, "lerobot" as lerobot."""
    delta_actions: tuple[str, ...] = ()
    """Action dimensions that the model gives relative to the state dimension of the same index at the chunk's start."""
    joint_units: JointUnits = "robot"
    """"pi-aloha": the model takes and gives the joints of an ALOHA as openpi's pre-trained checkpoints do."""

    def __post_init__(self) -> None:
        check_mode(self.normalization)
        check_raw(self.raw_state, self.embodiment.state)
        check_raw(self.raw_actions, self.embodiment.actions)
        check_format(self.prompt_format)
        check_resize(self.resize)
        _ = self.units
        for name, model, robot in (
            ("state_dim", self.state_dim, len(self.embodiment.state)),
            ("action_dim", self.action_dim, len(self.embodiment.actions)),
        ):
            if model < robot:
                raise ValueError(f"{name} is {model}, but {self.embodiment.name} has {robot} dimensions; raise {name}")
        for name, value in (
            ("image_size", self.image_size),
            ("prompt_length", self.prompt_length),
            ("horizon", self.horizon),
        ):
            if value < 1:
                raise ValueError(f"{name} is {value}, must be at least 1")

    @property
    def units(self) -> Units:
        """The units that are normalised. Raises ValueError when the robot does not have them."""
        return Units.of(self.embodiment, self.joint_units, self.delta_actions)

    def to_json(self) -> dict[str, Any]:
        """Plain lists, numbers and strings; `from_json` gives the equal config back."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return plain | {"embodiment": self.embodiment.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "TransformConfig":
        """Raises ValueError that names the keys which are missing or unknown."""
        names = {f.name for f in fields(cls)}
        if set(data) != names:
            raise ValueError(
                f"transform: missing {sorted(names - set(data))}, unknown {sorted(set(data) - names)}; "
                f"expected {sorted(names)}"
            )
        values: dict[str, Any] = {key: tuple(x) if isinstance(x, list) else x for key, x in data.items()}
        return cls(**(values | {"embodiment": Embodiment.from_json(data["embodiment"])}))


class Transform:
    """Real units to model units and back for one robot.

    Raises ValueError when the statistics do not fit the embodiment, or lack what the normalisation needs.
    """

    def __init__(self, config: TransformConfig, stats: DatasetStats, tokenizer: Tokenizer) -> None:
        self.config, self.stats, self.tokenizer = config, stats, tokenizer
        robot = config.embodiment
        self._state = Normalizer(config.normalization, stats.state, robot.state, config.raw_state)
        self._actions = Normalizer(config.normalization, stats.actions, robot.actions, config.raw_actions)
        self._units = config.units

    def __reduce__(self) -> tuple[Callable[..., "Transform"], tuple[TransformConfig, DatasetStats, bytes]]:
        """For worker processes: a tokenizer does not pickle, its file's bytes do."""
        return _unpickled, (self.config, self.stats, self.tokenizer.model_bytes)

    @property
    def action_mask(self) -> Bool[Tensor, " a"]:
        """True for the robot's own action dimensions, False for the padding."""
        return torch.arange(self.config.action_dim) < len(self.config.embodiment.actions)

    def observation(self, frames: Sequence[Frame]) -> Observation:
        """A batch from frames. Absent cameras are black, mask False; masks are always given (`trim` drops them).

        Raises ValueError when a frame does not fit the embodiment, or its prompt is too long.
        """
        robot, size = self.config.embodiment, (self.config.image_size, self.config.image_size)
        images = blank((len(frames), len(robot.cameras), *size, 3), self.config.resize)
        image_mask = np.zeros(images.shape[:2], bool)
        for row, frame in enumerate(frames):
            check_frame(frame, robot)
            for view, camera in enumerate(robot.cameras):
                if camera in frame.images:
                    images[row, view] = resize(frame.images[camera], size, self.config.resize)
                    image_mask[row, view] = True
        state, prompt, prompt_mask = self.numbers(stack_states(frames), [frame.prompt for frame in frames])
        return Observation(to_model(images), prompt, state, torch.from_numpy(image_mask), prompt_mask)

    def numbers(
        self, state: Float[np.ndarray, "b s"], prompts: Sequence[str]
    ) -> tuple[Float[Tensor, "b model_s"], Int[Tensor, "b l"], Bool[Tensor, "b l"]]:
        """An observation but for its pictures: state, prompt and prompt mask; `state` in real units.

        `observation` and the loader share it. Raises ValueError for a state that is not finite, or a long prompt.
        """
        if not np.isfinite(state).all():
            row, i = np.argwhere(~np.isfinite(state))[0]
            raise ValueError(f"state {self.config.embodiment.state[i]!r} is {state[row, i]}, must be finite")
        normalized = self._state.normalize(self._units.state(state))
        prompt, prompt_mask = self.tokenizer.encode_batch(
            prompts, self.config.prompt_length, self.config.prompt_format, normalized
        )
        return torch.from_numpy(_pad(normalized, self.config.state_dim)), prompt, prompt_mask

    def prompt_lengths(self, prompts: Sequence[str]) -> tuple[int, int]:
        """Tokens of the shortest and of the longest prompt.

        Where the state is part of a prompt the longest is that of any state, and the shortest 0: not known. Raises
        ValueError when a prompt is longer than `prompt_length`.
        """
        length, how, width = self.config.prompt_length, self.config.prompt_format, len(self.config.embodiment.state)
        if how != "pi05":
            lengths = self.tokenizer.encode_batch(prompts, length, how)[1].sum(1)
            return int(lengths.min()), int(lengths.max())
        # A number has most tokens where its digits are not merged, and which are depends on the tokenizer: all are
        # tried, with the prompt that is longest with the largest number.
        longest = max(prompts, key=lambda prompt: len(self.tokenizer.encode(prompt, how, np.ones(width))))
        values = np.append(STATE_EDGES, -2.0)  # one of each bin, and one below them
        filled = np.repeat(values[:, None], width, 1)
        return 0, int(self.tokenizer.encode_batch([longest] * len(values), length, how, filled)[1].sum(1).max())

    def actions(
        self, values: Float[np.ndarray, "b t a"], real: Bool[np.ndarray, "b t"], state: Float[np.ndarray, "b s"]
    ) -> Actions:
        """Chunks in model units. `values` in real units; `real` is False for timesteps after the end of the episode.

        `state`, in real units, is that of the frame each chunk starts at.
        """
        if values.shape[-1] != len(self.config.embodiment.actions):
            raise ValueError(
                f"actions have {values.shape[-1]} dimensions, {self.config.embodiment.name} takes "
                f"{len(self.config.embodiment.actions)}: {self.config.embodiment.actions}"
            )
        normalized = _pad(self._actions.normalize(self._units.actions(values, state)), self.config.action_dim)
        mask = torch.from_numpy(real)[:, :, None] & self.action_mask
        return Actions(torch.from_numpy(normalized), mask)

    def invert_actions(
        self, values: Float[Tensor, "b t a"], state: Float[np.ndarray, "b s"]
    ) -> Float[np.ndarray, "b t robot_a"]:
        """The robot's own dimensions in real units, float32, clipped to what the robot accepts, where that is known.

        `state`, in real units, is that of the frames from which the chunks were planned.
        """
        own = values[..., : len(self.config.embodiment.actions)].detach().float().cpu().numpy()
        real = self._units.invert_actions(self._actions.invert(own), state)
        return clip_actions(real.astype(np.float32), self.config.embodiment)


def _unpickled(config: TransformConfig, stats: DatasetStats, tokenizer: bytes) -> Transform:
    return Transform(config, stats, Tokenizer(tokenizer))


def clip_actions(actions: Float[np.ndarray, "*b a"], robot: Embodiment) -> Float[np.ndarray, "*b a"]:
    """Actions within what the robot accepts; unchanged where the embodiment does not know a bound."""
    low = np.array(robot.action_low, actions.dtype) if robot.action_low else None
    high = np.array(robot.action_high, actions.dtype) if robot.action_high else None
    return np.clip(actions, low, high)


def refuse_constant(config: TransformConfig, stats: DatasetStats) -> None:
    """Raises ValueError for a dimension that is normalised and has no spread. For training.

    A checkpoint of another family may have one, and its formula says what becomes of it.
    """
    refuse_no_spread(config.normalization, stats.state, config.embodiment.state, config.raw_state)
    refuse_no_spread(config.normalization, stats.actions, config.embodiment.actions, config.raw_actions)


def stack_states(frames: Sequence[Frame]) -> Float[np.ndarray, "b s"]:
    """The states of frames, float32."""
    return np.stack([frame.state for frame in frames]).astype(np.float32)


def check_frame(frame: Frame, embodiment: Embodiment) -> None:
    """Raises ValueError, naming both sides, when a frame is not one of this robot."""
    if len(frame.state) != len(embodiment.state):
        raise ValueError(
            f"frame has a state of {len(frame.state)} values, {embodiment.name} has {len(embodiment.state)}: "
            f"{embodiment.state}"
        )
    for camera in frame.images:
        if camera not in embodiment.cameras:
            near = difflib.get_close_matches(camera, embodiment.cameras, 1)
            hint = f"; nearest: {near[0]!r}" if near else ""
            raise ValueError(f"frame has camera {camera!r}, {embodiment.name} has {embodiment.cameras}{hint}")
    if not frame.images:
        raise ValueError(
            f"frame has no image; {embodiment.name} has the cameras {embodiment.cameras}, give at least one"
        )


def _pad(values: np.ndarray, width: int) -> np.ndarray:
    padded = np.zeros((*values.shape[:-1], width), np.float32)
    padded[..., : values.shape[-1]] = values
    return padded
