"""The steps of the demo as a user types them, one after the other, on a data set of two episodes."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pizero.cli import COMMANDS
from pizero.command.demo import Demo
from pizero.frame import load_frame

ROOT = Path(__file__).resolve().parents[2]
TASK = "metaworld/faucet-open"


def pizero(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "pizero", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


def succeed(*arguments: object, cwd: Path | None = None) -> str:
    done = pizero(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refuse(*arguments: object) -> str:
    """The one line of a user's error."""
    done = pizero(*arguments)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stderr.strip()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "faucet"
    printed = succeed("collect", TASK, "--root", root, "--episodes", 2, "--workers", 1)
    assert f"{TASK}: 2 episodes" in printed
    return root


@pytest.fixture(scope="module")
def checkpoint(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run") / "debug"
    options = ("--data.root", dataset, "--output", run, "--steps", 4, "--data.raw-actions", "gripper")
    printed = succeed("train", "debug", *options)
    assert "done at step 4" in printed
    return run / "step-000004"


def test_stats_are_those_of_the_data_set(dataset: Path) -> None:
    computed = json.loads(succeed("stats", dataset, "--json"))
    assert computed["actions"]["count"] > 50
    assert np.abs(computed["actions"]["max"]).max() <= 1
    assert "gripper" in succeed("stats", dataset)


def test_show_tells_what_is_in_a_data_set_a_checkpoint_a_preset(dataset: Path, checkpoint: Path) -> None:
    assert "2 episodes" in succeed("show", dataset)
    assert "metaworld_sawyer" in succeed("show", checkpoint)
    assert re.search(r"all +3,23\d,\d{3},\d{3}", succeed("show", "pi0"))
    assert len(succeed("show", "tasks").splitlines()) == 50


def test_act_plans_the_same_chunk_for_the_same_frame_and_seed(dataset: Path, checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "frame.npz"
    succeed("show", dataset, "--save-frame", file, "--frame", 5)
    assert load_frame(file).images["corner2"].shape == (96, 96, 3)
    first, second = (json.loads(succeed("act", checkpoint, "--frame", file, "--json")) for _ in range(2))
    assert first == second
    assert np.shape(first["actions"]) == (4, 4)
    other = json.loads(succeed("act", checkpoint, "--frame", file, "--json", "--seed", 1))
    assert other != first
    assert "gripper" in succeed("act", checkpoint, "--frame", file)


def test_eval_counts_films_and_reports(checkpoint: Path, tmp_path: Path) -> None:
    options = ("--task", TASK, "--episodes", 2, "--execute-steps", 4, "--videos", 1, "--num-steps", 2)
    printed = succeed("eval", checkpoint, *options, "--output", tmp_path / "out", "--json")
    result = json.loads(printed)
    [row] = result["tasks"]
    assert (row["task"], row["episodes"]) == (TASK, 2)
    assert 0 <= row["interval"][0] <= row["rate"] <= row["interval"][1] <= 1
    assert json.loads((tmp_path / "out" / "result.json").read_text())["tasks"] == result["tasks"]
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    assert len(list((tmp_path / "out" / "videos").glob("*.mp4"))) == 1


def test_the_demo_runs_from_nothing_to_its_report(tmp_path: Path) -> None:
    options = ("--demonstrations", 1, "--train-seconds", 2, "--episodes", 1, "--workers", 1)
    tasks = ("--tasks", TASK, "metaworld/faucet-close")
    printed = succeed("demo", "--output", tmp_path / "demo", *tasks, *options)
    assert str(tmp_path / "demo" / "report.html") in printed
    result = json.loads((tmp_path / "demo" / "result.json").read_text())
    assert [row["task"] for row in result["tasks"]] == [TASK, "metaworld/faucet-close"]
    for row in result["tasks"]:
        assert row["episodes"] == 1
        assert set(row["baselines"]) == {"untrained", "mean action", "told the other task"}
    names = [stage["name"] for stage in result["stages"]]
    assert names[:3] == ["collect demonstrations", "train", "evaluate trained"]
    assert not (tmp_path / "demo.part").exists()
    succeed("act", tmp_path / "demo" / "checkpoint", "--frame", tmp_path / "demo" / "frame.npz")
    for command in result["commands"]:
        assert command["line"].split()[0] in ("pizero", "tensorboard")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("colect",), "did you mean 'collect'"),
        (("collect", "metaworld/faucet-opne", "--root", "x"), "metaworld/faucet-open"),
        (("train", "demmo"), "did you mean demo"),
        (("train", "debug"), "--data.root"),
        (("train", "debug", "--data.root", "nowhere"), "nowhere"),
        (("stats", "nowhere"), "nowhere"),
        (("eval", "nowhere", "--task", TASK), "nowhere"),
        (("act", "nowhere", "--frame", "nothing.npz"), "nothing.npz"),
        (("show", "nowhere"), "neither a folder nor a preset"),
        (("demo", "--tasks", "metaworld/faucet"), "metaworld/faucet-open"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(arguments: tuple[str, ...], words: str) -> None:
    line = refuse(*arguments)
    assert words in line
    assert len(line.splitlines()) == 1


def test_the_demo_does_not_replace_a_folder_that_is_not_a_demo(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    assert "not the folder of an earlier demo" in refuse("demo", "--output", tmp_path)
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_a_checkpoint_of_another_robot_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    config = json.loads((other / "config.json").read_text())
    config["transform"]["embodiment"]["name"] = "somebody_else"
    (other / "config.json").write_text(json.dumps(config))
    assert "somebody_else" in refuse("eval", other, "--task", TASK, "--execute-steps", 4)


def test_a_moved_checkpoint_acts_the_same(dataset: Path, checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "frame.npz"
    succeed("show", dataset, "--save-frame", file)
    moved = tmp_path / "somewhere" / "else"
    shutil.copytree(checkpoint, moved, ignore=shutil.ignore_patterns("train_state", "train.json"))
    assert succeed("act", moved, "--frame", file) == succeed("act", checkpoint, "--frame", file)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_its_own_help(command: str) -> None:
    assert f"pizero {command}" in succeed(command, "--help")


def test_the_readme_names_only_commands_and_presets_that_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    used = set(re.findall(r"^\.venv/bin/pizero (\S+)|^pizero (\S+)", readme, flags=re.MULTILINE))
    assert used
    assert {a or b for a, b in used} <= set(COMMANDS)


def test_the_demo_asks_for_different_things_of_the_same_object() -> None:
    tasks = Demo().tasks
    assert len(tasks) >= 4
    assert {"metaworld/window-open", "metaworld/window-close"} <= set(tasks)
