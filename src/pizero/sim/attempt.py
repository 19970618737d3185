"""Attempts at demonstrations: how each ended, which are to be made next, and the folder that survives a killed run."""

import json
import os
import shutil
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pizero.embodiment import Embodiment

OUTCOME = "outcome.json"
SETTINGS = "settings.json"


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended."""

    solved: bool
    frames: int
    """Recorded frames; 0 when it was not solved."""
    robot: Embodiment


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Write it beside the episode, if there is one."""
    about = {"solved": outcome.solved, "frames": outcome.frames, "embodiment": outcome.robot.to_json()}
    (folder / OUTCOME).write_text(json.dumps(about), encoding="utf-8")


class Attempts:
    """Attempts at one task: as many are made, from number 0 on, as it takes for `episodes` of them to be solved.

    So which attempts there are in the end does not depend on the order in which they are made.
    """

    def __init__(self, episodes: int, made: Mapping[int, Outcome]) -> None:
        """made: by number, attempts of an earlier run; those beyond what is needed are not looked at."""
        self.outcomes: dict[int, Outcome] = {}
        self.todo: deque[int] = deque()
        self._made = made
        self.planned = 0
        """Attempts that are made or to be made: those below this number."""
        for _ in range(episodes):
            self._plan_one()

    def add(self, attempt: int, outcome: Outcome) -> None:
        """Takes note of an attempt that was made. After one that was not solved another is to be made."""
        self.outcomes[attempt] = outcome
        if not outcome.solved:
            self._plan_one()

    @property
    def solved(self) -> list[int]:
        """Numbers of the solved attempts, in order."""
        return sorted(attempt for attempt, outcome in self.outcomes.items() if outcome.solved)

    @property
    def num_failed(self) -> int:
        """Attempts that were not solved."""
        return len(self.outcomes) - len(self.solved)

    @property
    def num_frames(self) -> int:
        """Frames of the solved attempts together."""
        return sum(outcome.frames for outcome in self.outcomes.values())

    def _plan_one(self) -> None:
        """Plans the next attempt; where it has failed before, those after it up to one that has not."""
        while True:
            attempt, self.planned = self.planned, self.planned + 1
            if attempt not in self._made:
                self.todo.append(attempt)
                return
            self.outcomes[attempt] = self._made[attempt]
            if self._made[attempt].solved:
                return


class AttemptFolder:
    """The attempts on disk, in a folder of their own, until there are enough for a data set.

    Raises ValueError when the folder holds attempts that were made with other settings, naming what differs.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
        self.folder = folder
        if overwrite and folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / SETTINGS
        if path.exists():
            self._check(json.loads(path.read_text(encoding="utf-8")), settings)
            return
        aside = path.with_name(path.name + ".part")
        aside.write_text(json.dumps(settings), encoding="utf-8")
        os.replace(aside, path)

    def place(self, task: str, attempt: int) -> Path:
        """Folder of one attempt."""
        return self.folder / "attempts" / task / f"{attempt:06d}"

    def made(self, task: str) -> dict[int, Outcome]:
        """Attempts at a task that are there, by number."""
        made = {}
        for path in sorted(self.place(task, 0).parent.glob(f"*/{OUTCOME}")):
            if path.parent.name.isdecimal():  # not one that was being written
                about = json.loads(path.read_text(encoding="utf-8"))
                robot = Embodiment.from_json(about["embodiment"])
                made[int(path.parent.name)] = Outcome(about["solved"], about["frames"], robot)
        return made

    def remove_if_empty(self) -> None:
        """Removes the folder when no attempt is in it."""
        if not any(self.folder.glob(f"attempts/**/{OUTCOME}")):
            shutil.rmtree(self.folder)

    def _check(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        differing = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        if differing:
            what = ", ".join(f"{key} {before.get(key)}, now {now.get(key)}" for key in differing)
            raise ValueError(
                f"{self.folder} holds a collection that was not finished, with other settings: {what}; "
                "give its settings to go on with it, or --overwrite to start anew"
            )
