"""What installs pizero says the same everywhere: versions, Debian packages, extras."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pizero.sim.libero.assets import unavailable

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()}
ALL = [Requirement(line) for line in PROJECT["dependencies"]] + [entry for extra in EXTRAS.values() for entry in extra]
WITHOUT_DEPENDENCIES = re.compile(r"--no-deps ((?:[\w-]+==[\d.]+ ?)+)")
APT = re.compile(r"(?:apt-get install -y --no-install-recommends|apt_install\.sh\"?) ((?:[a-z][a-z0-9.-]+ ?)+)")


def read(path: str) -> str:
    return (ROOT / path).read_text()


def apt_packages(text: str) -> set[str]:
    return {name for words in APT.findall(text) for name in words.split()}


def test_torch_has_no_upper_bound_and_no_extra_asks_for_it() -> None:
    torch = [entry for entry in ALL if entry.name == "torch"]
    assert len(torch) == 1
    assert torch[0].specifier.contains("2.9.0")
    assert torch[0].specifier.contains("99.0")


def test_one_mujoco_serves_all_simulators() -> None:
    pins = {str(entry.specifier) for entry in ALL if entry.name == "mujoco"}
    assert pins == {"==3.3.0"}
    assert {name for name, extra in EXTRAS.items() if any(entry.name == "mujoco" for entry in extra)} == {
        "metaworld",
        "libero",
    }


def test_no_extra_drags_in_what_replaces_torch_or_mujoco() -> None:
    names = {entry.name.lower().replace("_", "-") for entry in ALL}
    assert not names & {"hf-libero", "robosuite", "bddl", "robomimic", "torchvision"}


def test_one_package_owns_cv2() -> None:
    # sapien asks for opencv-python; opencv-python-headless beside it overwrites its files
    assert "opencv-python-headless" not in {entry.name for entry in ALL}


@pytest.mark.parametrize("place", ["docs/install.md", "error message"])
def test_the_versions_installed_without_dependencies_are_everywhere_those_of_the_script(place: str) -> None:
    script = WITHOUT_DEPENDENCIES.findall(read("tools/setup_simulators.sh"))
    text = str(unavailable("")) if place == "error message" else read(place)
    assert [words.split() for words in WITHOUT_DEPENDENCIES.findall(text)] == [script[0].split()]
    assert len(script[0].split()) == 3


def test_container_and_page_name_the_debian_packages_that_the_scripts_install() -> None:
    scripts = apt_packages(read("tools/setup_rendering.sh")) | apt_packages(read("tools/setup_sapien.sh"))
    assert scripts == {"libegl1", "libgl1", "libgl1-mesa-dri", "libglib2.0-0", "libvulkan1"}
    assert apt_packages(read("Containerfile").replace(" \\\n", " ")) == scripts
    assert apt_packages(read("docs/install.md")) == scripts


def test_every_extra_is_on_the_page() -> None:
    page = read("docs/install.md")
    assert [name for name in EXTRAS if f"`{name}`" not in page] == []


def test_the_container_copies_every_script_it_runs_and_nothing_of_this_machine() -> None:
    text = read("Containerfile")
    for script in re.findall(r"tools/\w+\.sh", text):
        assert (ROOT / script).is_file(), script
    assert not re.search(r"index[-_]url|PASSWORD|TOKEN|SECRET", text, re.IGNORECASE)
    ignored = read(".dockerignore").splitlines()
    assert ignored[0] == "*"
    copied = {path for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for path in line.split()}
    assert copied == {line[1:] for line in ignored if line.startswith("!")}


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "tools").glob("*.sh")))
def test_scripts_are_executable_and_parse(script: str) -> None:
    path = ROOT / "tools" / script
    assert path.stat().st_mode & 0o100
    subprocess.run([shutil.which("sh") or "sh", "-n", str(path)], check=True)
