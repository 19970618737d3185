"""How openpi names the observation of each robot, as data, for its servers and for its clients.

openpi sends a flat or nested dict whose keys depend on the robot; its answer has the action chunk under "actions", in
the units of our embodiment of the same robot. Source: the examples of an input in openpi's
src/openpi/policies/{libero,droid,aloha}_policy.py.
"""

import difflib
from dataclasses import dataclass
from typing import Any

import numpy as np

from pizero.embodiment import Embodiment
from pizero.frame import Frame
from pizero.serve.protocol import read_state


@dataclass(frozen=True)
class ObservationKeys:
    """The keys of one robot's observation; "prompt" is "prompt" everywhere.

    Raises ValueError when no state has a key.
    """

    images: dict[str, str]
    """Our camera -> openpi's key of its picture, uint8."""
    state: tuple[tuple[str, int], ...]
    """(openpi's key, how many values), in the order of our state."""
    images_in: str | None = None
    """Key of the dict in which the pictures lie. None: beside the state."""
    channels_first: bool = False
    """Pictures are (3, height, width); else (height, width, 3)."""
    ignored: tuple[str, ...] = ()
    """Pictures that openpi's clients send and its policies do not look at."""

    def __post_init__(self) -> None:
        if not self.state:
            raise ValueError("the keys of an observation name no state; give at least one (key, number of values)")

    def check(self, robot: Embodiment) -> None:
        """Raises ValueError when the keys are not those of this robot's cameras and state."""
        if set(self.images) != set(robot.cameras):
            raise ValueError(f"keys are given for the cameras {tuple(self.images)}, {robot.name} has {robot.cameras}")
        if (size := sum(width for _, width in self.state)) != len(robot.state):
            raise ValueError(f"keys are given for a state of {size} values, {robot.name} has {len(robot.state)}")

    def message(self, frame: Frame) -> dict[str, Any]:
        """A frame as openpi's server takes it. Raises ValueError for a camera without a key or a state too short."""
        if unknown := [camera for camera in frame.images if camera not in self.images]:
            raise ValueError(f"frame has camera {unknown[0]!r}, but keys are known for {tuple(self.images)}")
        if len(frame.state) != (size := sum(width for _, width in self.state)):
            raise ValueError(f"frame has a state of {len(frame.state)} values, the server takes {size}")
        pictures: dict[str, Any] = {
            self.images[camera]: np.ascontiguousarray(image.transpose(2, 0, 1)) if self.channels_first else image
            for camera, image in frame.images.items()
        }
        ends = np.cumsum([width for _, width in self.state])[:-1]
        parts = np.split(np.asarray(frame.state, np.float32), ends)
        states = {key: part for (key, _), part in zip(self.state, parts, strict=True)}
        return (pictures if self.images_in is None else {self.images_in: pictures}) | states | {"prompt": frame.prompt}

    def match(self, message: Any) -> bool:
        """Whether a request is an observation of this robot as openpi's client sends it: it has its state, no seed."""
        return isinstance(message, dict) and "seed" not in message and all(key in message for key, _ in self.state)

    def read(self, message: dict[str, Any]) -> Frame:
        """The frame in an observation of openpi's client, for which `match` holds. A camera left out is absent.

        Raises ValueError for an unknown key, a missing prompt, or values of the wrong kind or number.
        """
        beside = {key: value for key, value in message.items() if key not in dict(self.state) and key != "prompt"}
        pictures = beside.pop(self.images_in, None) if self.images_in is not None else beside
        if not isinstance(pictures, dict):
            raise ValueError(f"observation has no dict of pictures {self.images_in!r}")
        cameras = {key: camera for camera, key in self.images.items()}
        unknown = sorted({*pictures, *beside} - {*cameras, *self.ignored}, key=str)
        if unknown:
            near = difflib.get_close_matches(str(unknown[0]), cameras, 1)
            hint = f"; nearest: {near[0]!r}" if near else ""
            raise ValueError(f"observation has unknown keys {unknown}; pictures are {tuple(cameras)}{hint}")
        if not isinstance(message.get("prompt"), str):
            raise ValueError("observation has no text 'prompt'")
        images = {cameras[key]: self._read_image(key, image) for key, image in pictures.items() if key in cameras}
        return Frame(images, self._read_state(message), message["prompt"])

    def _read_image(self, key: str, image: Any) -> np.ndarray:
        layout = "(3, height, width)" if self.channels_first else "(height, width, 3)"
        channels = 0 if self.channels_first else 2
        fits = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3
        if not fits or image.shape[channels] != 3:
            what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else f"a {type(image).__name__}"
            raise ValueError(f"picture {key!r} is {what}; openpi's clients of this robot send uint8 {layout}")
        return np.ascontiguousarray(image.transpose(1, 2, 0)) if self.channels_first else image

    def _read_state(self, message: dict[str, Any]) -> np.ndarray:
        parts = []
        for key, width in self.state:
            part = read_state(np.atleast_1d(np.asarray(message[key])))
            if len(part) != width:
                raise ValueError(f"{key!r} has {len(part)} values, expected {width}")
            parts.append(part)
        return np.concatenate(parts)


OPENPI_KEYS: dict[str, ObservationKeys] = {
    "libero": ObservationKeys(
        images={"image": "observation/image", "wrist_image": "observation/wrist_image"},
        state=(("observation/state", 8),),
    ),
    "droid": ObservationKeys(
        images={
            "exterior_image_1_left": "observation/exterior_image_1_left",
            "wrist_image_left": "observation/wrist_image_left",
        },
        state=(("observation/joint_position", 7), ("observation/gripper_position", 1)),
    ),
    "aloha": ObservationKeys(
        images={"cam_high": "cam_high", "cam_left_wrist": "cam_left_wrist", "cam_right_wrist": "cam_right_wrist"},
        state=(("state", 14),),
        images_in="images",
        channels_first=True,
        ignored=("cam_low",),
    ),
}
"""By the name of the embodiment."""
