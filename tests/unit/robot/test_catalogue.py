"""Robots by name or from a file, and what is refused."""

import json
import subprocess
import sys

import pytest

from pizero.robot.bridge import BRIDGE
from pizero.robot.catalogue import ROBOTS, find_robot


def test_each_robot_is_found_by_its_name():
    assert set(ROBOTS) == {"aloha", "bridge", "droid", "fractal", "libero"}
    for name, robot in ROBOTS.items():
        assert find_robot(name) is robot
        assert robot.name == name


def test_a_robot_in_a_file_is_read(tmp_path):
    file = tmp_path / "arm.json"
    file.write_text(json.dumps(BRIDGE.to_json()))
    assert find_robot(str(file)) == BRIDGE


@pytest.mark.parametrize(("name", "near"), [("DROID", "droid"), ("alloha", "aloha"), ("libero_10", "libero")])
def test_an_unknown_name_is_refused_with_the_nearest(name, near):
    with pytest.raises(ValueError, match=f"robot '{name}' is unknown; nearest: '{near}'; choose one of aloha, bridge"):
        find_robot(name)


def test_a_name_near_to_none_is_refused_with_all():
    with pytest.raises(ValueError, match=r"robot 'zzz' is unknown; choose one of aloha, .*, or give a file"):
        find_robot("zzz")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read as JSON"),
        ("{", "cannot be read as JSON"),
        ("[]", "holds a list, expected an object"),
        ("{}", "keys .* are missing or unknown"),
        (json.dumps(BRIDGE.to_json() | {"cameras": ["a", "a"]}), "cameras has a more than once"),
    ],
    ids=["absent", "no JSON", "list", "empty", "twice"],
)
def test_a_bad_file_is_refused_in_one_line_with_its_path(tmp_path, text, message):
    file = tmp_path / "arm.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=f"robot file .*arm.json.*{message}") as error:
        find_robot(str(file))
    assert "\n" not in str(error.value)


def test_robots_need_no_torch():
    code = "import sys, pizero.robot.catalogue; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
