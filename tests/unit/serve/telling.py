"""A policy whose every answer says what it was asked."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pizero.embodiment import Embodiment
from pizero.frame import Frame

ARM = Embodiment(
    name="arm",
    cameras=("front", "wrist"),
    state=("x", "y", "z"),
    actions=("dx", "dy"),
    control_rate_hz=10.0,
    action_low=(-1.0, -2.0),
    action_high=(1.0, 2.0),
)


class TellingPolicy:
    """Row t of a chunk is [seed + t, sum of state, length of the instruction, sum of all pixels, how many cameras]."""

    def __init__(self, embodiment: Embodiment = ARM, horizon: int = 4) -> None:
        self.embodiment = replace(
            embodiment,
            actions=("seed", "state", "prompt", "pixels", "cameras"),
            action_low=(),
            action_high=(),
        )
        self.horizon = horizon
        self.batches: list[int] = []

    def act_batch(self, frames: Sequence[Frame], seeds: Sequence[int] | None = None) -> np.ndarray:
        self.batches.append(len(frames))
        return np.stack([self._chunk(f, -1 if seeds is None else seeds[i]) for i, f in enumerate(frames)])

    def _chunk(self, frame: Frame, seed: int) -> np.ndarray:
        if frame.prompt == "stumble":
            raise RuntimeError("out of memory")
        if frame.prompt == "refuse":
            raise ValueError("this policy will not")
        pixels = sum(int(image.sum()) for image in frame.images.values())
        row = [seed, float(frame.state.sum()), len(frame.prompt), pixels, len(frame.images)]
        return np.array([[row[0] + t, *row[1:]] for t in range(self.horizon)], np.float64)
