"""Real units to model units and back, dimension by dimension.

Formulas: "bounds" is open-pi-zero's (src/agent/env_adapter/base.py), with the 1 % and 99 % quantiles as bounds;
"z-score" and "quantile" are openpi's (src/openpi/transforms.py).
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from pizero.data.stats import Stats

Normalization = Literal["bounds", "z-score", "quantile"]

BOUNDS_EPS = 1e-8
"""open-pi-zero, src/agent/env_adapter/base.py."""
OPENPI_EPS = 1e-6
"""openpi, src/openpi/transforms.py."""
SMALLEST_SPREAD = 1e-6
"""Absolute, and relative to the largest value: below it a float32 recording of the dimension holds only rounding."""


@dataclass(frozen=True)
class _Affine:
    """normalised = (x - offset) / scale * gain - shift, and its inverse."""

    offset: np.ndarray
    scale: np.ndarray
    gain: float
    shift: float


class Normalizer:
    """Normalises vectors whose last axis has the dimensions `names`; dimensions named in `raw` pass unchanged.

    "bounds": the 1 % and 99 % quantiles become -1 and 1, values beyond are clipped. "quantile": the same, not clipped.
    "z-score": mean 0, standard deviation 1, not clipped. Raises ValueError for a dimension without spread.
    """

    def __init__(self, mode: Normalization, stats: Stats, names: Sequence[str], raw: Sequence[str] = ()) -> None:
        check_mode(mode)
        check_raw(raw, names)
        if len(stats.mean) != len(names):
            raise ValueError(
                f"statistics have {len(stats.mean)} dimensions, the robot has {len(names)}: {tuple(names)}"
            )
        self.mode, self.names = mode, tuple(names)
        self._raw = np.array([name in raw for name in names], bool)
        if mode == "z-score":
            spread, affine = stats.std, _Affine(stats.mean, stats.std + OPENPI_EPS, 1.0, 0.0)
        else:
            spread = stats.q99 - stats.q01
            eps = BOUNDS_EPS if mode == "bounds" else OPENPI_EPS
            affine = _Affine(stats.q01, spread + eps, 2.0, 1.0)
        self._refuse_constant(spread, stats)
        self._affine = affine

    def normalize(self, x: Float[np.ndarray, "*batch d"]) -> Float[np.ndarray, "*batch d"]:
        """Model units, computed and returned in float64."""
        f = self._affine
        normalized = (np.asarray(x, np.float64) - f.offset) / f.scale * f.gain - f.shift
        if self.mode == "bounds":
            normalized = np.clip(normalized, -1, 1)
        return np.where(self._raw, x, normalized)

    def invert(self, x: Float[np.ndarray, "*batch d"]) -> Float[np.ndarray, "*batch d"]:
        """Real units, float64: the exact inverse.

        With "bounds", values beyond -1 and 1, never seen in training, count as -1 and 1 (open-pi-zero's final clip).
        """
        f = self._affine
        normalized = np.asarray(x, np.float64)
        if self.mode == "bounds":
            normalized = np.clip(normalized, -1, 1)
        return np.where(self._raw, x, (normalized + f.shift) / f.gain * f.scale + f.offset)

    def _refuse_constant(self, spread: np.ndarray, stats: Stats) -> None:
        largest = np.maximum(np.abs(stats.min), np.abs(stats.max))
        constant = ~self._raw & ~(spread > SMALLEST_SPREAD * np.maximum(1, largest))
        if constant.any():
            i = int(np.argmax(constant))
            measure = "standard deviation" if self.mode == "z-score" else "distance of the 1 % and 99 % quantiles"
            raise ValueError(
                f"dimension {self.names[i]!r} has no spread ({measure} {spread[i]:.2g}, values {stats.min[i]:.6g} to "
                f"{stats.max[i]:.6g}): let it pass unchanged by naming it in raw_state or raw_actions, or leave it out "
                f"of the embodiment"
            )


def check_mode(mode: str) -> None:
    """Raises ValueError for a normalisation that does not exist."""
    if mode not in get_args(Normalization):
        raise ValueError(f"normalization {mode!r} is unknown; choose one of {get_args(Normalization)}")


def check_raw(raw: Sequence[str], names: Sequence[str]) -> None:
    """Raises ValueError for a raw dimension that the robot does not have, with the nearest one."""
    for name in raw:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1) or [", ".join(names) or "none"]
            raise ValueError(f"raw dimension {name!r} is unknown; nearest: {near[0]}; the robot has {tuple(names)}")
