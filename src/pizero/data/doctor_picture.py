"""Pictures: black, blank, frozen while the robot moves, unreadable, twice the same, badly shaped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8

from pizero.data.choice import Resize
from pizero.data.doctor_finding import Finding, Level, Spans, percent
from pizero.data.recording import CorruptPicture

BLACK = 4.0
"""Mean brightness, of 255, of a picture that shows nothing."""
BLANK = 2.0
"""Standard deviation of the brightness of a picture of one colour."""
BLOCK = 8
"""Side of the blocks of pixels whose means are compared: video compression changes pixels, hardly means."""
FROZEN = 1.0
"""Largest change of a block's mean, of 255, of a picture that stands still."""
MOVED = 0.1
"""Part of its range by which some state must have changed before a picture should."""
GAP_S = 1.0
"""Time after which a picture is looked at again."""
MOST = 0.5
"""Part of the pictures from which a fault is an error."""
MUCH_BLACK = 0.3
"""Part of the model's picture that padding may take without a word."""
STRETCHED = 1.05
"""Ratio of the sides from which a picture is not square."""


@runtime_checkable
class Pictures(Protocol):
    """A data set's pictures."""

    def image(self, i: int | np.integer, camera: str) -> UInt8[np.ndarray, "h w 3"]:
        """Of one camera at frame i. Raises CorruptPicture, which names the file."""
        ...


@dataclass(frozen=True)
class Sample:
    """A picture, and one some time later in the same episode."""

    frame: int
    """Number of the frame."""
    picture: UInt8[np.ndarray, "h w 3"]
    later: UInt8[np.ndarray, "h w 3"]
    moved: bool
    """Whether the robot's state changed in between."""


def choose_frames(spans: Spans, count: int, gap: int) -> Int[np.ndarray, "k 2"]:
    """At most `count` frames, evenly over all, each with one `gap` frames later, or the last of its episode."""
    total = int(spans.lengths.sum())
    frames = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))
    last = np.repeat(spans.ends - 1, spans.lengths)[frames]
    return np.stack([frames, np.minimum(frames + gap, last)], 1)


def read_samples(
    dataset: Pictures, camera: str, pairs: Int[np.ndarray, "k 2"], state: Float[np.ndarray, "n s"]
) -> tuple[list[Sample], list[str]]:
    """The pictures of one camera, and what was said of those that cannot be decoded."""
    scale = np.maximum(np.ptp(state, axis=0), np.finfo(np.float32).tiny)
    samples, broken = [], []
    for frame, later in pairs:
        try:
            pictures = dataset.image(int(frame), camera), dataset.image(int(later), camera)
        except CorruptPicture as error:  # reported by `check_broken`
            broken.append(str(error))
            continue
        moved = bool((np.abs(state[later] - state[frame]) > MOVED * scale).any())
        samples.append(Sample(int(frame), *pictures, moved))
    return samples, broken


def check_broken(camera: str, broken: Sequence[str], num_read: int) -> list[Finding]:
    """Pictures that cannot be decoded; `broken` is what was said of each."""
    if not broken:
        return []
    text = f"camera {camera!r}: {len(broken)} of {num_read} sampled frames cannot be decoded: {broken[0]}"
    advice = "copy that file again"
    if len(broken) < num_read:
        advice += ", or train on other frames in their place: --data.corrupt skip"
    return [Finding("error", "pictures", text, advice)]


def check_pictures(camera: str, samples: Sequence[Sample], spans: Spans) -> list[Finding]:
    """Black, blank and frozen ones, and more than one size."""
    black = [s for s in samples if s.picture.mean() < BLACK]
    rest = [s for s in samples if s.picture.mean() >= BLACK]
    blank = [s for s in rest if s.picture.mean(2).std() < BLANK]
    seen = [s for s in rest if s.picture.mean(2).std() >= BLANK]
    moving = [s for s in seen if s.moved and s.picture.shape == s.later.shape]
    frozen = [s for s in moving if _change(s.picture, s.later) < FROZEN]
    findings = _useless(camera, "are black", black, len(samples), spans)
    findings += _useless(camera, "are of one colour", blank, len(samples), spans)
    findings += _useless(camera, "stay the same while the robot moves", frozen, len(moving), spans)
    sizes = sorted({s.picture.shape[:2] for s in samples})
    if len(sizes) > 1:
        text = f"camera {camera!r} has pictures of {len(sizes)} sizes: {', '.join(f'{h} x {w}' for h, w in sizes)}"
        findings.append(Finding("warning", "pictures", text, "record one camera at one size"))
    return findings


def _useless(camera: str, what: str, bad: Sequence[Sample], among: int, spans: Spans) -> list[Finding]:
    if not bad:
        return []
    text = f"camera {camera!r}: {len(bad)} of {among} sampled pictures {what}, as in {spans.place(bad[0].frame)}"
    level: Level = "error" if len(bad) > MOST * among else "warning"
    advice = "the model learns nothing from them: look at the video, drop the episodes or the camera"
    return [Finding(level, "pictures", text, advice)]


def check_size(camera: str, size: tuple[int, int], side: int, how: Resize) -> list[Finding]:
    """What happens to a picture of (height, width) on its way to the model's square of `side` pixels."""
    findings = []
    height, width = size
    shape = f"camera {camera!r} is {height} x {width}"
    ratio = max(height, width) / min(height, width)
    if how == "squash" and ratio > STRETCHED:
        text = f"{shape} and is squeezed by {percent(1 - 1 / ratio)} to a square"
        findings.append(Finding("note", "pictures", text, "crop it, or choose --data.resize pad"))
    if how != "squash" and 1 - 1 / ratio > MUCH_BLACK:
        text = f"{shape}: {percent(1 - 1 / ratio)} of the model's picture is black padding"
        findings.append(Finding("note", "pictures", text, "crop the sides that show nothing"))
    if max(height, width) < side:
        text = f"{shape} and is enlarged to {side}"
        findings.append(Finding("note", "pictures", text, "record larger pictures, if details matter"))
    return findings


def check_same(samples: Mapping[str, Sequence[Sample]]) -> list[Finding]:
    """Two cameras that show the same."""
    cameras, findings = list(samples), []
    for i, first in enumerate(cameras):
        for second in cameras[i + 1 :]:
            others = {s.frame: s.picture for s in samples[second]}
            pairs = [(s.picture, others[s.frame]) for s in samples[first] if s.frame in others]
            visible = [(a, b) for a, b in pairs if a.mean() >= BLACK and a.shape == b.shape]
            if visible and all(_change(a, b) < FROZEN for a, b in visible):
                text = f"cameras {first!r} and {second!r} show the same picture in all {len(visible)} sampled frames"
                advice = "one of them was recorded twice: the other view is missing"
                findings.append(Finding("warning", "pictures", text, advice))
    return findings


def _change(a: np.ndarray, b: np.ndarray) -> float:
    """The largest change of the mean of a block of pixels."""
    height, width = (max(BLOCK, n // BLOCK * BLOCK) for n in a.shape[:2])
    change = a[:height, :width].astype(np.float32) - b[:height, :width]
    if a.shape[0] < BLOCK or a.shape[1] < BLOCK:
        return float(np.abs(change.mean((0, 1))).max())
    blocks = change.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3)
    return float(np.abs(blocks.mean((1, 3))).max())
