"""What a robot sees and does at one instant, in real units; numpy only, so that robot computers can import it."""

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

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


@runtime_checkable
class Policy(Protocol):
    """Anything that turns what the robot sees into what it should do next."""

    def act(self, frame: Frame) -> np.ndarray:
        """Action chunk (t, a), float32, in the units of the embodiment's `actions`; row 0 is for now."""
        ...


IMAGE_KEY = "images."
"""A frame file has one array per camera, whose name follows this."""


def save_frame(path: Path, frame: Frame) -> None:
    """Write a frame as an .npz file: `images.<camera>`, `state` and `prompt`; written aside and renamed."""
    aside = path.with_name(path.name + ".part")
    arrays: dict[str, Any] = {IMAGE_KEY + camera: image for camera, image in frame.images.items()}
    arrays |= {"state": frame.state, "prompt": np.array(frame.prompt)}
    with aside.open("wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(aside, path)


def load_frame(path: Path) -> Frame:
    """The frame in an .npz file. Raises ValueError when the file is missing, is no .npz, or holds other arrays."""
    if not path.is_file():
        raise ValueError(f"frame file {path} does not exist")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"frame file {path} cannot be read as .npz: {error}") from None
    if missing := {"state", "prompt"} - set(arrays):
        raise ValueError(f"frame file {path} has no {', '.join(sorted(missing))}; it has {', '.join(sorted(arrays))}")
    images = {key.removeprefix(IMAGE_KEY): x for key, x in arrays.items() if key.startswith(IMAGE_KEY)}
    if unknown := set(arrays) - {"state", "prompt"} - {IMAGE_KEY + camera for camera in images}:
        raise ValueError(
            f"frame file {path} has unknown arrays {', '.join(sorted(unknown))}; pictures are named {IMAGE_KEY}<camera>"
        )
    return Frame(images, arrays["state"].astype(np.float32), str(arrays["prompt"]))
