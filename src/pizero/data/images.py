"""Pictures: any size of uint8 outside, the model's square in [-1, 1] inside; converted here and nowhere else."""

from functools import lru_cache
from typing import get_args

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from pizero.data.choice import Resize

HALF_RANGE = np.float32(127.5)
"""uint8 / 127.5 - 1 is bit for bit x / 255 * 2 - 1 (openpi, src/openpi/models/model.py), since doubling is exact."""
LANCZOS_LOBES = 4
"""Pixels on each side of a point that its value is made of, OpenCV's INTER_LANCZOS4."""
LANCZOS_UNIT = 2048
"""OpenCV keeps the weights of its kernels as whole 2048ths."""


def check_resize(how: str) -> None:
    """Raises ValueError for a way of resizing that does not exist."""
    if how not in get_args(Resize):
        raise ValueError(f"resize {how!r} is unknown; choose one of {get_args(Resize)}")


def resize(
    image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int], how: Resize
) -> UInt8[np.ndarray, "height width 3"] | Float[np.ndarray, "height width 3"]:
    """The picture at (height, width), as the checkpoint's family resizes.

    "pad" is `resize_with_pad` (openpi's client), "squash" `resize_squashed` (open-pi-zero): uint8. "lerobot" is
    `resize_interpolated`: float32 in [0, 1], since lerobot does not round.
    """
    if how == "lerobot":
        return resize_interpolated(image, size)
    return resize_squashed(image, size) if how == "squash" else resize_with_pad(image, size)


def blank(shape: tuple[int, ...], how: Resize) -> UInt8[np.ndarray, "..."] | Float[np.ndarray, "..."]:
    """Black pictures of the type that `resize` gives."""
    return np.zeros(shape, np.float32 if how == "lerobot" else np.uint8)


