"""How one episode of an evaluation ended, and how that is written down."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class EpisodeResult:
    """How one episode ended. Two runs played the same episode where task, episode, seed and state are equal."""

    task: str
    """Name of the task."""
    episode: int
    """Number of the episode among those of its task, from 0."""
    seed: int
    """What the environment was reset with, and what the policy's noise comes from."""
    state: int | None
    """Number of the benchmark's initial state; None: the seed drew one."""
    success: bool
    """Solved in the state in which the episode ended. False after an error."""
    steps: int
    """Control steps executed; 0 after an error."""
    first_success: int | None = None
    """Control steps after which the task was solved for the first time; None: never."""
    plans: int = 0
    """Chunks that the policy planned; 0 after an error."""
    error: str | None = None
    """Why the episode did not count: a crash of the simulator or its process says nothing about the policy."""
    seconds: float
    """From reset to the end, waiting for the policy and for other workers included; 0 where the process died."""
    prompt: str = ""
    """The instruction given. Empty after an error."""
    attempts: int = 1
    """How often it was played: after a first crash it is repeated once."""
    video: Path | None = None
    """The film of it, where there is one."""

    @property
    def key(self) -> tuple[str, int, int, int | None]:
        """What two runs must have in common for a result of the one to be set beside one of the other."""
        return self.task, self.episode, self.seed, self.state

    def to_json(self, folder: Path) -> dict[str, Any]:
        """Plain values; the path of a film inside `folder` becomes relative to it."""
        video = self.video
        if video is not None and video.is_relative_to(folder):
            video = video.relative_to(folder)
        return asdict(self) | {"video": None if video is None else str(video)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], folder: Path) -> "EpisodeResult":
        """The result that `to_json` wrote in `folder`. Raises ValueError for missing or unknown keys."""
        names = {field.name for field in fields(cls)}
        if wrong := sorted(set(values) ^ names):
            raise ValueError(f"an episode has the keys {', '.join(wrong)} too many or too few")
        video = values["video"]
        return cls(**(dict(values) | {"video": None if video is None else folder / video}))
