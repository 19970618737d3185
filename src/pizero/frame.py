"""What a robot sees and does at one instant, in real units; numpy only, so that robot computers can import it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Frame:
    """One observation of a robot in real units.

    Raises ValueError when an image is not uint8 of shape (height, width, 3) or the state is not a vector.
    """

    images: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Camera name -> uint8 picture (height, width, 3), RGB, upright. A camera left out is absent."""
    state: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """Proprioception (s,), in the order and units of the embodiment's `state` names."""
    prompt: str = ""
    """The instruction, as a person would say it."""

    def __post_init__(self) -> None:
        for camera, image in self.images.items():
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(
                    f"image of camera {camera!r} is {image.dtype} {image.shape}; a frame takes uint8 (height, width, 3)"
                )
        if self.state.ndim != 1:
            raise ValueError(f"state has shape {self.state.shape}; a frame takes a vector")


class Policy(Protocol):
    """Anything that turns what the robot sees into what it should do next."""

    def act(self, frame: Frame) -> np.ndarray:
        """Action chunk (t, a), float32, in the units of the embodiment's `actions`; row 0 is for now."""
        ...
