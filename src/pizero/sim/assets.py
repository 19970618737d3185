"""Where the files of simulators lie that do not come with their packages."""

import os
from pathlib import Path

VARIABLE = "PIZERO_ASSETS"
"""Environment variable with the folder; `--assets` sets it, and worker processes inherit it."""


def use_assets(folder: Path) -> None:
    """Make `folder` the one that this process and its workers look into. Raises ValueError when there is none."""
    if not folder.is_dir():
        raise ValueError(f"the folder of assets {folder} does not exist")
    os.environ[VARIABLE] = str(folder.resolve())


def assets_folder() -> Path | None:
    """The folder given with `--assets` or the environment variable; None when neither is. ValueError if it is gone."""
    name = os.environ.get(VARIABLE)
    if not name:
        return None
    if not Path(name).is_dir():
        raise ValueError(f"{VARIABLE} is {name}, which is no folder")
    return Path(name).resolve()
