"""One episode in a folder of its own, its pictures encoded: what `LeRobotWriter` joins to a data set.

So many processes can record at a time, and what they have recorded survives them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32

from pizero.data.lerobot_stats import Pixels
from pizero.data.video import VideoWriter
from pizero.embodiment import Embodiment
from pizero.frame import Frame

Extra = Mapping[str, bool | int | float | str]
NUMBERS = "numbers.npz"
ABOUT = "episode.json"
PIXELS_PREFIX = "pixels."


@dataclass(frozen=True)
class EncodedEpisode:
    """An episode of n frames: its numbers, and where its pictures are."""

    state: Float32[np.ndarray, "n s"]
    """In real units."""
    actions: Float32[np.ndarray, "n a"]
    """In real units; row i was commanded on seeing frame i."""
    prompts: Sequence[str]
    """The instruction of each frame."""
    extra: Extra
    """What the recorder wants to remember."""
    sizes: Mapping[str, tuple[int, int]]
    """Camera -> height, width."""
    videos: Mapping[str, Path]
    """Camera -> video file of n frames."""
    pixels: Mapping[str, Pixels]
    """Camera -> statistics of the pictures before they were encoded."""


def write_episode(
    folder: Path, robot: Embodiment, frames: Sequence[Frame], actions: Float[np.ndarray, "n a"], extra: Extra
) -> None:
    """Write an episode into an empty folder: `actions[i]`, in real units, was commanded on seeing `frames[i]`.

    It must have passed `check_episode`. Raises ValueError when a side of a picture is odd.
    """
    assert robot.control_rate_hz is not None, "a video has a rate"
    prompts = list(dict.fromkeys(frame.prompt for frame in frames))
    numbers = {
        "state": np.stack([frame.state for frame in frames]).astype(np.float32),
        "actions": np.asarray(actions, np.float32),
        "prompt_index": np.array([prompts.index(frame.prompt) for frame in frames]),
    }
    sizes = {camera: frames[0].images[camera].shape[:2] for camera in robot.cameras}
    for camera in robot.cameras:
        images = [frame.images[camera] for frame in frames]
        video = VideoWriter(_video(folder, camera), sizes[camera], robot.control_rate_hz)
        for image in images:
            video.add(image)
        video.close()
        pixels = Pixels.of(images)
        numbers[PIXELS_PREFIX + camera] = pixels.counts
        numbers[PIXELS_PREFIX + camera + ".num_images"] = np.array(pixels.num_images)
    with (folder / NUMBERS).open("wb") as file:
        np.savez(file, **numbers)  # type: ignore[arg-type]  # its stub takes the names for allow_pickle
    about = {"prompts": prompts, "extra": dict(extra), "sizes": sizes}
    (folder / ABOUT).write_text(json.dumps(about), encoding="utf-8")


def read_episode(folder: Path) -> EncodedEpisode:
    """What `write_episode` wrote. Raises OSError where it is not there."""
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    with np.load(folder / NUMBERS, allow_pickle=False) as file:
        numbers = dict(file)
    cameras = list(about["sizes"])
    pixels = {camera: Pixels() for camera in cameras}
    for camera in cameras:
        pixels[camera].counts += numbers[PIXELS_PREFIX + camera]
        pixels[camera].num_images = int(numbers[PIXELS_PREFIX + camera + ".num_images"])
    return EncodedEpisode(
        state=numbers["state"],
        actions=numbers["actions"],
        prompts=[about["prompts"][i] for i in numbers["prompt_index"]],
        extra=about["extra"],
        sizes={camera: (size[0], size[1]) for camera, size in about["sizes"].items()},
        videos={camera: _video(folder, camera) for camera in cameras},
        pixels=pixels,
    )


def check_episode(
    name: str,
    robot: Embodiment,
    sizes: Mapping[str, tuple[int, int]],
    frames: Sequence[Frame],
    actions: Float[np.ndarray, "n a"],
) -> None:
    """Raises ValueError that begins with `name` when an episode has no frames, does not fit the robot, holds numbers
    that are not finite, or has pictures of other sizes than `sizes` (camera -> height, width)."""
    if not len(frames):
        raise ValueError(f"{name} has no frames")
    if actions.shape != (len(frames), len(robot.actions)):
        raise ValueError(
            f"{name} has actions of shape {actions.shape}; for its {len(frames)} frames {robot.name} "
            f"needs {(len(frames), len(robot.actions))}"
        )
    _check_finite(name, "action", actions, robot.actions)
    for i, frame in enumerate(frames):
        if len(frame.state) != len(robot.state):
            raise ValueError(
                f"{name}, frame {i} has a state of {len(frame.state)} values, {robot.name} has "
                f"{len(robot.state)}: {robot.state}"
            )
        own = {camera: image.shape[:2] for camera, image in frame.images.items()}
        if own != sizes:
            raise ValueError(f"{name}, frame {i} has images {own}, the data set takes {dict(sizes)}")
    _check_finite(name, "state", np.stack([frame.state for frame in frames]), robot.state)


def _check_finite(name: str, what: str, values: np.ndarray, names: Sequence[str]) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        raise ValueError(f"{name}, frame {bad[0][0]}: {what} {names[bad[0][1]]!r} is {values[tuple(bad[0])]}")


def _video(folder: Path, camera: str) -> Path:
    return folder / f"{camera}.mp4"
