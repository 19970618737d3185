"""Pictures: any size of uint8 outside, the model's square in [-1, 1] inside; converted here and nowhere else."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

HALF_RANGE = np.float32(127.5)
"""uint8 / 127.5 - 1 is bit for bit x / 255 * 2 - 1 (openpi, src/openpi/models/model.py), since doubling is exact."""


def resize_with_pad(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
    """The whole picture inside (height, width), its aspect ratio kept, centred on black.

    PIL's bilinear filter on uint8, bit for bit openpi's client (packages/openpi-client, image_tools.py). A picture that
    has the size already is returned as it is, not copied.
    """
    height, width = size
    if image.shape[:2] == size:
        return image
    ratio = max(image.shape[1] / width, image.shape[0] / height)
    # A very long picture keeps at least one pixel, where openpi would ask PIL for an empty one.
    inner_height, inner_width = max(1, int(image.shape[0] / ratio)), max(1, int(image.shape[1] / ratio))
    resized = Image.fromarray(image).resize((inner_width, inner_height), resample=Image.Resampling.BILINEAR)
    top, left = max(0, int((height - inner_height) / 2)), max(0, int((width - inner_width) / 2))
    padded = np.zeros((height, width, 3), np.uint8)
    padded[top : top + inner_height, left : left + inner_width] = np.asarray(resized)
    return padded


def to_model(images: UInt8[np.ndarray, "*batch h w 3"]) -> Float[Tensor, "*batch 3 h w"]:
    """Channels first, in [-1, 1], float32: black is -1."""
    # numpy on purpose: its one thread does not fight torch's own pool when the loader runs beside the training step
    channels_first = np.ascontiguousarray(np.moveaxis(images, -1, -3))
    values = channels_first.astype(np.float32)
    values /= HALF_RANGE
    values -= np.float32(1)
    return torch.from_numpy(values)
