"""What the doctor says of a data set, and where in it something lies."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
"""The most severe first."""


@dataclass(frozen=True)
class Finding:
    """Something that will go wrong, or may."""

    level: Level
    """ "error": training is refused or goes wrong for sure; "warning": it may, look; "note": good to know."""
    topic: str
    """One word or two."""
    text: str
    """What is so, one sentence with numbers."""
    advice: str
    """What to do."""
    dims: tuple[str, ...] = ()
    """The dimensions it is about, each as "state NAME" or "action NAME"."""

    def to_json(self) -> dict[str, Any]:
        """Plain strings and lists."""
        return asdict(self) | {"dims": list(self.dims)}


def ranked(findings: Sequence[Finding]) -> list[Finding]:
    """The most severe first; within a level in the order in which they were found."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


@dataclass(frozen=True)
class Spans:
    """The episodes as ranges of frames, one after the other."""

    starts: Int[np.ndarray, " e"]
    """First frame of each episode."""
    lengths: Int[np.ndarray, " e"]
    """Number of its frames."""

    @classmethod
    def of(cls, lengths: Sequence[int]) -> "Spans":
        """From the lengths alone."""
        array = np.array(lengths, np.int64)
        return cls(np.cumsum(array) - array, array)

    @property
    def ends(self) -> Int[np.ndarray, " e"]:
        """The frame after each episode's last."""
        return self.starts + self.lengths

    def episode(self, frame: int) -> int:
        """Number of the episode that a frame belongs to."""
        return int(np.searchsorted(self.starts, frame, side="right")) - 1

    def place(self, frame: int | np.integer) -> str:
        """Where a frame is, in words."""
        episode = self.episode(int(frame))
        return f"episode {episode}, frame {int(frame) - int(self.starts[episode])}"

    def before(self, gap: int) -> Int[np.ndarray, " p"]:
        """Frames whose episode goes on for `gap` more frames, so that frame + gap is of the same episode."""
        frames = np.arange(self.lengths.sum())
        return frames[frames + gap < np.repeat(self.ends, self.lengths)]


def number(x: float) -> str:
    """A number, short."""
    return f"{x:.4g}"


def percent(share: float) -> str:
    """A share of 1 in percent, short."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def listed(items: Sequence[str], most: int = 4) -> str:
    """The first few, and how many more."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
