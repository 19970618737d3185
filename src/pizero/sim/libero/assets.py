"""Where LIBERO's files lie: tasks and initial states come with its package, meshes and textures do not."""

import fcntl
import importlib.util
import json
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

from pizero.sim.assets import VARIABLE, assets_folder
from pizero.sim.env import SimulatorUnavailableError, Task
from pizero.sim.libero.task import file_stem

FOLDERS = ("articulated_objects", "scenes", "stable_hope_objects", "stable_scanned_objects", "turbosquid_objects")
"""What a folder of LIBERO's assets has in it."""
ARCHIVE = "libero_assets.tar.xz"
"""A packed folder of assets; its one top folder is `assets`."""

_INSTALL = (
    "pip install 'pizero[libero]' && pip install --no-deps robosuite==1.4.0 hf-libero==0.1.4 bddl==1.0.1"
    # robosuite and hf-libero ask for versions that exclude each other's and MuJoCo's; they run with ours
)
_DOWNLOAD = "hf download lerobot/libero-assets --repo-type dataset --local-dir ~/.cache/libero/assets"
"""The place and the source of hf-libero's own download (libero/libero/utils/download_utils.py), which itself does not
run with huggingface-hub 1 and later."""


def package_folder() -> Path:
    """Folder of the package `libero.libero`. SimulatorUnavailableError when it is not installed."""
    found = importlib.util.find_spec("libero")
    if found is None or found.origin is None:
        raise unavailable("there is no package libero")
    return Path(found.origin).parent / "libero"


def unavailable(reason: str) -> SimulatorUnavailableError:
    """The error that says what of LIBERO's packages is missing, and how to install them."""
    return SimulatorUnavailableError(f"LIBERO is not installed ({reason}); install it: {_INSTALL}")


def task_files(task: Task) -> tuple[Path, Path]:
    """A task's description (*.bddl) and its prescribed initial states (*.pruned_init)."""
    folder, stem = package_folder(), file_stem(task)
    return folder / "bddl_files" / f"{stem}.bddl", folder / "init_files" / f"{stem}.pruned_init"


def find_assets() -> Path:
    """The folder with meshes and textures.

    With `--assets` or its environment variable: `libero/assets`, `libero_assets` or `libero_assets.tar.xz` in that
    folder, the last unpacked once into the user's cache. Else where LIBERO keeps them: the `assets` of its config.yaml,
    its package, its download. SimulatorUnavailableError when they are not there.
    """
    given = assets_folder()
    if given is not None:
        places = [given / "libero" / "assets", given / "libero_assets"]
        archive = given / ARCHIVE
        if archive.is_file() and not any(_complete(place) for place in places):
            return _unpack(archive)
        wanted = f"libero/assets, libero_assets or {ARCHIVE} in {given}"
    else:
        places = _own_places()
        wanted = "LIBERO's assets"
    for place in places:
        if _complete(place):
            return place
    raise SimulatorUnavailableError(
        f"{wanted} not found; get them: {_DOWNLOAD}, or give a folder that has them with --assets or {VARIABLE}"
    )


def config_folder() -> Path:
    """A folder with a config.yaml for LIBERO, for its environment variable LIBERO_CONFIG_PATH.

    Without such a file LIBERO asks questions when it is imported. The user's own file is left alone.
    """
    package = package_folder()
    folder = cache_folder() / "config"
    paths = {"benchmark_root": "", "bddl_files": "bddl_files", "init_states": "init_files", "datasets": "../datasets"}
    text = json.dumps({name: str(package / path) for name, path in paths.items()} | {"assets": str(package / "assets")})
    file = folder / "config.yaml"  # JSON is YAML
    if not file.is_file() or file.read_text() != text:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".part", delete=False) as aside:
            aside.write(text)
        os.replace(aside.name, file)
    return folder


def cache_folder() -> Path:
    """The user's cache for what this file writes."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "pizero" / "libero"


def _own_places() -> list[Path]:
    config = Path(os.environ.get("LIBERO_CONFIG_PATH") or Path.home() / ".libero") / "config.yaml"
    named = []
    if config.is_file():
        import yaml  # a requirement of LIBERO's, not of ours

        content = yaml.safe_load(config.read_text())
        if isinstance(content, dict) and isinstance(content.get("assets"), str):
            named = [Path(content["assets"])]
    return [*named, package_folder() / "assets", Path.home() / ".cache" / "libero" / "assets"]


def _complete(folder: Path) -> bool:
    return all((folder / name).is_dir() for name in FOLDERS)


def _unpack(archive: Path) -> Path:
    """Where the archive is unpacked; unpacks it when it is not yet. Processes that start together wait for one."""
    stat = archive.stat()
    folder = cache_folder() / f"assets-{stat.st_size}-{stat.st_mtime_ns}"
    if _complete(folder / "assets"):
        return folder / "assets"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "unpack.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _complete(folder / "assets"):
            _extract(archive, folder)
    return folder / "assets"


def _is_inside(member: tarfile.TarInfo) -> bool:
    """Whether it is a file or folder whose name leads nowhere else."""
    path = Path(member.name)
    return (member.isfile() or member.isdir()) and not path.is_absolute() and ".." not in path.parts


def _extract(archive: Path, folder: Path) -> None:
    aside = Path(tempfile.mkdtemp(dir=folder.parent, suffix=".part"))
    try:
        with tarfile.open(archive) as file:
            if hasattr(tarfile, "data_filter"):
                file.extractall(aside, filter="data")
            else:  # Python 3.11.0 to 3.11.3
                file.extractall(aside, members=[member for member in file if _is_inside(member)])
        if not _complete(aside / "assets"):
            raise SimulatorUnavailableError(f"{archive} has no folder assets with {', '.join(FOLDERS)}")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(aside, folder)
    except (tarfile.TarError, EOFError) as error:
        raise SimulatorUnavailableError(f"{archive} cannot be unpacked: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
