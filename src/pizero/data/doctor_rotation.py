"""Rotations: quaternions that change sign or are in an unknown order, angles that jump by a turn."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from pizero.data.doctor_finding import Finding, Spans, number, percent

UNIT = 0.02
"""How far from 1 the length of a quaternion may be."""
MOSTLY = 0.99
"""Part of the frames in which four numbers must have length 1 to be taken for a quaternion."""
TURN = 2 * np.pi
NEAR_TURN = 0.1
"""A jump within this part of a turn is one."""
Order = Literal["w first", "w last"]


def find_quaternions(names: Sequence[str], values: Float[np.ndarray, "n d"]) -> list[int]:
    """First index of each four dimensions that are a quaternion: by name, or of length 1 and not at rest."""
    found: list[int] = []
    i = 0
    while i + 4 <= len(names):
        if named_order(names[i : i + 4]) is not None or _looks_like_one(values[:, i : i + 4]):
            found.append(i)
            i += 4
        else:
            i += 1
    return found


def named_order(names: Sequence[str]) -> Order | None:
    """Where four names say that w is: they end in the letters w, x, y, z in one order or the other; None: they do not.

    One of them must say "q", as in "quaternion_w" and "qw": "x", "y", "z", "w" alone could be a position and a width.
    """
    if not all("q" in name.lower() or "rot" in name.lower() for name in names):
        return None
    letters = "".join(name.lower().rstrip("]) ")[-1:] for name in names)
    orders: dict[str, Order] = {"wxyz": "w first", "xyzw": "w last"}
    return orders.get(letters)


def check_quaternions(what: str, names: Sequence[str], values: Float[np.ndarray, "n d"], spans: Spans) -> list[Finding]:
    """Length, sign flips from one frame to the next, both signs for one attitude, and an order that is not told."""
    findings = []
    for i in find_quaternions(names, values):
        group, q = tuple(names[i : i + 4]), values[:, i : i + 4].astype(np.float64)
        dims, title = tuple(f"{what} {name}" for name in group), f"{what} {group[0]!r} to {group[3]!r}"
        findings += _check_length(title, q, dims, spans) + _check_signs(title, q, dims, spans)
        if named_order(group) is None:
            squares = ", ".join(f"{x:.2f}" for x in (q**2).mean(0))
            text = f"{title} is a quaternion whose names do not tell the order; mean squares {squares}"
            advice = "a hand that hardly turns has w near 1, one that looks down has x or y: name them ..._w, ..._x"
            findings.append(Finding("note", "quaternion", text, advice, dims))
    return findings


def _check_length(title: str, q: np.ndarray, dims: tuple[str, ...], spans: Spans) -> list[Finding]:
    off = np.abs(np.linalg.norm(q, axis=1) - 1)
    wrong = off > UNIT
    if not wrong.any():
        return []
    frame = int(off.argmax())
    text = (
        f"{title} has not length 1 in {percent(wrong.mean())} of the frames, "
        f"{number(float(np.linalg.norm(q[frame])))} in {spans.place(frame)}"
    )
    return [Finding("error", "quaternion", text, "these are no rotations: correct the recording", dims)]


def _check_signs(title: str, q: np.ndarray, dims: tuple[str, ...], spans: Spans) -> list[Finding]:
    """q and -q are one rotation, and two very different inputs."""
    frames = spans.before(1)
    flips = frames[(q[frames] * q[frames + 1]).sum(1) < 0]
    advice = "choose the sign once, for example w >= 0 or that of the frame before, and convert the data set"
    if len(flips):
        text = f"{title} changes sign {len(flips)} times within episodes, first in {spans.place(flips[0] + 1)}"
        return [Finding("warning", "quaternion", text, advice, dims)]
    first = q[spans.starts]
    other = (first @ first[0]) < -MOSTLY
    if other.any():
        text = (
            f"{title} starts with the same rotation in both signs, in {int(other.sum())} of {len(first)} episodes "
            f"with that of {spans.place(spans.starts[int(other.argmax())])}"
        )
        return [Finding("warning", "quaternion", text, advice, dims)]
    return []


def check_jumps(what: str, names: Sequence[str], values: Float[np.ndarray, "n d"], spans: Spans) -> list[Finding]:
    """Angles that jump by a turn from one frame to the next, in radians or in degrees."""
    findings = []
    frames = spans.before(1)
    for i, name in enumerate(names):
        x = values[:, i].astype(np.float64)
        for turn, unit in ((TURN, "2 pi"), (360.0, "360 degrees")):
            if np.ptp(x) > turn * (1 + NEAR_TURN) or np.abs(x).max() > turn * (1 + NEAR_TURN):
                continue
            jumps = frames[np.abs(np.abs(x[frames + 1] - x[frames]) - turn) < NEAR_TURN * turn]
            if len(jumps):
                text = (
                    f"{what} {name!r} jumps by {unit} {len(jumps)} times, first in {spans.place(jumps[0] + 1)}, "
                    f"in {len({spans.episode(int(frame)) for frame in jumps})} of {len(spans.starts)} episodes"
                )
                advice = "shift the angle so that it wraps where the robot never is, or give its sine and cosine"
                findings.append(Finding("warning", "angle wrap", text, advice, (f"{what} {name}",)))
                break
    return findings


def _looks_like_one(q: np.ndarray) -> bool:
    length = np.linalg.norm(q, axis=1)
    is_unit = float((np.abs(length - 1) < UNIT / 2).mean()) >= MOSTLY
    return is_unit and int((q.std(0) > 1e-4).sum()) >= 3
