"""The gripper: which dimension it is, what its numbers mean, and whether that is what the robot says."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from pizero.data.doctor_finding import Finding, Spans, number, percent
from pizero.embodiment import GripperAction

GRIPPER_WORDS = ("grip", "finger", "jaw", "claw")
OPEN_WORDS, CLOSED_WORDS = ("open", "distance", "width", "aperture"), ("clos",)
"""What a state's name says of its larger values."""
END = 0.05
"""Part of the range in which a value counts as being at the range's end."""
BINARY = 0.95
"""Part of the frames at either end from which a gripper counts as one of two values."""
CLEAR = 0.5
"""Correlation from which action and state are surely of one gripper."""
MOST_LAG_S = 1.0
"""A gripper follows its command within a second."""
NEGATIVE = 0.02
"""Part of the range below 0 from which a gripper of 0 to something has negative values."""
Scale = Literal["0 to 1", "-1 to 1", "metres", "other"]


def find_grippers(names: Sequence[str]) -> list[int]:
    """Indices of the dimensions that are grippers, by name."""
    return [i for i, name in enumerate(names) if any(word in name.lower() for word in GRIPPER_WORDS)]


def scale_of(low: float, high: float) -> Scale:
    """What the range of a gripper looks like, from its smallest and largest value."""
    if max(abs(low), abs(high)) <= 0.2:
        return "metres"
    if max(abs(low), abs(high)) > 1.2:
        return "other"
    if low < -0.5 and high > 0.5:
        return "-1 to 1"
    return "0 to 1" if low > -0.2 else "other"


def describe(x: Float[np.ndarray, " n"]) -> str:
    """Its range, and whether it is one of two values, in words."""
    low, high = float(x.min()), float(x.max())
    margin = END * (high - low)
    at_ends = float(((x <= low + margin) | (x >= high - margin)).mean())
    kind = "one of two values" if at_ends >= BINARY else "continuous"
    return f"{kind}, {number(low)} to {number(high)}"


def check_declared(names: Sequence[str], actions: Float[np.ndarray, "n a"], convention: GripperAction) -> list[Finding]:
    """Whether the data set says what the gripper's action means."""
    grippers = find_grippers(names)
    if not grippers and convention not in ("none", "unknown"):
        text = f"the robot has a gripper ({convention}), but no action is named so: {', '.join(names)}"
        return [Finding("note", "gripper", text, "name the dimension, so that it can be checked")]
    if grippers and convention in ("none", "unknown"):
        name, unknown = names[grippers[0]], convention == "unknown"
        said = "does not say what it does" if unknown else "says there is no gripper"
        text = f"action {name!r} ({describe(actions[:, grippers[0]])}) looks like a gripper, but the data set {said}"
        advice = 'find out whether "1 opens" or "1 closes"; in a LeRobot folder it is the embodiment\'s gripper_action'
        return [Finding("note" if unknown else "warning", "gripper", text, advice, (f"action {name}",))]
    return []


def check_range(
    what: str, names: Sequence[str], values: Float[np.ndarray, "n d"], low: Sequence[float], high: Sequence[float]
) -> list[Finding]:
    """Half a range used, and values below 0 of a gripper that is 0 or more. `low`, `high`: () where not known."""
    findings = []
    for i in find_grippers(names):
        x, dims = values[:, i], (f"{what} {names[i]}",)
        if np.ptp(x) == 0:  # `doctor_number.check_constant` tells
            continue
        if low and low[i] < 0 < high[i] and x.min() > low[i] / 2:
            text = f"{what} {names[i]!r} is {describe(x)}, the robot takes {number(low[i])} to {number(high[i])}"
            findings.append(Finding("warning", "gripper", text, "rescale it: one end is never commanded", dims))
        below = float((x < -NEGATIVE * np.ptp(x)).mean())
        if below and scale_of(float(x.min()), float(x.max())) != "-1 to 1" and x.max() > -2 * x.min():
            text = (
                f"{what} {names[i]!r} goes below 0, to {number(float(x.min()))}, in {percent(below)} of the frames "
                f"(mean {number(float(x.mean()))})"
            )
            findings.append(Finding("note", "gripper", text, "check the gripper's calibration: is 0 an end?", dims))
    return findings


def check_polarity(
    state_names: Sequence[str],
    state: Float[np.ndarray, "n s"],
    action_names: Sequence[str],
    actions: Float[np.ndarray, "n a"],
    convention: GripperAction,
    spans: Spans,
    rate_hz: float,
) -> list[Finding]:
    """Whether the gripper moves the way that the robot says its action moves it, where the state's name tells."""
    measured, commanded = find_grippers(state_names), find_grippers(action_names)
    if len(measured) != len(commanded):
        return []
    findings = []
    for s, a in zip(measured, commanded, strict=True):
        larger_is_open = meaning(state_names[s])
        correlation = following(actions[:, a], state[:, s], spans, round(MOST_LAG_S * rate_hz))
        if larger_is_open is None or abs(correlation) < CLEAR:
            continue
        opens = (correlation > 0) == larger_is_open
        seen: GripperAction = "1 opens" if opens else "1 closes"
        if convention in ("1 opens", "1 closes") and seen != convention:
            text = (
                f"the robot says of its gripper {convention!r}, but state {state_names[s]!r} follows action "
                f"{action_names[a]!r} with correlation {correlation:.2f}: {seen!r}"
            )
            dims = (f"state {state_names[s]}", f"action {action_names[a]}")
            advice = "correct gripper_action of the embodiment, or turn the action round"
            findings.append(Finding("error", "gripper", text, advice, dims))
    return findings


def meaning(name: str) -> bool | None:
    """Whether larger values of a gripper's state are more open; None when its name does not tell."""
    lower = name.lower()
    if any(word in lower for word in CLOSED_WORDS):
        return False
    return True if any(word in lower for word in OPEN_WORDS) else None


def following(action: Float[np.ndarray, " n"], state: Float[np.ndarray, " n"], spans: Spans, most_lag: int) -> float:
    """The correlation of an action with the state some frames later, at the lag where it is strongest; 0: none."""
    strongest = 0.0
    for lag in range(most_lag + 1):
        frames = spans.before(lag)
        if len(frames) < 2:
            break
        x, y = action[frames].astype(np.float64), state[frames + lag].astype(np.float64)
        if x.std() > 0 and y.std() > 0:
            correlation = float(np.corrcoef(x, y)[0, 1])
            strongest = correlation if abs(correlation) > abs(strongest) else strongest
    return strongest
