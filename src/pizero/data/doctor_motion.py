"""How actions go with the state: absolute positions or not, ahead of it, at the same instant, or behind."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from pizero.data.doctor_finding import Finding, Spans, listed, percent

EQUAL = 1e-5
"""Part of the range within which an action equals a state; float32 holds 1e-7."""
NEAR = 0.2
"""Mean distance, as a part of the state's deviation, from which an action surely is a position of the state."""
CLEARLY = 0.5
"""The distance to an earlier state must be this part of that to the present one before an action lags."""
LONGEST_LAG = 3
"""Frames back in which a lag is looked for."""


def check_lead(
    state_names: Sequence[str],
    state: Float[np.ndarray, "n s"],
    action_names: Sequence[str],
    actions: Float[np.ndarray, "n a"],
    spans: Spans,
    delta: Sequence[str],
) -> list[Finding]:
    """Actions compared with the state dimension of the same index at the same, the next and earlier frames.

    `delta`: actions that are given relative to the state already.
    """
    same, following, behind, absolute = [], [], [], []
    for i, name in enumerate(action_names[: state.shape[1]]):
        a, s = actions[:, i].astype(np.float64), state[:, i].astype(np.float64)
        spread = np.ptp(s)
        if spread == 0 or not len(spans.before(LONGEST_LAG)):
            continue
        distance = {lag: _distance(a, s, spans, lag) for lag in range(-LONGEST_LAG, 2)}
        if distance[0] <= EQUAL * spread:
            same.append(name)
        elif distance[1] <= EQUAL * spread:
            following.append(name)
        elif min(distance[lag] for lag in range(-LONGEST_LAG, 0)) < CLEARLY * distance[0] and distance[0] < s.std():
            behind.append(name)
        if distance[0] < NEAR * s.std() and name not in delta:
            absolute.append(name)
    return _lead_findings(same, following, behind, absolute, action_names)


def _distance(a: np.ndarray, s: np.ndarray, spans: Spans, lag: int) -> float:
    """Mean distance of the action to the state `lag` frames later, or earlier where negative."""
    frames = spans.before(abs(lag))
    pairs = (frames, frames + lag) if lag >= 0 else (frames - lag, frames)
    return float(np.abs(a[pairs[0]] - s[pairs[1]]).mean())


def _lead_findings(
    same: list[str], following: list[str], behind: list[str], absolute: list[str], names: Sequence[str]
) -> list[Finding]:
    findings = []
    if same:
        text = f"{len(same)} of {len(names)} actions equal the state of the same frame: {listed(same)}"
        advice = "record commands, or shift the actions by a frame: as they are, they teach the robot to rest"
        findings.append(Finding("error", "lead", text, advice, tuple(f"action {name}" for name in same)))
    if behind:
        text = f"{len(behind)} of {len(names)} actions are nearer to an earlier state than to that of their frame: "
        advice = "actions lag behind the state: check the time stamps of the recording"
        findings.append(
            Finding("warning", "lead", text + listed(behind), advice, tuple(f"action {name}" for name in behind))
        )
    if following:
        text = f"{len(following)} of {len(names)} actions are the state of the next frame: {listed(following)}"
        advice = "fine, if no commands were recorded: the robot is asked to be where it was a step later"
        findings.append(Finding("note", "lead", text, advice))
    if absolute and not same:
        text = f"{percent(len(absolute) / len(names))} of the actions are absolute positions: {listed(absolute)}"
        advice = f"pi0 was trained on relative ones: --data.delta-actions {' '.join(absolute)}"
        findings.append(Finding("note", "relative", text, advice))
    return findings
