import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from pizero.sim.assets import VARIABLE
from pizero.sim.env import SimulatorUnavailableError
from pizero.sim.libero import assets
from pizero.sim.libero.assets import ARCHIVE, FOLDERS, cache_folder, config_folder, find_assets, package_folder
from pizero.sim.libero.package import import_libero

pytest.importorskip("libero")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and no folder of assets."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for variable in (VARIABLE, "XDG_CACHE_HOME", "LIBERO_CONFIG_PATH"):
        monkeypatch.delenv(variable, raising=False)
    return home


def fill(folder: Path) -> Path:
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_text(name)
    return folder


def pack(folder: Path, content: Path) -> Path:
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / ARCHIVE, "w:xz") as file:
        file.add(content, "assets")
    return folder


@pytest.mark.parametrize("place", ["libero/assets", "libero_assets"])
def test_a_given_folder_may_hold_them_in_two_places(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fill(tmp_path / "given" / place)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "given"))
    assert find_assets() == expected


def test_an_archive_is_unpacked_once_and_anew_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = pack(tmp_path / "given", fill(tmp_path / "content"))
    monkeypatch.setenv(VARIABLE, str(given))
    first = find_assets()
    assert first.is_relative_to(cache_folder())
    assert (first / "scenes" / "file").read_text() == "scenes"
    unpacked = first.stat().st_mtime_ns
    assert find_assets() == first
    assert first.stat().st_mtime_ns == unpacked
    (tmp_path / "content" / "scenes" / "file").write_text("other scenes")
    pack(given, tmp_path / "content")
    second = find_assets()
    assert second != first
    assert (second / "scenes" / "file").read_text() == "other scenes"
    os.utime(given / ARCHIVE, ns=(0, 12345))  # as large as before, but written at another time
    assert find_assets() not in (first, second)
    assert not list(cache_folder().glob("*.part"))


def test_workers_that_start_together_unpack_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = fill(tmp_path / "content")
    (content / "scenes" / "large").write_bytes(os.urandom(1_000_000))
    program = (
        "import os, sys, time, tarfile\n"
        "from pathlib import Path\n"
        "from pizero.sim.libero import assets\n"
        "extract = assets._extract\n"
        "def slowly(archive, folder):\n"
        "    print('unpacks'); extract(archive, folder); time.sleep(0.5)\n"
        "assets._extract = slowly\n"
        "time.sleep(max(0, float(sys.argv[1]) - time.time()))\n"
        "found = assets.find_assets()\n"
        "print((found / 'scenes' / 'large').stat().st_size)\n"
    )
    monkeypatch.setenv(VARIABLE, str(pack(tmp_path / "given", content)))
    start = str(time.time() + 3)
    command = [sys.executable, "-c", program, start]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = sorted(worker.communicate(timeout=60)[0] for worker in workers)
    assert outputs == ["1000000\n"] * 3 + ["unpacks\n1000000\n"]


def test_a_broken_or_foreign_archive_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = pack(tmp_path / "given", fill(tmp_path / "content"))
    monkeypatch.setenv(VARIABLE, str(given))
    whole = (given / ARCHIVE).read_bytes()
    (given / ARCHIVE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SimulatorUnavailableError, match=f"{ARCHIVE} cannot be unpacked: "):
        find_assets()
    (given / ARCHIVE).unlink()
    (tmp_path / "other").mkdir()
    pack(given, tmp_path / "other")
    with pytest.raises(SimulatorUnavailableError, match="no folder assets with articulated_objects, scenes"):
        find_assets()
    assert [path.name for path in cache_folder().iterdir()] == ["unpack.lock"]


def test_without_a_given_folder_liberos_own_places_count(home: Path, tmp_path: Path) -> None:
    downloaded = fill(home / ".cache" / "libero" / "assets")
    assert find_assets() == downloaded
    (home / ".libero").mkdir()
    configured = fill(tmp_path / "configured")
    (home / ".libero" / "config.yaml").write_text(f"assets: {configured}\nbddl_files: elsewhere\n")
    assert find_assets() == configured


def test_missing_assets_are_said_with_the_command_that_brings_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SimulatorUnavailableError) as error:
        find_assets()
    assert "LIBERO's assets not found; get them: hf download lerobot/libero-assets" in str(error.value)
    assert "--assets" in str(error.value)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(SimulatorUnavailableError, match=f"libero/assets, libero_assets or {ARCHIVE} in {tmp_path} not"):
        find_assets()
    assert "\n" not in str(error.value)


def test_missing_packages_are_said_with_the_command_that_brings_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install = r"install it: pip install 'pizero\[libero\]' && pip install --no-deps robosuite==1.4.0 hf-libero==0.1.4"
    monkeypatch.setitem(sys.modules, "robosuite", None)
    with pytest.raises(SimulatorUnavailableError, match=install):
        import_libero(tmp_path)
    monkeypatch.setattr(assets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SimulatorUnavailableError, match=install):
        package_folder()


def test_the_users_own_configuration_is_left_alone(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import_libero(tmp_path)
    assert "LIBERO_CONFIG_PATH" not in os.environ
    assert not (home / ".libero").exists()
    monkeypatch.setenv("LIBERO_CONFIG_PATH", "/theirs")
    import_libero(tmp_path)
    assert os.environ["LIBERO_CONFIG_PATH"] == "/theirs"
    config = config_folder() / "config.yaml"
    written = config.stat().st_mtime_ns
    assert config_folder() / "config.yaml" == config
    assert config.stat().st_mtime_ns == written
    assert sorted(path.name for path in config.parent.iterdir()) == ["config.yaml"]
