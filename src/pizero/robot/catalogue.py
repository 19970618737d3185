"""The robots that are known here by name; any other one is a JSON file."""

import difflib
import json
from pathlib import Path

from pizero.embodiment import Embodiment
from pizero.robot.aloha import ALOHA
from pizero.robot.bridge import BRIDGE
from pizero.robot.droid import DROID
from pizero.robot.fractal import FRACTAL
from pizero.robot.libero import LIBERO

ROBOTS: dict[str, Embodiment] = {robot.name: robot for robot in (ALOHA, BRIDGE, DROID, FRACTAL, LIBERO)}
"""By name."""


def find_robot(name_or_path: str) -> Embodiment:
    """The robot of that name, or the one in a JSON file, whose name ends in .json and which holds `Embodiment.to_json`.

    Raises ValueError for a name that is unknown, with the nearest one, and for a file that is missing or no embodiment.
    """
    if name_or_path in ROBOTS:
        return ROBOTS[name_or_path]
    if name_or_path.endswith(".json"):
        return _read(Path(name_or_path))
    near = difflib.get_close_matches(name_or_path.lower(), ROBOTS, 1)
    hint = f"; nearest: {near[0]!r}" if near else ""
    raise ValueError(
        f"robot {name_or_path!r} is unknown{hint}; choose one of {', '.join(ROBOTS)}, or give a file that ends in .json"
    )


def _read(file: Path) -> Embodiment:
    try:
        data = json.loads(file.read_text())
    except (OSError, ValueError) as error:  # ValueError covers bad JSON and bad UTF-8
        raise ValueError(f"robot file {file} cannot be read as JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"robot file {file} holds a {type(data).__name__}, expected an object")
    try:
        return Embodiment.from_json(data)
    except ValueError as error:
        raise ValueError(f"robot file {file}: {error}") from None
