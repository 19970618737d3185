"""Is each number of state and actions fit to be normalised: with spread, without outliers, in known units?

NaN and infinity never come here: a data set that holds them cannot be opened.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from pizero.data.choice import Normalization
from pizero.data.doctor_finding import Finding, Spans, number, percent
from pizero.data.normalize import SMALLEST_SPREAD, Normalizer
from pizero.data.stats import Stats

LARGE, HUGE = 10.0, 100.0
"""Normalised values beyond these are a warning and an error: training aims at values of about 1, and the squared error
of one value of 100 is that of 10,000 ordinary ones."""
FAR_ZERO, VERY_FAR_ZERO = 100.0, 1000.0
"""Where 0 is normalised to, of a dimension that hardly moves (openpi issue 814: -3200, and the loss exploded)."""
BEYOND = 0.01
"""How far beyond its bounds a value may be, as a part of the range, before it counts as outside."""
MOST_RADIANS = 4 * np.pi
"""Angles larger than two turns are hardly radians."""
ANGLE_WORDS = ("angle", "joint", "roll", "pitch", "yaw", "waist", "shoulder", "elbow", "wrist", "rotat")
NO_ANGLE_WORDS = ("camera", "velocity", "torque", "effort", "current", "temperature")


def check_constant(what: str, names: Sequence[str], stats: Stats, raw: Sequence[str]) -> list[Finding]:
    """Dimensions that never change and would be divided by nothing. `stats` are complete."""
    assert stats.min is not None
    assert stats.max is not None
    largest = np.maximum(1, np.maximum(np.abs(stats.min), np.abs(stats.max)))
    return [
        Finding(
            "error",
            "constant",
            f"{what} {name!r} is always {number(stats.mean[i])}: training refuses to normalise it",
            f"--data.raw-{what if what == 'state' else 'actions'} {name}, or leave it out of the data set",
            (f"{what} {name}",),
        )
        for i, name in enumerate(names)
        if name not in raw and stats.max[i] - stats.min[i] <= SMALLEST_SPREAD * largest[i]
    ]


def check_spread(
    what: str,
    names: Sequence[str],
    stats: Stats,
    mode: Normalization,
    raw: Sequence[str],
    values: Float[np.ndarray, "n d"] | None = None,
    spans: Spans | None = None,
) -> list[Finding]:
    """Dimensions whose outliers, or whose zero, become huge when normalised with these complete statistics.

    `values` and `spans`, where given, tell where the worst value is. Constant ones are `check_constant`'s.
    """
    assert stats.min is not None
    assert stats.max is not None
    assert stats.q01 is not None
    assert stats.q99 is not None
    skip = {name for finding in check_constant(what, names, stats, raw) for name in finding.dims}
    unclipped: Normalization = "quantile" if mode == "bounds" else mode
    scaling = Normalizer(unclipped, stats, tuple(names), tuple(raw))
    low, high, zero = (scaling.normalize(x) for x in (stats.min, stats.max, np.zeros(len(names))))
    findings = []
    for i, name in enumerate(names):
        if mode == "identity" or name in raw or f"{what} {name}" in skip:
            continue
        worst = low[i] if abs(low[i]) > abs(high[i]) else high[i]
        where = ""
        if values is not None and spans is not None:
            frame = values[:, i].argmin() if worst == low[i] else values[:, i].argmax()
            where = f" in {spans.place(frame)}"
        if abs(worst) >= LARGE:
            findings.append(_outlier(what, name, i, stats, mode, float(worst), where))
        elif abs(zero[i]) >= FAR_ZERO:
            findings.append(_far_zero(what, name, i, stats, float(zero[i])))
    return findings


def _outlier(what: str, name: str, i: int, stats: Stats, mode: Normalization, worst: float, where: str) -> Finding:
    assert stats.min is not None
    assert stats.max is not None
    assert stats.q01 is not None
    assert stats.q99 is not None
    value = stats.max[i] if worst > 0 else stats.min[i]
    narrow = stats.q99[i] - stats.q01[i] < 0.05 * (stats.max[i] - stats.min[i])
    usual = f"98 % of it lies within {number(stats.q01[i])} to {number(stats.q99[i])}"
    becomes = f"is normalised to {number(worst)}" + (", and clipped to 1" if mode == "bounds" else "")
    return Finding(
        "error" if abs(worst) >= HUGE else "warning",
        "near-constant" if narrow else "outlier",
        f"{what} {name!r} is {number(value)}{where}, which {becomes}; {usual}",
        f"if such values are wrong, drop the episode; if they are real, name it in --data.raw-"
        f"{what if what == 'state' else 'actions'} or choose --data.normalization z-score",
        (f"{what} {name}",),
    )


def _far_zero(what: str, name: str, i: int, stats: Stats, zero: float) -> Finding:
    assert stats.min is not None
    assert stats.max is not None
    return Finding(
        "error" if abs(zero) >= VERY_FAR_ZERO else "warning",
        "near-constant",
        f"{what} {name!r} moves only from {number(stats.min[i])} to {number(stats.max[i])}: its noise is scaled up to "
        f"full size, and 0 would be {number(zero)}",
        f"--data.raw-{what if what == 'state' else 'actions'} {name}, or leave it out if the robot does not use it",
        (f"{what} {name}",),
    )


def check_bounds(
    names: Sequence[str], actions: Float[np.ndarray, "n a"], low: Sequence[float], high: Sequence[float], spans: Spans
) -> list[Finding]:
    """Actions that the robot does not accept; () for both bounds: not known, nothing is found."""
    findings = []
    for i, (name, lowest, highest) in enumerate(zip(names, low, high, strict=False)):
        margin = BEYOND * (highest - lowest)
        outside = (actions[:, i] < lowest - margin) | (actions[:, i] > highest + margin)
        if outside.any():
            frame = int(np.argmax(np.maximum(lowest - actions[:, i], actions[:, i] - highest)))
            text = (
                f"action {name!r} is beyond the robot's {number(lowest)} to {number(highest)} in "
                f"{percent(outside.mean())} of the frames, {number(actions[frame, i])} in {spans.place(frame)}"
            )
            advice = "a policy's actions are clipped to the robot's range: correct the embodiment, or the data"
            findings.append(Finding("warning", "range", text, advice, (f"action {name}",)))
    return findings


def check_degrees(what: str, names: Sequence[str], values: Float[np.ndarray, "n d"]) -> list[Finding]:
    """Angles, by name, that are larger than radians would be."""
    large = [
        name
        for i, name in enumerate(names)
        if is_angle(name) and np.quantile(np.abs(values[:, i]), 0.99) > MOST_RADIANS
    ]
    if not large:
        return []
    worst = max(float(np.abs(values[:, list(names).index(name)]).max()) for name in large)
    text = f"{len(large)} of {len(names)} {what} dimensions look like degrees, values to {number(worst)}: " + ", ".join(
        large[:4]
    )
    advice = "harmless while one data set is trained on; a checkpoint or a mixture in radians needs radians"
    return [Finding("note", "units", text, advice, tuple(f"{what} {name}" for name in large))]


def is_angle(name: str) -> bool:
    """Whether a dimension's name says that it is an angle."""
    lower = name.lower()
    is_gripper = "grip" in lower or "finger" in lower
    return not is_gripper and any(w in lower for w in ANGLE_WORDS) and not any(w in lower for w in NO_ANGLE_WORDS)
