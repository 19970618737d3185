"""Episodes: their lengths, repetitions, and the time in which nothing moves."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from pizero.data.doctor_finding import Finding, Level, Spans, listed, number, percent

STILL = 0.02
"""A robot that has left its first state by more than this part of the range has started to move."""
IDLE_NOTE, IDLE_WARNING = 0.05, 0.2
"""Part of all frames before the first and after the last movement from which it is worth saying."""
ZERO = 1e-3
"""Part of a dimension's largest action below which it is 0."""
MUCH_PADDING = 0.5
"""Part of the chunks' timesteps beyond the episode's end from which the horizon is too long."""
LONG = 5.0
"""An episode this many times as long as the median is strange."""
REPEATED = 0.2
"""Part of the frames that are the same as the frame before, number by number."""


def check_lengths(spans: Spans, horizon: int, rate_hz: float | None) -> list[Finding]:
    """Very short and very long episodes, and how much of the action chunks lies beyond an episode's end."""
    lengths = spans.lengths
    median = float(np.median(lengths))
    beyond = padded_share(spans, horizon)
    seconds = "" if rate_hz is None else f" ({number(median / rate_hz)} s)"
    findings = [
        Finding(
            "warning" if beyond > MUCH_PADDING else "note",
            "lengths",
            f"{len(lengths)} episodes of {lengths.min()} to {lengths.max()} frames, median {number(median)}{seconds}; "
            f"of chunks of {horizon}, {percent(beyond)} of the timesteps lie after the end, out of the loss",
            "a horizon of at most half the median episode wastes less" if beyond > MUCH_PADDING else "nothing to do",
        )
    ]
    tiny = np.nonzero(lengths < 2)[0]
    if len(tiny):
        text = f"{len(tiny)} episodes have a single frame, the first is episode {tiny[0]}"
        findings.append(Finding("warning", "lengths", text, "drop them: nothing happens in one frame"))
    short = np.nonzero((lengths >= 2) & (lengths < horizon))[0]
    if len(short):
        text = f"{len(short)} of {len(lengths)} episodes are shorter than a chunk of {horizon}, as episode {short[0]}"
        findings.append(Finding("note", "lengths", text, "if they were broken off, drop them"))
    long = np.nonzero(lengths > LONG * median)[0]
    if len(long):
        worst = long[lengths[long].argmax()]
        text = f"episode {worst} has {lengths[worst]} frames, {number(lengths[worst] / median)} times the median"
        findings.append(Finding("note", "lengths", text, "was the recorder left running?"))
    return findings


def padded_share(spans: Spans, horizon: int) -> float:
    """Part of the timesteps of all chunks of `horizon` that lie after the end of their episode."""
    inside = np.minimum(spans.lengths, horizon)
    # A chunk from frame i of n has min(horizon, n - i) real timesteps: `inside` of them are 1, 2, ..., the rest full.
    real = inside * (inside + 1) // 2 + (spans.lengths - inside) * horizon
    return 1 - float(real.sum()) / float(spans.lengths.sum() * horizon)


def check_duplicates(state: Float[np.ndarray, "n s"], actions: Float[np.ndarray, "n a"], spans: Spans) -> list[Finding]:
    """Episodes with the same states and actions, to the last bit."""
    first: dict[bytes, int] = {}
    pairs = []
    for episode, (start, end) in enumerate(zip(spans.starts, spans.ends, strict=True)):
        key = state[start:end].tobytes() + actions[start:end].tobytes()
        if key in first:
            pairs.append(f"{episode} = {first[key]}")
        first.setdefault(key, episode)
    if not pairs:
        return []
    text = f"{len(pairs)} of {len(spans.starts)} episodes are copies of an earlier one: {listed(pairs)}"
    return [Finding("warning", "duplicates", text, "drop the copies: they count double, and leak into validation")]


def check_idle(state: Float[np.ndarray, "n s"], spans: Spans, rate_hz: float | None) -> list[Finding]:
    """Time before the first movement and after the last. A state of width 0 tells nothing."""
    if not state.shape[1]:
        return []
    scale = np.ptp(state, axis=0).astype(np.float64)
    moves = scale > 0
    if not moves.any():
        return [Finding("error", "idle", "the state never changes", "check that the robot's state was recorded")]
    x = state[:, moves] / scale[moves]
    before, after = np.array([_still_ends(x[start:end]) for start, end in zip(spans.starts, spans.ends, strict=True)]).T
    findings = []
    for name, idle, episode_part in (("start", before, "before anything moves"), ("end", after, "after all is still")):
        share = idle.sum() / spans.lengths.sum()
        if share >= IDLE_NOTE:
            worst = int(idle.argmax())
            seconds = "" if rate_hz is None else f" ({number(idle[worst] / rate_hz)} s)"
            text = (
                f"{percent(share)} of the frames lie at the {name} of an episode, {episode_part}; most in episode "
                f"{worst}: {idle[worst]} of {spans.lengths[worst]} frames{seconds}"
            )
            level: Level = "warning" if share >= IDLE_WARNING else "note"
            findings.append(Finding(level, "idle", text, "trim them: a policy learns to wait, and may wait for ever"))
    return findings


def _still_ends(x: np.ndarray) -> tuple[int, int]:
    """Frames near the first state before it is left, and near the last after it is reached."""
    away_first = (np.abs(x - x[0]) > STILL).any(1)
    away_last = (np.abs(x - x[-1]) > STILL).any(1)
    if not away_first.any():
        return len(x), 0
    return int(away_first.argmax()), int(away_last[::-1].argmax())


def check_repeated(state: Float[np.ndarray, "n s"], actions: Float[np.ndarray, "n a"], spans: Spans) -> list[Finding]:
    """Frames that repeat the one before: recorded faster than the robot was read."""
    frames = spans.before(1)
    if not len(frames):
        return []
    same = (state[frames] == state[frames + 1]).all(1) & (actions[frames] == actions[frames + 1]).all(1)
    share = float(same.mean())
    if share < REPEATED:
        return []
    text = f"{percent(share)} of the frames repeat state and action of the frame before, number by number"
    advice = "the robot was read more slowly than recorded, or stands still: record at its own rate, drop the copies"
    return [Finding("warning", "repeated", text, advice)]


def check_still_actions(
    names: Sequence[str], actions: Float[np.ndarray, "n a"], spans: Spans, skip: Sequence[int]
) -> list[Finding]:
    """Frames in which all actions are 0: a robot that is moved by velocities or shifts is told to stand still.

    `skip`: dimensions that do not count, such as grippers, which hold by being told the same.
    """
    counted = np.array([i for i in range(len(names)) if i not in skip], np.int64)
    scale = np.abs(actions[:, counted]).max(0) if len(counted) else np.zeros(0)
    if not (scale > 0).any():
        return []
    still = (np.abs(actions[:, counted]) <= ZERO * scale).all(1)
    share = float(still.mean())
    if share < IDLE_NOTE:
        return []
    first = spans.place(int(still.argmax()))
    text = f"all actions but the gripper's are 0 in {percent(share)} of the frames, first in {first}"
    level: Level = "warning" if share >= IDLE_WARNING else "note"
    return [Finding(level, "idle", text, "leave those frames out: a policy that stops once is told to stay")]


def check_empty(names: Sequence[str], state: Float[np.ndarray, "n s"]) -> list[Finding]:
    """A data set without a state."""
    if state.shape[1]:
        return []
    return [Finding("warning", "state", "the data set has no state", "pi0 takes one: the policy sees pictures alone")]
