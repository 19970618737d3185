"""Frames to model units and actions back to real units: the one place, used by the loader and by every policy."""

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from pizero.data.images import resize_with_pad, to_model
from pizero.data.normalize import Normalization, Normalizer, check_mode, check_raw
from pizero.data.prompt import Tokenizer
from pizero.data.stats import DatasetStats
from pizero.embodiment import Embodiment
from pizero.frame import Frame
from pizero.types import Actions, Observation


@dataclass(frozen=True)
class TransformConfig:
    """Everything that decides how a robot's units become the model's, but for the statistics and the tokenizer."""

    embodiment: Embodiment
    """The robot: its cameras, its state and action names, the range of its actions."""
    normalization: Normalization = "bounds"
    """How state and actions are scaled: "bounds" as open-pi-zero, "z-score" or "quantile" as openpi."""
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

    def __post_init__(self) -> None:
        check_mode(self.normalization)
        check_raw(self.raw_state, self.embodiment.state)
        check_raw(self.raw_actions, self.embodiment.actions)
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

    Raises ValueError when the statistics do not fit the embodiment or a dimension that is not raw has no spread.
    """

    def __init__(self, config: TransformConfig, stats: DatasetStats, tokenizer: Tokenizer) -> None:
        self.config, self.stats, self.tokenizer = config, stats, tokenizer
        robot = config.embodiment
        self._state = Normalizer(config.normalization, stats.state, robot.state, config.raw_state)
        self._actions = Normalizer(config.normalization, stats.actions, robot.actions, config.raw_actions)
        self._low, self._high = np.array(robot.action_low, np.float32), np.array(robot.action_high, np.float32)

    @property
    def action_mask(self) -> Bool[Tensor, " a"]:
        """True for the robot's own action dimensions, False for the padding."""
        return torch.arange(self.config.action_dim) < len(self.config.embodiment.actions)

    def observation(self, frames: Sequence[Frame]) -> Observation:
        """A batch from frames. Absent cameras are black, mask False; masks are always given (`trim` drops them).

        Raises ValueError when a frame does not fit the embodiment, or its prompt is too long.
        """
        robot, size = self.config.embodiment, (self.config.image_size, self.config.image_size)
        images = np.zeros((len(frames), len(robot.cameras), *size, 3), np.uint8)
        image_mask = np.zeros(images.shape[:2], bool)
        for row, frame in enumerate(frames):
            check_frame(frame, robot)
            for view, camera in enumerate(robot.cameras):
                if camera in frame.images:
                    images[row, view] = resize_with_pad(frame.images[camera], size)
                    image_mask[row, view] = True
        state = np.stack([frame.state for frame in frames]).astype(np.float32)
        return self.assemble(images, image_mask, state, [frame.prompt for frame in frames])

    def assemble(
        self,
        images: UInt8[np.ndarray, "b v h w 3"],
        image_mask: Bool[np.ndarray, "b v"],
        state: Float[np.ndarray, "b s"],
        prompts: Sequence[str],
    ) -> Observation:
        """A batch from arrays: pictures of the model's size, real units. `observation` and the loader end here."""
        if not np.isfinite(state).all():
            row, i = np.argwhere(~np.isfinite(state))[0]
            raise ValueError(f"state {self.config.embodiment.state[i]!r} is {state[row, i]}, must be finite")
        prompt, prompt_mask = self.tokenizer.encode_batch(prompts, self.config.prompt_length)
        return Observation(
            images=to_model(images),
            prompt=prompt,
            state=torch.from_numpy(_pad(self._state.normalize(state), self.config.state_dim)),
            image_mask=torch.from_numpy(image_mask),
            prompt_mask=prompt_mask,
        )

    def actions(self, values: Float[np.ndarray, "b t a"], real: Bool[np.ndarray, "b t"]) -> Actions:
        """Chunks in model units. `values` in real units; `real` is False for timesteps after the end of the episode."""
        if values.shape[-1] != len(self.config.embodiment.actions):
            raise ValueError(
                f"actions have {values.shape[-1]} dimensions, {self.config.embodiment.name} takes "
                f"{len(self.config.embodiment.actions)}: {self.config.embodiment.actions}"
            )
        normalized = _pad(self._actions.normalize(values), self.config.action_dim)
        mask = torch.from_numpy(real)[:, :, None] & self.action_mask
        return Actions(torch.from_numpy(normalized), mask)

    def invert_actions(self, values: Float[Tensor, "b t a"]) -> Float[np.ndarray, "b t robot_a"]:
        """The robot's own dimensions in real units, float32, clipped to what the robot accepts."""
        own = values[..., : len(self.config.embodiment.actions)].detach().float().cpu().numpy()
        return np.clip(self._actions.invert(own).astype(np.float32), self._low, self._high)


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
