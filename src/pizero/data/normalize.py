"""Real units to model units and back, dimension by dimension.

Formulas: "bounds" is open-pi-zero's (src/agent/env_adapter/base.py), with the 1 % and 99 % quantiles as bounds;
"z-score" and "quantile" are openpi's (src/openpi/transforms.py); "lerobot-z-score" and "lerobot-quantile" are lerobot's
(src/lerobot/processor/normalize_processor.py), computed in float32 as there; "identity" changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from jaxtyping import Float

from pizero.data.choice import Normalization
from pizero.data.stats import Stats
from pizero.data.units import check_names

BOUNDS_EPS = 1e-8
"""open-pi-zero, src/agent/env_adapter/base.py."""
OPENPI_EPS = 1e-6
"""openpi, src/openpi/transforms.py."""
LEROBOT_EPS = 1e-8
"""lerobot, src/lerobot/processor/normalize_processor.py."""
SMALLEST_SPREAD = 1e-6
"""Absolute, and relative to the largest value: below it a float32 recording of the dimension holds only rounding."""


@dataclass(frozen=True)
class _Affine:
    """normalised = (x - offset) / scale * gain - shift; back, (normalised + shift) / gain * scale_back + offset.

    The gain is 1 or 2, so that it makes no difference to the last bit that lerobot multiplies by it before it divides.
    """

    offset: np.ndarray
    scale: np.ndarray
    scale_back: np.ndarray
    gain: float
    shift: float


class Normalizer:
    """Normalises vectors whose last axis has the dimensions `names`; dimensions named in `raw` pass unchanged.

    "bounds": the 1 % and 99 % quantiles become -1 and 1, values beyond are clipped. "quantile": the same, not clipped.
    "z-score": mean 0, standard deviation 1, not clipped. "identity": unchanged. The formulas with "lerobot-" differ
    from those without in what is added so that nothing is divided by 0, and are computed in float32. A dimension
    without spread is treated as the formula says; `refuse_no_spread` is for those who train.

    Raises ValueError when the statistics are of another width, or do not hold what the formula needs.
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
        self._dtype: type[np.floating] = np.float32 if mode.startswith("lerobot") else np.float64
        self._affine = _affine(mode, stats, self._dtype)

    def normalize(self, x: Float[np.ndarray, "*batch d"]) -> Float[np.ndarray, "*batch d"]:
        """Model units, in float64; in float32 for lerobot's formulas."""
        f, x = self._affine, np.asarray(x, self._dtype)
        if f is None:
            return x
        normalized = (x - f.offset) / f.scale * f.gain - f.shift
        if self.mode == "bounds":
            normalized = np.clip(normalized, -1, 1)
        return np.where(self._raw, x, normalized)

    def invert(self, x: Float[np.ndarray, "*batch d"]) -> Float[np.ndarray, "*batch d"]:
        """Real units, in float64; in float32 for lerobot's formulas. The exact inverse, but for lerobot's z-score.

        With "bounds", values beyond -1 and 1, never seen in training, count as -1 and 1 (open-pi-zero's final clip).
        """
        f = self._affine
        if f is None:
            return np.asarray(x, self._dtype)
        # openpi adds and halves in the type of the model's output
        normalized = x if self.mode == "quantile" else np.asarray(x, self._dtype)
        if self.mode == "bounds":
            normalized = np.clip(normalized, -1, 1)
        return np.where(self._raw, x, (normalized + f.shift) / f.gain * f.scale_back + f.offset)


def _affine(mode: Normalization, stats: Stats, dtype: type[np.floating]) -> _Affine | None:
    if mode == "identity":
        return None
    if mode in ("z-score", "lerobot-z-score"):
        mean, std = stats.mean.astype(dtype), stats.std.astype(dtype)
        scale = std + dtype(OPENPI_EPS if mode == "z-score" else LEROBOT_EPS)
        return _Affine(mean, scale, scale if mode == "z-score" else std, 1.0, 0.0)
    q01, q99 = (x.astype(dtype) for x in _quantiles(mode, stats))
    spread = q99 - q01
    if mode == "lerobot-quantile":
        spread = np.where(spread == 0, dtype(LEROBOT_EPS), spread)
    else:
        spread = spread + (BOUNDS_EPS if mode == "bounds" else OPENPI_EPS)
    return _Affine(q01, spread, spread, 2.0, 1.0)


def _quantiles(mode: Normalization, stats: Stats) -> tuple[np.ndarray, np.ndarray]:
    if stats.q01 is None or stats.q99 is None:
        absent = " and ".join(name for name in ("q01", "q99") if vars(stats)[name] is None)
        raise ValueError(
            f"normalization {mode!r} needs {absent}, which the statistics do not hold; 'z-score' and 'lerobot-z-score' "
            "need mean and std alone"
        )
    return stats.q01, stats.q99


def refuse_no_spread(mode: Normalization, stats: Stats, names: Sequence[str], raw: Sequence[str] = ()) -> None:
    """Raises ValueError for a dimension without spread that is not raw: training on its rounding teaches nothing."""
    if mode == "identity":
        return
    z_score = mode in ("z-score", "lerobot-z-score")
    if z_score:
        spread, measure = stats.std, "standard deviation"
    else:
        q01, q99 = _quantiles(mode, stats)
        spread, measure = q99 - q01, "distance of the 1 % and 99 % quantiles"
    low, high = (stats.mean if bound is None else bound for bound in (stats.min, stats.max))
    largest = np.maximum(np.abs(low), np.abs(high))
    is_raw = np.array([name in raw for name in names], bool)
    constant = ~is_raw & ~(spread > SMALLEST_SPREAD * np.maximum(1, largest))
    if constant.any():
        i = int(np.argmax(constant))
        raise ValueError(
            f"dimension {names[i]!r} has no spread ({measure} {spread[i]:.2g}, values {low[i]:.6g} to "
            f"{high[i]:.6g}): let it pass unchanged by naming it in raw_state or raw_actions, or leave it out "
            f"of the embodiment"
        )


def check_mode(mode: str) -> None:
    """Raises ValueError for a normalisation that does not exist."""
    if mode not in get_args(Normalization):
        raise ValueError(f"normalization {mode!r} is unknown; choose one of {get_args(Normalization)}")


def check_raw(raw: Sequence[str], names: Sequence[str]) -> None:
    """Raises ValueError for a raw dimension that the robot does not have, with the nearest one."""
    check_names("raw dimension", raw, names)
