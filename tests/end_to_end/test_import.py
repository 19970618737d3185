"""Policies of others as a user brings them in: the commands one after the other, and every mistake one line."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pizero import cli
from pizero.data.prompt import train_tokenizer
from pizero.embodiment import Embodiment
from pizero.frame import Frame, save_frame
from pizero.weights.checkpoint import load_configs

GOLDEN = Path(__file__).parents[1] / "parity" / "golden"
LEROBOT = GOLDEN / "lerobot_pi0_base"
OPEN_PI_ZERO = GOLDEN / "open_pi_zero_rope100" / "step19296.pt"
STATE = tuple(f"joint {i}" for i in range(7))
ARM = Embodiment(
    name="test_arm",
    cameras=("front",),
    state=STATE,
    actions=(*STATE[:6], "gripper"),
    control_rate_hz=5.0,
    action_low=(-1.0,) * 7,
    action_high=(1.0,) * 7,
    gripper_action="1 opens",
)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "pizero", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def succeed(*arguments: object) -> str:
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def refuse(monkeypatch, capsys):
    """Runs the command line here: the one line of a user's error."""

    def refuse(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["pizero", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        seen = capsys.readouterr()
        assert end.value.code == 2
        assert seen.out == ""
        [line] = [line for line in seen.err.splitlines() if not line.startswith("import:")]
        assert line.startswith("error: ")
        return line

    return refuse


@pytest.fixture(scope="module")
def robot(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("robot") / "arm.json"
    file.write_text(json.dumps(ARM.to_json()))
    return file


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    file.write_bytes(train_tokenizer(["open the drawer", "close the drawer"], 300))
    return file


@pytest.fixture(scope="module")
def openpi(tmp_path_factory) -> Path:
    """The weights alone."""
    folder = tmp_path_factory.mktemp("openpi") / "pi0"
    folder.mkdir()
    shutil.copy(GOLDEN / "openpi_pi0_base" / "model.safetensors", folder)
    return folder


@pytest.fixture(scope="module")
def stats(tmp_path_factory) -> dict[str, Path]:
    """Statistics in the format of each family."""
    folder = tmp_path_factory.mktemp("stats")
    group = {"mean": [0.5] * 7, "std": [2.0] * 7}
    opz = group | {"p01": [-3.0] * 7, "p99": [3.0] * 7, "min": [-9.0] * 7, "max": [9.0] * 7}
    contents = {
        "openpi": {"norm_stats": {"state": group, "actions": group}},
        "open-pi-zero": {"proprio": opz, "action": opz, "num_transitions": 3},
    }
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return {name: folder / f"{name}.json" for name in contents}


@pytest.fixture(scope="module")
def openpi_flags(robot, tokenizer, stats) -> dict[str, tuple[object, ...]]:
    """All that openpi's weights alone do not say."""
    return {
        "--robot": (robot,),
        "--tokenizer": (tokenizer,),
        "--stats": (stats["openpi"],),
        "--vision-heads": (4,),
        "--horizon": (6,),
        "--joint-units": ("robot",),
        "--delta-actions": STATE[:6],
    }


@pytest.fixture(scope="module")
def open_pi_zero_flags(robot, tokenizer, stats) -> dict[str, tuple[object, ...]]:
    """All that a file of open-pi-zero's trainer does not say."""
    return {
        "--robot": (robot,),
        "--tokenizer": (tokenizer,),
        "--stats": (stats["open-pi-zero"],),
        "--vision-heads": (4,),
        "--horizon": (4,),
        "--action-rope-base": (100,),
        "--time-max-period": (100,),
        "--prompt-length": (10,),
        "--raw-actions": ("gripper",),
    }


def flat(flags: dict[str, tuple[object, ...]]) -> list[object]:
    return [word for flag, values in flags.items() for word in (flag, *values)]


def frame(folder: Path, robot: Embodiment) -> Path:
    draw = np.random.default_rng(0)
    images = {camera: draw.integers(0, 256, (60, 80, 3), np.uint8) for camera in robot.cameras}
    save_frame(folder / "frame.npz", Frame(images, draw.normal(size=len(robot.state)), "open the drawer"))
    return folder / "frame.npz"


def show_and_act(checkpoint: Path, folder: Path) -> np.ndarray:
    """What `pizero show` prints has the card of the import; the chunk of `pizero act`."""
    model, transform = load_configs(checkpoint)
    robot = transform.config.embodiment
    shown = succeed("show", checkpoint)
    assert f"robot     {robot.name}, " in shown
    assert f"chunks of {model.horizon} actions" in shown
    assert "parameters" in shown
    file = frame(folder, robot)
    chunk = json.loads(succeed("act", checkpoint, "--frame", file, "--json", "--device", "cpu"))
    assert chunk["names"] == list(robot.actions)
    actions = np.array(chunk["actions"])
    assert actions.shape == (model.horizon, len(robot.actions))
    assert np.isfinite(actions).all()
    assert actions.std() > 0.01
    return actions


def test_openpi_with_its_flags(openpi, openpi_flags, tmp_path):
    out = tmp_path / "out"
    printed = succeed("import", openpi, out, *flat(openpi_flags))
    for line in (
        "family    openpi",
        "policy    pi0, chunks of 6 actions",
        "robot     test_arm, 5 Hz",
        "cameras   front",
        "gripper   1 opens",
        "scaling   z-score: (x - mean) / (std + 1e-6)",
        f"relative  {', '.join(STATE[:6])}",
        f"wrote {out}; next: pizero show {out}, pizero act {out} --frame FILE",
    ):
        assert line in printed.splitlines()
    assert "gripper [-1, 1]" in printed
    show_and_act(out, tmp_path)
    config = load_configs(out)[1].config
    assert (config.delta_actions, config.prompt_length, config.resize) == (STATE[:6], 48, "pad")
    assert (out / "tokenizer.model").read_bytes() == Path(str(openpi_flags["--tokenizer"][0])).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frame.npz", "out"]


def test_open_pi_zero_with_its_flags_prints_json(open_pi_zero_flags, tmp_path):
    out = tmp_path / "out"
    card = json.loads(succeed("import", OPEN_PI_ZERO, out, *flat(open_pi_zero_flags), "--json"))
    assert (card["family"], card["policy"]) == ("open-pi-zero", "pi0, chunks of 4 actions")
    assert card["scaling"] == "bounds: (x - q01) / (q99 - q01) * 2 - 1, clipped to -1 and 1, but for gripper"
    assert card["relative"] == "no action is relative to the state"
    actions = show_and_act(out, tmp_path)
    assert np.abs(actions).max() <= 1
    model, transform = load_configs(out)
    assert (model.positions, model.attention_softcap, model.action.rope_base) == ("restart", 50.0, 100.0)
    assert (transform.config.resize, transform.config.prompt_format) == ("squash", "open-pi-zero")
    assert transform.stats.state.q01 is not None


def test_lerobot_says_all_itself_and_comes_back_the_same_from_an_export(tmp_path):
    first, exported, second = tmp_path / "first", tmp_path / "exported", tmp_path / "second"
    printed = succeed("import", LEROBOT, first, "--vision-heads", 4)
    assert "family    lerobot" in printed
    show_and_act(first, tmp_path)
    assert f"wrote {exported}" in succeed("export", first, exported, "--format", "lerobot")
    assert "family    lerobot" in succeed("import", exported, second, "--vision-heads", 4)
    for name in ("config.json", "stats.json", "tokenizer.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    one, other = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        assert torch.equal(tensor, other[name]), name  # the rotated time layer too


def test_a_robot_given_by_name_takes_the_place_of_lerobots_neutral_one(tmp_path, refuse):
    neutral = json.loads(succeed("import", LEROBOT, tmp_path / "a", "--vision-heads", 4, "--json"))
    mine = replace(
        ARM,
        cameras=("front", "left", "right"),
        state=(*STATE, "rail"),
        action_low=(),
        action_high=(),
        control_rate_hz=None,
    )
    (tmp_path / "mine.json").write_text(json.dumps(mine.to_json()))
    options = ("--vision-heads", 4, "--robot", tmp_path / "mine.json", "--json")
    named = json.loads(succeed("import", LEROBOT, tmp_path / "b", *options))
    assert named["robot"] == "test_arm, control rate unknown"
    assert (named["cameras"], named["scaling"]) == ("front, left, right", neutral["scaling"])
    assert load_configs(tmp_path / "b")[1].config.embodiment == mine


# what is missing or wrong


def test_all_missing_knowledge_is_asked_for_in_one_line(openpi, openpi_flags, tmp_path, refuse):
    line = refuse("import", openpi, tmp_path / "out")
    assert "--horizon (no tensor's shape tells it), --vision-heads (no tensor's shape tells it)" in line
    line = refuse("import", openpi, tmp_path / "out", "--horizon", 6, "--vision-heads", 4)
    for flag in ("--robot", "--stats", "--delta-actions", "--joint-units", "--tokenizer"):
        assert f"{flag} (" in line
    assert "--normalization" not in line
    line = refuse("import", OPEN_PI_ZERO, tmp_path / "out")
    for flag in ("--horizon", "--action-rope-base", "--time-max-period", "--vision-heads"):
        assert f"{flag} (" in line
    assert "--vision-heads (" in refuse("import", LEROBOT, tmp_path / "out")
    for left_out in openpi_flags:
        rest = {flag: values for flag, values in openpi_flags.items() if flag != left_out}
        line = refuse("import", openpi, tmp_path / "out", *flat(rest))
        assert line.split("; give ")[1].startswith(f"{left_out} (")
        assert line.count("--") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_paligemma_asks_for_its_action_expert(tmp_path, refuse):
    line = refuse("import", GOLDEN / "paligemma/base/official", tmp_path / "out")
    assert "--fresh-expert (the seed of an action expert of random weights" in line
    assert "--horizon (a PaliGemma gives no actions)" in line
    assert "pizero train PRESET --init FOLDER" in line
    assert list(tmp_path.iterdir()) == []


def test_a_contradiction_names_both_sides(openpi, openpi_flags, tmp_path, refuse):
    horizon = flat(openpi_flags | {"--normalization": ("quantile",)})
    line = refuse("import", openpi, tmp_path / "out", *horizon)
    assert "--normalization: openpi says 'z-score', the command line says 'quantile'" in line
    line = refuse("import", LEROBOT, tmp_path / "out", "--vision-heads", 4, "--horizon", 7)
    assert "--horizon: lerobot says 6, the command line says 7" in line
    options = ("--recipe", "pi0_libero", "--horizon", 6, "--vision-heads", 4)
    line = refuse("import", openpi, tmp_path / "out", *options)
    assert "--horizon: --recipe pi0_libero says 50, the command line says 6" in line
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_unknown_are_answered_with_the_nearest(openpi, tmp_path, refuse):
    out = tmp_path / "out"
    assert "nearest: 'pi05_libero'" in refuse("import", openpi, out, "--recipe", "pi05-libero")
    assert "nearest: 'libero'" in refuse("import", openpi, out, "--robot", "liber")
    assert "nothing.json" in refuse("import", openpi, out, "--robot", "nothing.json")
    assert "nothing.json does not exist" in refuse("import", openpi, out, "--stats", "nothing.json")
    assert "nowhere does not exist" in refuse("import", "nowhere", out)
    assert list(tmp_path.iterdir()) == []


def test_a_robot_with_other_counts_than_the_checkpoints_is_refused(robot, tmp_path, refuse):
    line = refuse("import", LEROBOT, tmp_path / "out", "--vision-heads", 4, "--robot", robot)
    assert "--robot: test_arm has 1 cameras ('front',), the checkpoint has 3: ('base_0_rgb'," in line
    assert list(tmp_path.iterdir()) == []


def test_a_missing_tokenizer_is_named_and_nothing_is_written(openpi, openpi_flags, tmp_path, refuse):
    flags = openpi_flags | {"--tokenizer": (tmp_path / "nothing.model",)}
    assert "nothing.model" in refuse("import", openpi, tmp_path / "out", *flat(flags))
    assert list(tmp_path.iterdir()) == []


def test_names_of_the_data_that_the_robot_does_not_have_are_refused(openpi, openpi_flags, tmp_path, refuse):
    flags = openpi_flags | {"--delta-actions": ("elbow",)}
    assert "elbow" in refuse("import", openpi, tmp_path / "out", *flat(flags))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused(openpi, openpi_flags, tmp_path, refuse):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("mine")
    assert "exists already" in refuse("import", openpi, tmp_path / "out", *flat(openpi_flags))
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["precious.txt"]


# killed


SLOW = """
import sys, time
from pathlib import Path
from pizero.weights.facts import Facts
from pizero.weights.importer import import_checkpoint

def report(done, total, note):
    if done > total / 2:
        print("half", flush=True)
        time.sleep(100)

import_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), {"test": Facts(vision_heads=4)}, report)
"""


def test_a_killed_import_leaves_nothing_under_the_name_and_the_next_one_succeeds(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-c", SLOW, str(LEROBOT), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        [left] = tmp_path.iterdir()
        assert left.name == "out.part"
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=20) == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["out.part"]
    assert list(left.iterdir())
    succeed("import", LEROBOT, out, "--vision-heads", 4)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    show_and_act(out, tmp_path)


def test_an_interrupted_import_leaves_nothing_at_all(tmp_path):
    command = [sys.executable, "-c", SLOW, str(LEROBOT), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) != 0
    assert list(tmp_path.iterdir()) == []
