"""A policy that is asked for batches of a few sizes only, and one that remembers how long it took."""

import time
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from pizero.frame import Frame
from pizero.sim.rollout import ChunkPolicy


class FewSizes:
    """Pads batches to a power of two, or to `most`: a compiled policy captures a graph for each size that it meets.

    The last frame is repeated, and what comes out for the copies is left out. From one worker to `most` the policy
    meets log2(most) + 1 sizes, or one more, for each length of prompt.
    """

    def __init__(self, policy: ChunkPolicy, most: int) -> None:
        self._policy, self._most = policy, most
        self.embodiment = policy.embodiment

    def act_batch(self, frames: Sequence[Frame], seeds: Sequence[int] | None = None) -> Float32[np.ndarray, "b t a"]:
        """One action chunk per frame, as the policy plans it in the padded batch."""
        copies = padded_size(len(frames), self._most) - len(frames)
        more = None if seeds is None else [*seeds, *[seeds[-1]] * copies]
        return self._policy.act_batch([*frames, *[frames[-1]] * copies], more)[: len(frames)]


def padded_size(size: int, most: int) -> int:
    """The smallest power of two that is not below `size`, but not more than `most`."""
    assert 1 <= size <= most, f"a batch of {size} where {most} is the most"
    return min(most, 2 ** (size - 1).bit_length())


class Timed:
    """A policy that counts the seconds in which it was waited for."""

    def __init__(self, policy: ChunkPolicy) -> None:
        self._policy = policy
        self.embodiment = policy.embodiment
        self.seconds = 0.0
        """Wall time spent in it so far."""
        self.chunks = 0
        """Chunks that it has planned."""

    def act_batch(self, frames: Sequence[Frame], seeds: Sequence[int] | None = None) -> Float32[np.ndarray, "b t a"]:
        """What the policy plans."""
        start = time.perf_counter()
        chunks = self._policy.act_batch(frames, seeds)
        self.seconds += time.perf_counter() - start
        self.chunks += len(frames)
        return chunks
