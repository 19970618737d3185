import os
from pathlib import Path

import pytest

from pizero.sim.env import SimulatorUnavailableError
from pizero.sim.simpler import render

DRIVERS = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a GPU, two drivers in software, and nothing set; delete what shall not be there."""
    for name in ("gpu", "lavapipe.json", "swiftshader.json"):
        (tmp_path / name).touch()
    monkeypatch.setattr(render, "_NVIDIA", tmp_path / "gpu")
    monkeypatch.setattr(render, "_IN_SOFTWARE", (tmp_path / "lavapipe.json", tmp_path / "swiftshader.json"))
    for name in (render.VARIABLE, *DRIVERS):
        monkeypatch.setenv(name, "")  # put back after the test
    return tmp_path


def set_drivers() -> list[str | None]:
    return [os.environ.get(name) or None for name in DRIVERS]


def test_a_gpu_is_taken_with_the_drivers_that_vulkan_finds(machine: Path) -> None:
    assert render.choose() == "gpu"
    assert set_drivers() == [None, None]


def test_without_a_gpu_the_fastest_driver_in_software_is_taken(machine: Path) -> None:
    (machine / "gpu").unlink()
    assert render.choose() == "cpu"
    assert set_drivers() == [None, str(machine / "lavapipe.json")]
    assert render.choose() == "cpu"  # with what it has set itself


def test_the_next_driver_is_taken_where_the_first_is_missing(machine: Path) -> None:
    (machine / "gpu").unlink()
    (machine / "lavapipe.json").unlink()
    assert render.choose() == "cpu"
    assert set_drivers() == [None, str(machine / "swiftshader.json")]


def test_without_a_known_driver_it_is_left_to_vulkan(machine: Path) -> None:
    for file in machine.iterdir():
        file.unlink()
    assert render.choose() == "cpu"
    assert set_drivers() == [None, None]


@pytest.mark.parametrize("name", DRIVERS)
def test_a_driver_that_is_given_decides_and_stays(machine: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "/opt/lvp_icd.json")
    assert render.choose() == "cpu"
    assert os.environ[name] == "/opt/lvp_icd.json"
    (machine / "gpu").unlink()
    monkeypatch.setenv(name, "/opt/nvidia_icd.json")
    assert render.choose() == "gpu"
    assert os.environ[name] == "/opt/nvidia_icd.json"


def test_the_variable_overrules_what_is_there(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(render.VARIABLE, "cpu")
    monkeypatch.setenv(DRIVERS[0], "/opt/nvidia_icd.json")
    assert render.choose() == "cpu"
    assert set_drivers() == [None, str(machine / "lavapipe.json")]
    (machine / "gpu").unlink()
    monkeypatch.setenv(render.VARIABLE, "gpu")
    assert render.choose() == "gpu"
    monkeypatch.setenv(render.VARIABLE, "cuda")
    with pytest.raises(ValueError, match="PIZERO_RENDER is 'cuda', must be one of auto, cpu, gpu"):
        render.choose()


def test_shaders_of_another_version_are_refused(tmp_path: Path) -> None:
    for part in ("minimal", "common"):
        (tmp_path / part).mkdir()
    (tmp_path / "minimal" / "gbuffer.frag").write_text("void main() {}")
    with pytest.raises(SimulatorUnavailableError, match=r"gbuffer\.frag is not as in SAPIEN 3\.0\.3"):
        render.software_shaders(tmp_path)


def test_native_chatter_is_kept_unless_something_fails(capfd: pytest.CaptureFixture[str]) -> None:
    with render.quiet():
        os.write(2, b"chatter\n")
    assert capfd.readouterr().err == ""
    with pytest.raises(ZeroDivisionError), render.quiet():
        os.write(2, b"the reason\n") / 0
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "the reason\nafter\n"
