"""Random changes of training pictures: every sample and view has its own, computed on the device that trains.

The order is openpi's: crop and scale back, rotate, shift, then brightness, contrast and saturation
(src/openpi/models/model.py, preprocess_observation; the colour formulas are those of preprocessing_pytorch.py).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from pizero.data.images import to_model_range, to_model_tensor

AUGMENT_STREAM = 1
"""Keeps the random numbers apart from those of the order of samples."""
NUM_DRAWS = 8
"""Random numbers of a picture: crop down and right, angle, shift down and right, brightness, contrast, saturation."""


@dataclass(frozen=True)
class Changes:
    """What happens to each picture of a batch; `Augmentation.draw` gives one, `apply_changes` does it."""

    crop: Float[np.ndarray, "b v 3"]
    """Top and left corner of the crop, and its side, as parts of the picture: 0, 0, 1 is all of it."""
    rotate_deg: Float[np.ndarray, "b v"]
    """Angle, clockwise for whoever looks at the picture."""
    shift: Float[np.ndarray, "b v 2"]
    """Pixels down and to the right by which the picture is looked at: its content moves the other way."""
    brightness: Float[np.ndarray, "b v"]
    """Factor of all values."""
    contrast: Float[np.ndarray, "b v"]
    """Factor of the distances from the picture's mean grey."""
    saturation: Float[np.ndarray, "b v"]
    """Factor of the distances of the colours from the mean of their three values."""

    @property
    def move(self) -> bool:
        """Whether a picture is cropped, rotated or shifted."""
        return bool((self.crop != (0, 0, 1)).any() or self.rotate_deg.any() or self.shift.any())


@dataclass(frozen=True)
class Augmentation:
    """How far pictures are changed at random. The fields are those of the training config.

    Raises ValueError for a number out of its range.
    """

    seed: int
    """Of the random numbers."""
    moving: Bool[np.ndarray, "sources v"]
    """False for the views of each source that keep their place: only their colours change."""
    crop: float = 1.0
    """Side of the crop, as a part of the picture's. 1: none."""
    rotate_deg: float = 0.0
    """Largest rotation in either direction. 0: none."""
    shift_pixels: int = 0
    """Farthest shift in each direction, in whole pixels. 0: none."""
    brightness: float = 0.0
    """The factor is from 1 - brightness to 1 + brightness. 0: none."""
    contrast: float = 0.0
    """Likewise."""
    saturation: float = 0.0
    """Likewise."""

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop is {self.crop}, must be above 0 and at most 1")
        for name, value in (("rotate_deg", self.rotate_deg), ("shift_pixels", self.shift_pixels)):
            if value < 0:
                raise ValueError(f"{name} is {value}, must be at least 0")
        for name, value in (
            ("brightness", self.brightness),
            ("contrast", self.contrast),
            ("saturation", self.saturation),
        ):
            if not 0 <= value < 1:
                raise ValueError(f"{name} is {value}, must be from 0 to below 1")

    def draw(self, step: int, rows: Int[np.ndarray, " b"], source: Int[np.ndarray, " b"]) -> Changes:
        """The changes of some rows of a step's whole batch.

        They depend on the seed, the step and the row alone, not on the other rows, processes or devices.
        """
        views = self.moving.shape[1]
        # row after row from one stream, so that a row's numbers do not depend on how many rows follow
        stream = np.random.default_rng([self.seed, AUGMENT_STREAM, step])
        drawn = stream.random((int(rows.max()) + 1, views, NUM_DRAWS))[rows]
        moving = self.moving[source]
        side = np.where(moving, self.crop, 1.0)
        corner = drawn[..., :2] * (1 - side)[..., None]
        angle = self.rotate_deg * (2 * drawn[..., 2] - 1) * moving
        shift = (np.floor(drawn[..., 3:5] * (2 * self.shift_pixels + 1)) - self.shift_pixels) * moving[..., None]
        color = 1 + (2 * drawn[..., 5:] - 1) * (self.brightness, self.contrast, self.saturation)
        return Changes(
            np.concatenate([corner, side[..., None]], -1), angle, shift, color[..., 0], color[..., 1], color[..., 2]
        )


