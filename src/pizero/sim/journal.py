"""The folder of an evaluation while it runs: what it was asked for, and every episode that has ended.

    settings.json     what the outcomes depend on
    episodes.jsonl    one finished episode per line, in the order in which they ended

A run that was stopped goes on from there.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pizero.sim.outcome import EpisodeResult

SETTINGS, EPISODES, FILMS = "settings.json", "episodes.jsonl", "videos"
FORMAT = {"format": "pizero evaluation", "version": 1}
"""What settings.json says beside the settings."""
MOST_NAMED = 4
"""Differences that an error names."""


class Journal:
    """Finished episodes of the evaluation in one folder.

    Raises ValueError when the folder holds an evaluation with other settings, saying which; `overwrite` removes that
    evaluation's settings, episodes and films instead.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        self.folder = folder
        if overwrite:
            _remove(folder)
        if (folder / EPISODES).exists() and not (folder / SETTINGS).exists():
            raise ValueError(f"{folder} has {EPISODES} but no {SETTINGS}; choose another --output")
        there = read_settings(folder) if (folder / SETTINGS).exists() else None
        self.earlier: list[EpisodeResult] = _recover(folder)
        """The episodes that were there when it was opened."""
        if self.earlier and there is not None:
            _compare(folder, there, json.loads(json.dumps(dict(settings))))
        else:
            _write_settings(folder, settings)

    def add(self, result: EpisodeResult) -> None:
        """Writes a finished episode, on the disk before it returns."""
        line = json.dumps(result.to_json(self.folder), ensure_ascii=False) + "\n"
        with (self.folder / EPISODES).open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def read_settings(folder: Path) -> dict[str, Any]:
    """What the evaluation in `folder` was asked for. Raises ValueError when there is none, or of another version."""
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder} is no folder of an evaluation: it has no {SETTINGS}") from None
    except ValueError as error:
        raise ValueError(f"{folder / SETTINGS} cannot be read: {error}") from None
    if not isinstance(settings, dict) or {key: settings.pop(key, None) for key in FORMAT} != FORMAT:
        raise ValueError(f"{folder / SETTINGS} was not written by an evaluation of this version; choose another folder")
    return settings


def read_episodes(folder: Path) -> list[EpisodeResult]:
    """The finished episodes in `folder`. Raises ValueError for a line that is no episode, or one that comes twice.

    A last line without its end was cut off when the run was stopped: that episode is not finished.
    """
    path = folder / EPISODES
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    results: dict[tuple[Any, ...], EpisodeResult] = {}
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            result = EpisodeResult.from_json(json.loads(line), folder)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        if result.key in results:
            raise ValueError(f"{path}, line {number}: the episode is there twice; did two processes write?")
        results[result.key] = result
    return list(results.values())


def _recover(folder: Path) -> list[EpisodeResult]:
    """The finished episodes, after cutting off a last line that has no end."""
    path = folder / EPISODES
    if path.exists():
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            os.truncate(path, len(whole))
    return read_episodes(folder)


def _write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / (SETTINGS + ".part")
    part.write_text(json.dumps(FORMAT | dict(settings), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, folder / SETTINGS)


def _compare(folder: Path, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    different = [key for key in {**there, **now} if there.get(key) != now.get(key)]
    if different:
        said = [f"{key} is {_short(there.get(key))} there and {_short(now.get(key))} now" for key in different]
        more = f" and {len(said) - MOST_NAMED} more" if len(said) > MOST_NAMED else ""
        raise ValueError(
            f"{folder} holds an evaluation with other settings: {'; '.join(said[:MOST_NAMED])}{more}. "
            "Choose another --output, or --overwrite it"
        )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def _remove(folder: Path) -> None:
    """Only what an evaluation writes before its report, whatever else is in the folder."""
    if not (folder / SETTINGS).exists():
        return
    read_settings(folder)  # refuses somebody else's
    for film in [*(folder / FILMS).glob("*.mp4"), *(folder / FILMS).glob("*.png")]:
        film.unlink()
    for name in (EPISODES, SETTINGS):  # in this order: stopped in between, nothing is mistaken for what it is not
        (folder / name).unlink(missing_ok=True)
