"""An axis of a plot: where its ticks are, how they are written, and how a long curve is thinned out."""

import math
from collections.abc import Sequence

MAX_POINTS = 300
"""Points drawn of a curve; a longer one shows the mean of neighbours."""
FINE_DECADES = 300.0
"""A logarithmic axis that spans less than this factor has ticks at 2 and 5 too."""
SLACK = 1 + 1e-9
"""Rounding of powers of ten."""


def thinned(values: Sequence[int | float]) -> Sequence[int | float]:
    """The values themselves, or means of neighbours where there are more than can be seen."""
    size = math.ceil(len(values) / MAX_POINTS)
    if size <= 1:
        return values
    return [sum(values[i : i + size]) / len(values[i : i + size]) for i in range(0, len(values), size)]


def share(value: int | float, low: int | float, high: int | float) -> float:
    """How far a value is from low to high, 0 to 1; in the middle of an axis without length."""
    return 0.5 if high == low else (value - low) / (high - low)


def ticks(low: int | float, high: int | float) -> list[float]:
    """About five round numbers that cover [low, high]."""
    if high == low:
        return [float(low)]
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    return [i * step for i in range(math.floor(low / step), math.ceil(high / step) + 1)]


def log_ticks(low: int | float, high: int | float) -> list[float]:
    """Powers of ten that cover [low, high], with 2 and 5 between them where they would be few."""
    steps = (1, 2, 5) if high / low < FINE_DECADES else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    all_ticks = [step * 10.0**power for power in powers for step in steps]
    first = max(tick for tick in all_ticks if tick <= low * SLACK)
    last = min(tick for tick in all_ticks if tick >= high / SLACK)
    return [tick for tick in all_ticks if first <= tick <= last]


def number(value: int | float) -> str:
    """As few digits as tell it: 20k, 0.05, 3e-5."""
    if abs(value) >= 1000 and value % 100 == 0:
        return f"{value / 1000:g}k"
    if 0 < abs(value) < 0.001:
        mantissa, power = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(power)}"
    return f"{value:.4g}"