def resize_with_pad(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
    """The whole picture inside (height, width), its aspect ratio kept, centred on black.

    PIL's bilinear filter on uint8, bit for bit openpi's client (packages/openpi-client, image_tools.py). A picture that
    has the size already is returned as it is, not copied.
    """
    height, width = size
    if image.shape[:2] == size:
        return image
    inner_height, inner_width = inner_size(image.shape[:2], size)
    resized = Image.fromarray(image).resize((inner_width, inner_height), resample=Image.Resampling.BILINEAR)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    padded = np.zeros((height, width, 3), np.uint8)
    padded[top : top + inner_height, left : left + inner_width] = np.asarray(resized)
    return padded


def resize_squashed(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
    """The whole picture stretched to (height, width), its aspect ratio lost.

    OpenCV's INTER_LANCZOS4 on uint8, as open-pi-zero's evaluation calls it: a kernel of fixed width, so nothing is
    averaged when the picture shrinks; the edge is repeated. A picture that has the size already is returned as it is.
    """
    if image.shape[:2] == size:
        return image
    # whole numbers all the way, below 2^24 after the first sum and 2^53 after the second: both are exact
    lines = _weigh(image.reshape(len(image), -1).astype(np.float32), size[0])
    columns = lines.reshape(size[0], -1, 3).swapaxes(0, 1).reshape(image.shape[1], -1).astype(np.float64)
    values = _weigh(columns, size[1]).reshape(size[1], size[0], 3).swapaxes(0, 1)
    unit = LANCZOS_UNIT**2
    return np.clip((values + unit // 2) * (1 / unit), 0, 255).astype(np.uint8)


def _weigh(lines: Float[np.ndarray, "length n"], resized: int) -> Float[np.ndarray, "resized n"]:
    """Sums of 8 neighbouring lines each, in 2048ths. Line by line: what a sum reads stays in the processor's cache."""
    first, weights = lanczos_taps(len(lines), resized)
    margin = LANCZOS_LOBES  # lines that a sum can reach beyond the edge, which is repeated
    padded = np.concatenate([lines[:1]] * margin + [lines] + [lines[-1:]] * margin)
    sums = np.empty((resized, lines.shape[1]), lines.dtype)
    for line, start, kernel in zip(sums, (first + margin).tolist(), weights.astype(lines.dtype), strict=True):
        np.dot(kernel, padded[start : start + len(kernel)], out=line)
    return sums


@lru_cache(maxsize=64)
def lanczos_taps(length: int, resized: int) -> tuple[Int[np.ndarray, " resized"], Float[np.ndarray, "resized taps"]]:
    """The first of the 8 pixels of a line that pixel i of the resized one is made of, and how much of each, in 2048ths.

    Pixels before the first and after the last are the first and the last. OpenCV, modules/imgproc, resize.cpp.
    """
    scale = 1 / (resized / length)
    place = ((np.arange(resized) + 0.5) * scale - 0.5).astype(np.float32)
    left = np.floor(place).astype(int)
    taps = np.arange(1 - LANCZOS_LOBES, LANCZOS_LOBES + 1)
    distance = (place - left)[:, None] - taps
    kernel = np.sinc(distance) * np.sinc(distance / LANCZOS_LOBES)
    weights = np.rint((kernel / kernel.sum(1, keepdims=True)).astype(np.float32) * LANCZOS_UNIT)
    return left + taps[0], weights


def resize_interpolated(
    image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]
) -> Float[np.ndarray, "height width 3"]:
    """The whole picture inside (height, width) on black, as float32 in [0, 1].

    Bilinear between neighbouring pixels, not averaged when the picture shrinks, nor rounded: lerobot's
    `resize_with_pad_torch` (policies/pi0/modeling_pi0.py). Of an odd margin the larger half is below and on the right.
    """
    height, width = size
    values = image.astype(np.float32) / np.float32(255)
    if image.shape[:2] == size:
        return values
    inner_height, inner_width = inner_size(image.shape[:2], size)
    channels_first = torch.from_numpy(np.ascontiguousarray(np.moveaxis(values, -1, 0)))[None]
    inner = torch.nn.functional.interpolate(
        channels_first, (inner_height, inner_width), mode="bilinear", align_corners=False
    )
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    padded = np.zeros((height, width, 3), np.float32)
    padded[top : top + inner_height, left : left + inner_width] = inner[0].clamp(0, 1).permute(1, 2, 0).numpy()
    return padded


def inner_size(image: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a picture that is scaled until it just fits into `size`, rounded down."""
    ratio = max(image[1] / size[1], image[0] / size[0])
    # A very long picture keeps at least one pixel, where openpi would ask PIL for an empty one.
    return max(1, int(image[0] / ratio)), max(1, int(image[1] / ratio))


def to_model(
    images: UInt8[np.ndarray, "*batch h w 3"] | Float[np.ndarray, "*batch h w 3"],
) -> Float[Tensor, "*batch 3 h w"]:
    """Channels first, in [-1, 1], float32: black is -1. Takes uint8, or float32 in [0, 1]."""
    # numpy on purpose: its one thread does not fight torch's own pool when the loader runs beside the training step
    channels_first = np.ascontiguousarray(np.moveaxis(images, -1, -3))
    if images.dtype == np.uint8:
        values = channels_first.astype(np.float32)
        values /= HALF_RANGE
    else:
        values = channels_first * np.float32(2)
    values -= np.float32(1)
    return torch.from_numpy(values)


def to_model_tensor(
    images: UInt8[Tensor, "*batch h w 3"] | Float[Tensor, "*batch h w 3"],
) -> Float[Tensor, "*batch 3 h w"]:
    """`to_model` on the device where the pictures are, bit for bit."""
    return to_model_range(images.movedim(-1, -3).float(), images.dtype == torch.uint8)


def to_model_range(values: Float[Tensor, "*batch"], whole: bool) -> Float[Tensor, "*batch"]:
    """Values of pictures in [-1, 1], contiguous: from 0 to 255 where they are `whole`, otherwise from 0 to 1."""
    if whole:
        # a tensor, not a number: CUDA would multiply by the inverse of a number, and round otherwise than numpy
        return (values.contiguous() / values.new_full((), float(HALF_RANGE))).sub_(1)
    return (values.contiguous() * 2).sub_(1)
