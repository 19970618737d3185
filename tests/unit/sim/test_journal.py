import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pizero.sim.journal import EPISODES, FILMS, SETTINGS, Journal, read_episodes, read_settings
from pizero.sim.outcome import EpisodeResult

SOME = {"policy": "step-8", "tasks": ["toy/a"], "seed": 0, "instruction": None}


def result(episode: int = 0, **changes: object) -> EpisodeResult:
    one = EpisodeResult(
        task="toy/a", episode=episode, seed=7 + episode, state=2, success=True, steps=9, first_success=9, seconds=0.5
    )
    return replace(one, **changes)


def test_what_was_added_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    added = [
        result(0, prompt="öffne", video=folder / FILMS / "a.mp4", plans=3, attempts=2),
        result(1, error="it broke", success=False, state=None, first_success=None),
    ]
    first = Journal(folder, SOME)
    assert first.earlier == []
    for each in added:
        first.add(each)
    assert Journal(folder, SOME).earlier == added
    assert read_settings(folder) == SOME
    moved = folder.rename(tmp_path / "moved")
    assert read_episodes(moved)[0].video == moved / FILMS / "a.mp4"


def test_an_episode_that_was_half_written_is_played_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path, SOME)
    journal.add(result(0))
    journal.add(result(1))
    whole = (tmp_path / EPISODES).read_bytes()
    (tmp_path / EPISODES).write_bytes(whole[:-20])
    again = Journal(tmp_path, SOME)
    assert again.earlier == [result(0)]
    again.add(result(1))
    assert (tmp_path / EPISODES).read_bytes() == whole


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    Journal(tmp_path, SOME).add(result())
    with pytest.raises(ValueError, match="seed is 0 there and 1 now; steps is null there and 4 now"):
        Journal(tmp_path, SOME | {"seed": 1, "steps": 4})
    with pytest.raises(ValueError, match=r'tasks is \["toy/a"\] there and \["toy/b"\] now'):
        Journal(tmp_path, SOME | {"tasks": ["toy/b"]})
    assert read_episodes(tmp_path) == [result()]


def test_settings_of_a_run_without_an_episode_are_replaced(tmp_path: Path) -> None:
    Journal(tmp_path, SOME)
    assert Journal(tmp_path, SOME | {"seed": 1}).earlier == []
    assert read_settings(tmp_path)["seed"] == 1


def test_overwrite_starts_anew_and_touches_nothing_else(tmp_path: Path) -> None:
    Journal(tmp_path, SOME).add(result())
    (tmp_path / FILMS).mkdir()
    for name in ("a.mp4", "a.png", "notes.txt"):
        (tmp_path / FILMS / name).write_text("x")
    (tmp_path / "mine.txt").write_text("mine")
    assert Journal(tmp_path, SOME | {"seed": 1}, overwrite=True).earlier == []
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
        *("mine.txt", SETTINGS, f"{FILMS}/notes.txt")
    ]


def test_the_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / SETTINGS).write_text("{}")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="was not written by an evaluation"):
            Journal(tmp_path, SOME, overwrite)
    (tmp_path / SETTINGS).unlink()
    (tmp_path / EPISODES).write_text("{}\n")
    with pytest.raises(ValueError, match=f"has {EPISODES} but no {SETTINGS}"):
        Journal(tmp_path, SOME)
    with pytest.raises(ValueError, match="is no folder of an evaluation"):
        read_settings(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("line", "words"),
    [("nonsense", "line 2"), ('{"task": "toy/a"}', "line 2: an episode has the keys"), ("twice", "line 2.*twice")],
)
def test_a_line_that_is_no_episode_stops(line: str, words: str, tmp_path: Path) -> None:
    Journal(tmp_path, SOME).add(result())
    file = tmp_path / EPISODES
    file.write_text(file.read_text() + (file.read_text() if line == "twice" else line + "\n"))
    with pytest.raises(ValueError, match=words):
        Journal(tmp_path, SOME)


PROGRAM = """
import sys, time
from pathlib import Path
from test_journal import SOME
from test_rollout import SIMULATOR, NoisyPolicy
from pizero.sim.journal import Journal
from pizero.sim.rollout import evaluate

class SlowPolicy(NoisyPolicy):
    def act_batch(self, frames, seeds=None):
        time.sleep(float(sys.argv[2]))
        return super().act_batch(frames, seeds)

if __name__ == "__main__":
    journal = Journal(Path(sys.argv[1]), SOME)
    evaluate(
        SlowPolicy(), ["toy/a", "toy/b"], 4, 3, workers=2, simulator=SIMULATOR,
        earlier=journal.earlier, finished=journal.add,
    )
"""


def test_a_run_that_was_killed_goes_on_to_the_same_end(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}

    def start(folder: Path, pause: float) -> subprocess.Popen[bytes]:
        command = [sys.executable, program, folder, str(pause)]
        return subprocess.Popen(command, env=environment, start_new_session=True)

    process = start(tmp_path / "killed", 0.2)
    while not (tmp_path / "killed" / EPISODES).exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = read_episodes(tmp_path / "killed")
    assert 0 < len(before) < 8
    for folder in ("killed", "whole"):
        assert start(tmp_path / folder, 0.0).wait() == 0
    killed, whole = (
        sorted((replace(r, seconds=0.0) for r in read_episodes(tmp_path / folder)), key=lambda r: r.key[:2])
        for folder in ("killed", "whole")
    )
    assert killed == whole
    assert len(whole) == 8
    lines = (tmp_path / "killed" / EPISODES).read_text().splitlines()
    assert [json.loads(line)["episode"] for line in lines[: len(before)]] == [r.episode for r in before]
