"""The statistics that a LeRobot folder carries, per episode and of the whole, as plain lists for JSON and parquet."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
MAX_STATS_FRAMES = 100
"""Most frames of an episode whose pixels enter the statistics."""
MAX_STATS_SIDE = 150
"""Pictures are thinned to about this side for the statistics, as lerobot does."""


def vector_stats(values: Shaped[np.ndarray, "n *d"]) -> dict[str, list]:
    """Exact statistics per dimension; `count` is the number of rows."""
    x = values.astype(np.float64).reshape(len(values), -1)
    quantiles = np.quantile(x, list(QUANTILES.values()), axis=0)
    stats = {"min": x.min(0), "max": x.max(0), "mean": x.mean(0), "std": x.std(0)}
    stats |= dict(zip(QUANTILES, quantiles, strict=True))
    return {name: value.tolist() for name, value in stats.items()} | {"count": [len(x)]}


class Pixels:
    """Histogram of pixel values per colour: exact statistics of the pictures that were counted."""

    def __init__(self) -> None:
        self.counts, self.num_images = np.zeros((3, 256), np.int64), 0

    @classmethod
    def of(cls, images: Sequence[UInt8[np.ndarray, "h w 3"]]) -> "Pixels":
        """Of up to `MAX_STATS_FRAMES` pictures, evenly chosen."""
        chosen = np.linspace(0, len(images) - 1, min(len(images), MAX_STATS_FRAMES)).round().astype(int)
        stride = max(1, max(images[0].shape) // MAX_STATS_SIDE)
        stack = np.stack([images[i][::stride, ::stride] for i in chosen])
        pixels = cls()
        pixels.counts += np.stack([np.bincount(stack[..., c].ravel(), minlength=256) for c in range(3)])
        pixels.num_images = len(chosen)
        return pixels

    def add(self, other: "Pixels") -> None:
        """Counts the other's pictures too."""
        self.counts += other.counts
        self.num_images += other.num_images

    def stats(self) -> dict[str, Any]:
        """Each statistic of shape (3, 1, 1), pixels in [0, 1]; count is the number of pictures."""
        level = np.arange(256) / 255
        share = self.counts / self.counts.sum(1, keepdims=True)
        mean = share @ level
        stats = {
            "min": level[(self.counts > 0).argmax(1)],
            "max": level[255 - (self.counts[:, ::-1] > 0).argmax(1)],
            "mean": mean,
            "std": np.sqrt(np.maximum(share @ level**2 - mean**2, 0)),
        }
        below = np.cumsum(share, axis=1)
        stats |= {name: level[(below >= q - 1e-12).argmax(1)] for name, q in QUANTILES.items()}
        return {name: value.reshape(3, 1, 1).tolist() for name, value in stats.items()} | {"count": [self.num_images]}
