"""What info.json of a LeRobot folder says about the data: version, rate, cameras, widths and names."""

import math
from pathlib import Path
from typing import Any

from pizero.data import lerobot_layout as layout
from pizero.data.video import RATE_TOLERANCE

COLOURS = 3


def check_info(root: Path, info: dict[str, Any]) -> None:
    """Raises ValueError when the folder cannot be read, is empty, or has no actions or no frame rate."""
    path = root / layout.INFO
    missing = {"codebase_version", "fps", "features", "total_frames", "total_episodes"} - set(info)
    if missing:
        raise ValueError(f"{path} lacks {sorted(missing)}")
    if info["codebase_version"] not in (layout.VERSION, layout.LEGACY_VERSION):
        raise ValueError(
            f"{path}: LeRobot format {info['codebase_version']!r} is not read, {layout.VERSION!r} and "
            f"{layout.LEGACY_VERSION!r} are; convert it with the lerobot package"
        )
    if layout.ACTION not in info["features"]:
        raise ValueError(f"{path} has no feature {layout.ACTION!r}, but {sorted(info['features'])}")
    if not info["total_episodes"] or not info["total_frames"]:
        raise ValueError(f"{root} is empty: {path.name} says 0 episodes or frames")
    rate = info["fps"]
    if not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
        raise ValueError(f"{path}: fps is {rate!r}, must be a number above 0")


def cameras(path: Path, info: dict[str, Any]) -> dict[str, str]:
    """Camera name -> feature name, in the order of the file. Raises ValueError for pictures that are not colour."""
    names = {}
    for key, feature in info["features"].items():
        if feature["dtype"] not in ("image", "video"):
            continue
        shape = feature.get("shape") or [COLOURS]  # height, width, colours; older writers have the colours first
        if COLOURS not in (shape[0], shape[-1]):
            raise ValueError(f"{path}: pictures of {key!r} have shape {shape}; only those with 3 colours are read")
        details = feature.get("info") or feature.get("video_info") or {}
        rate = details.get("video.fps", info["fps"])
        if feature["dtype"] == "video" and abs(rate / info["fps"] - 1) > RATE_TOLERANCE:
            raise ValueError(f"{path}: video {key!r} has {rate} frames a second, the data set {info['fps']}")
        names[key.removeprefix(layout.CAMERA_PREFIX)] = key
    return names


def width_of(path: Path, info: dict[str, Any], feature: str) -> int:
    """Values a frame of a vector. Raises ValueError when the feature is no vector."""
    shape = info["features"][feature]["shape"]
    if len(shape) != 1 or not isinstance(shape[0], int) or shape[0] < 1:
        raise ValueError(f"{path}: {feature!r} has shape {shape}, expected one number, its width")
    return int(shape[0])


def names_of(info: dict[str, Any], feature: str, width: int) -> tuple[str, ...]:
    """Names of the dimensions; lerobot writes a list, a dictionary with one list, or nothing."""
    names = info["features"].get(feature, {}).get("names")
    if isinstance(names, dict) and len(names) == 1:
        (names,) = names.values()
    if isinstance(names, list) and len(names) == width:
        return _unique([str(name) for name in names])
    return tuple(f"{feature.rpartition('.')[2]}_{i}" for i in range(width))


def _unique(names: list[str]) -> tuple[str, ...]:
    """The names, with a number after those that come more than once (LIBERO's two fingers are both "gripper")."""
    twice = {name for name in names if names.count(name) > 1}
    return tuple(f"{name}_{names[:i].count(name)}" if name in twice else name for i, name in enumerate(names))
