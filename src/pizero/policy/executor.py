"""Chunk execution: do the first actions of a chunk, then look again and plan anew."""

from collections import deque

import numpy as np

from pizero.frame import Frame, Policy


class ChunkExecutor:
    """One action at a time from a policy that plans chunks.

    `execute_steps` actions of each chunk are executed before the policy is asked again; at most the horizon.
    """

    def __init__(self, policy: Policy, execute_steps: int) -> None:
        if execute_steps < 1:
            raise ValueError(f"execute_steps is {execute_steps}, must be at least 1")
        self.policy = policy
        self.execute_steps = execute_steps
        self._queue: deque[np.ndarray] = deque()

    @property
    def needs_frame(self) -> bool:
        """True when the next action will be planned from a new frame; otherwise the frame is not looked at."""
        return not self._queue

    def act(self, frame: Frame | None) -> np.ndarray:
        """The next action (a,) in real units. `frame` may be None while actions of the last chunk are left."""
        if not self._queue:
            if frame is None:
                raise ValueError("no action of the last chunk is left; give a frame")
            chunk = self.policy.act(frame)
            if self.execute_steps > len(chunk):
                raise ValueError(f"execute_steps is {self.execute_steps}, but a chunk has {len(chunk)} actions")
            self._queue.extend(chunk[: self.execute_steps])
        return self._queue.popleft()

    def reset(self) -> None:
        """Forget the rest of the last chunk; call it when an episode starts."""
        self._queue.clear()
