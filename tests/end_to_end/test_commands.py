"""The steps of the demo as a user types them, one after the other, on a data set of two episodes."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

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
    assert len(succeed("show", "tasks").splitlines()) == 94  # 50 of Meta-World, 4 of SimplerEnv, 40 of LIBERO


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


EVAL = ("--task", TASK, "--episodes", 2, "--execute-steps", 4, "--videos", 1, "--failures", 1, "--num-steps", 2)


@pytest.fixture(scope="module")
def evaluated(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of an evaluation, and what it printed."""
    folder = tmp_path_factory.mktemp("eval") / "out"
    return folder, json.loads(succeed("eval", checkpoint, *EVAL, "--output", folder, "--json"))


def test_eval_counts_films_and_reports(evaluated: tuple[Path, dict[str, Any]]) -> None:
    folder, result = evaluated
    [row] = result["tasks"]
    assert (row["task"], row["episodes"]) == (TASK, 2)
    assert 0 <= row["interval"][0] <= row["rate"] <= row["interval"][1] <= 1
    assert json.loads((folder / "result.json").read_text())["tasks"] == result["tasks"]
    assert (folder / "report.html").stat().st_size > 10_000
    assert len(list((folder / "videos").glob("metaworld-faucet-open-*.mp4"))) == 2 - row["successes"] // 2
    assert result["throughput"]["episodes"] == 2
    assert 0 < result["throughput"]["policy_share"] < 1
    assert result["made_by"].startswith("pizero eval ")
    assert {"metaworld", "mujoco", "torch", "sha256"} <= set(result["settings"])
    assert len((folder / "episodes.jsonl").read_text().splitlines()) == 2


def test_eval_goes_on_where_it_was_stopped_and_repeats_itself(
    checkpoint: Path, evaluated: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, result = evaluated
    stopped = tmp_path / "stopped"
    shutil.copytree(folder, stopped)
    lines = (folder / "episodes.jsonl").read_text().splitlines(keepends=True)
    (stopped / "episodes.jsonl").write_text(lines[0] + lines[1][:50])
    done = pizero("eval", checkpoint, *EVAL, "--workers", 1, "--output", stopped)
    assert done.returncode == 0, done.stderr
    assert "1 of 2 episodes were played before" in done.stderr
    outcomes = [
        [json.loads(line) | {"seconds": 0} for line in path.read_text().splitlines()]
        for path in (folder / "episodes.jsonl", stopped / "episodes.jsonl")
    ]
    assert outcomes[0] == outcomes[1]
    assert json.loads((stopped / "result.json").read_text())["tasks"] == result["tasks"]
    other = [*EVAL[:2], "--episodes", 3, *EVAL[4:]]
    line = refuse("eval", checkpoint, *other, "--output", stopped)
    assert "episodes is 2 there and 3 now" in line
    assert "--overwrite" in line


def test_two_evaluations_are_compared_episode_by_episode(
    checkpoint: Path, evaluated: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, result = evaluated
    options = [*EVAL[:6], "--videos", 0, "--num-steps", 1, "--output", tmp_path / "one", "--against", folder]
    printed = succeed("eval", checkpoint, *options)
    assert "num_steps: 1 against 2" in printed
    total = json.loads(succeed("compare", tmp_path / "one", folder, "--json"))["total"]
    assert total["episodes"] == 2
    assert total["both"] + total["only_second"] == result["total"]["successes"]
    assert total == json.loads((tmp_path / "one" / "result.json").read_text())["comparison"]["total"]


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
        (("eval", "nowhere", "--task", "metaworld/faucet"), "metaworld/faucet-open"),
        (("eval", "nowhere", "--task", TASK, "--assets", "nowhere"), "folder of assets nowhere does not exist"),
        (("eval", "nowhere", "--task", TASK, "--against", "noplace"), "noplace is no folder of an evaluation"),
        (("eval", "ws://127.0.0.1:9", "--task", TASK, "--num-steps", "4"), "leave them out"),
        (("eval", "ws://127.0.0.1:9", "--task", TASK), "127.0.0.1:9"),
        (("compare", "nowhere", "noplace"), "nowhere is no folder of an evaluation"),
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
    refused = refuse("eval", other, "--task", TASK, "--execute-steps", 4)
    assert "another robot" in refused
    assert "somebody_else" in refused


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
