import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from pizero.sim.assets import VARIABLE
from pizero.sim.env import SimulatorUnavailableError
from pizero.sim.simpler import asset
from pizero.sim.simpler.task import TASKS


@pytest.fixture(autouse=True)
def nothing_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(asset.sys.modules, "mani_skill", None)


def fill(root: Path, task: str) -> list[Path]:
    """Creates the files that are asked for, one after the other."""
    made: list[Path] = []
    while True:
        try:
            asset.use(task)
            return made
        except SimulatorUnavailableError as error:
            missing = Path(str(error).split(" is missing")[0])
            missing.parent.mkdir(parents=True, exist_ok=True)
            missing.touch()
            made.append(missing)


@pytest.mark.parametrize("task", TASKS)
def test_the_first_missing_file_is_named_with_what_brings_it(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setenv(asset.VARIABLE, "/somewhere/else")
    with pytest.raises(SimulatorUnavailableError, match=r"mani_skill\.utils\.download_asset.*--assets") as caught:
        asset.use(task)
    assert "\n" not in str(caught.value)
    made = fill(tmp_path, task)
    assert os.environ[asset.VARIABLE] == str(tmp_path / "maniskill3")
    assert all(path.is_relative_to(tmp_path / "maniskill3/data") for path in made)
    assert {path.suffix for path in made} == {".png", ".glb", ".obj", ".urdf"}


def test_without_a_folder_maniskills_own_place_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv(asset.VARIABLE, str(tmp_path))
    with pytest.raises(SimulatorUnavailableError, match=f"{tmp_path}/data/tasks"):
        asset.use("simpler/stack-cube")
    monkeypatch.delenv(asset.VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(SimulatorUnavailableError, match=r"home/\.maniskill/data/tasks"):
        asset.use("simpler/stack-cube")


def test_another_folder_than_the_one_imported_with_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setenv(asset.VARIABLE, "")
    monkeypatch.setitem(asset.sys.modules, "mani_skill", SimpleNamespace(ASSET_DIR=Path("/other/data")))
    with pytest.raises(ValueError, match=f"/other/data already, it cannot take {tmp_path}"):
        asset.use("simpler/stack-cube")
