"""Rates and time stamps."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from pizero.data import lerobot_layout
from pizero.data.doctor_finding import Finding, Spans, number, percent
from pizero.data.lerobot_reader import LeRobotFolder

SAME_RATE = 0.02
"""Two rates within this part are one."""
UNEVEN = 0.1
"""How far a step may be from the rate's, as a part of it."""
HALF = 0.5
"""A picture is looked up by its time stamp, half a step to either side."""


def check_rate(recorded_hz: float | None, control_hz: float | None, other: str) -> list[Finding]:
    """The data set's rate against that of its robot, or of a checkpoint's; `other` says whose `control_hz` is."""
    if recorded_hz is None or control_hz is None or abs(recorded_hz / control_hz - 1) <= SAME_RATE:
        return []
    ratio = recorded_hz / control_hz
    text = (
        f"recorded at {number(recorded_hz)} Hz, {other} acts at {number(control_hz)} Hz, {number(1 / ratio)} times that"
    )
    advice = "resample to the rate at which the policy will act: else its actions are too small or too large"
    return [Finding("warning", "rate", text, advice)]


def check_known_rate(recorded_hz: float | None) -> list[Finding]:
    """A data set that does not say how fast it was recorded."""
    if recorded_hz is not None:
        return []
    advice = "fine for training; a policy must act at the rate of the recording, so write it down"
    return [Finding("note", "rate", "the data set does not say at which rate it was recorded", advice)]


def check_timestamps(timestamp: Float[np.ndarray, " n"], spans: Spans, rate_hz: float) -> list[Finding]:
    """Time stamps in seconds: regular, rising, from 0 in each episode."""
    findings = []
    frames = spans.before(1)
    steps = np.diff(timestamp)[frames] * rate_hz
    uneven = np.abs(steps - 1) > UNEVEN
    if uneven.any():
        worst = int(np.abs(steps - 1).argmax())
        at_index = np.arange(len(timestamp)) - np.repeat(spans.starts, spans.lengths)
        drift = float(np.abs(timestamp * rate_hz - at_index).max())
        text = (
            f"{percent(uneven.mean())} of the steps are not 1/{number(rate_hz)} s, one is "
            f"{number(steps[worst] / rate_hz)} s before {spans.place(frames[worst] + 1)}"
        )
        advice = "write time stamps that are the frame's number divided by the rate, or resample"
        findings.append(Finding("error" if drift > HALF else "warning", "time stamps", text, advice))
    first = timestamp[spans.starts]
    late = np.nonzero(np.abs(first) * rate_hz > HALF)[0]
    if len(late):
        text = f"{len(late)} episodes do not start at 0 s, as episode {late[0]} at {number(first[late[0]])} s"
        advice = "time stamps count from the start of the episode: pictures would be taken from elsewhere"
        findings.append(Finding("error", "time stamps", text, advice))
    return findings


def read_timestamps(root: Path) -> Float[np.ndarray, " n"] | None:
    """Seconds of each frame from the start of its episode, in a LeRobot folder; None: another format has none."""
    return LeRobotFolder(root).timestamp if (root / lerobot_layout.INFO).is_file() else None