def apply_changes(
    images: UInt8[Tensor, "b v h w 3"] | Float[Tensor, "b v h w 3"], changes: Changes
) -> Float[Tensor, "b v 3 h w"]:
    """Changed pictures in [-1, 1], from uint8 or float32 in [0, 1], on their device; computed in float32.

    Changes that do nothing give `to_model_tensor` bit for bit. What comes in from outside a picture repeats its edge.
    """
    whole = images.dtype == torch.uint8
    values = images.flatten(0, 1).movedim(-1, -3).float()
    if changes.move:
        values = _sample(values, _positions(changes, values.shape[-2], values.shape[-1]))
    values = _recolor(values.contiguous(), changes).clamp_(0, 255 if whole else 1)
    return to_model_range(values, whole).unflatten(0, images.shape[:2])


def changed_or_plain(
    images: UInt8[Tensor, "b v h w 3"] | Float[Tensor, "b v h w 3"], changes: Changes | None
) -> Float[Tensor, "b v 3 h w"]:
    """`apply_changes`, or `to_model_tensor` where there are none."""
    return to_model_tensor(images) if changes is None else apply_changes(images, changes)


def _positions(changes: Changes, height: int, width: int) -> Float[np.ndarray, "n 2 3"]:
    """For each picture the affine map from a pixel (right, down, 1) to the place that it shows, in pixels."""
    n, size = changes.rotate_deg.size, np.array([width, height])
    centre = (size - 1) / 2
    angle = np.deg2rad(changes.rotate_deg.reshape(n))
    # clockwise on the screen, where down is positive: what a pixel shows lies counterclockwise of it
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1)
    shift = changes.shift.reshape(n, 2)[:, ::-1]
    top, left, side = changes.crop.reshape(n, 3).T
    # shift, then rotate around the centre, then into the crop, whose pixel edges (not centres) are scaled
    offset = (turn @ (shift - centre)[..., None])[..., 0] + centre
    corner = np.stack([left, top], -1) * size
    offset = (offset + 0.5) * side[:, None] - 0.5 + corner
    return np.concatenate([turn * side[:, None, None], offset[..., None]], -1)


def _sample(values: Float[Tensor, "n 3 h w"], maps: Float[np.ndarray, "n 2 3"]) -> Float[Tensor, "n 3 h w"]:
    """The pictures at the mapped places, bilinear; places outside are moved to the edge."""
    height, width = values.shape[-2:]
    affine = _to_device(maps, values.device)[:, :, :, None, None]  # n 2 3 1 1
    down = torch.arange(height, device=values.device, dtype=torch.float32)[:, None]
    right = torch.arange(width, device=values.device, dtype=torch.float32)
    # written out: a matrix product would round, to TF32 on a GPU that is allowed to
    x = (affine[:, 0, 0] * right + affine[:, 0, 1] * down + affine[:, 0, 2]).clamp_(0, width - 1)
    y = (affine[:, 1, 0] * right + affine[:, 1, 1] * down + affine[:, 1, 2]).clamp_(0, height - 1)
    # grid_sample counts in parts of the picture. With sides that are powers of two that is exact, so that whole pixels
    # stay what they are; the margin is never seen, for places are inside already.
    side = 1 << (max(height, width) - 1).bit_length()
    padded = torch.nn.functional.pad(values, (0, side - width, 0, side - height))
    grid = torch.stack([(2 * x + 1) / side - 1, (2 * y + 1) / side - 1], -1)
    return torch.nn.functional.grid_sample(padded, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _recolor(values: Float[Tensor, "n 3 h w"], changes: Changes) -> Float[Tensor, "n 3 h w"]:
    """Brightness, contrast and saturation; written as gain and offset, so that factors of 1 change no bit."""
    brightness, contrast, saturation = (
        _to_device(factor.reshape(-1, 1, 1, 1), values.device)
        for factor in (changes.brightness, changes.contrast, changes.saturation)
    )
    mean = values.mean((1, 2, 3), keepdim=True)
    values = values * (brightness * contrast) + mean * (brightness * (1 - contrast))
    grey = values.mean(1, keepdim=True)
    return values * saturation + grey * (1 - saturation)


def _to_device(numbers: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(numbers, np.float32))
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
