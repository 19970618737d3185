"""What goes over the wire: msgpack with numpy arrays, no pickle, as openpi's client and server write it.

A server sends its metadata when a client connects; then each request, in binary, has one answer: binary, or a text that
says what went wrong. Requests are frames, as dicts, or lists of them, which are planned for in one batch.

Source of the encoding: openpi, packages/openpi-client/src/openpi_client/msgpack_numpy.py. An array is a map with the
bytes `__ndarray__`, `data` (C order), `dtype` and `shape` as keys, a numpy scalar one with `__npgeneric__`, `data` and
`dtype`.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np

from pizero.embodiment import Embodiment
from pizero.frame import Frame

PROTOCOL = 1
"""Version of our metadata and requests; a client and a server of different versions refuse each other."""
PING_TIMEOUT_S = 300.0
"""How long the other side may leave a ping unanswered: openpi's server answers none while it plans, and its first plan
compiles for minutes."""
CLOSE_TIMEOUT_S = 1.0
"""How long the other side may take to say goodbye; one that is busy or gone does not."""
KINDS = "biufSU"
"""Kinds of numpy types that can be sent: bool, integers, floats, texts. Objects would need pickle, openpi takes no
complex numbers, and times have no plain value."""
MOST_SEED = 2**63 - 1
"""Largest seed of a request, the largest that torch and msgpack both take."""
FRAME_KEYS = ("images", "state", "prompt", "seed")
"""Keys of a frame on the wire; the seed may be left out or None: then the policy's own noise goes on."""
BLANK_SIDE = 224
"""Pixels of a blank frame's pictures, both ways."""


@dataclass(frozen=True)
class Metadata:
    """What our server tells a client that connects."""

    embodiment: Embodiment
    """The robot that the policy is for."""
    horizon: int
    """Timesteps of an action chunk."""
    about: dict[str, str] = field(default_factory=dict)
    """Which policy it is, for people and reports: the checkpoint, the number of Euler steps ..."""

    def to_message(self) -> dict[str, Any]:
        """What is sent; `from_message` gives the equal metadata back."""
        robot = self.embodiment.to_json()
        return {"protocol": PROTOCOL, "embodiment": robot, "horizon": self.horizon, "about": self.about}

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> "Metadata":
        """Raises ValueError for another version of the protocol, and for metadata that are not ours."""
        if message.get("protocol") != PROTOCOL:
            raise ValueError(f"it speaks protocol {message.get('protocol')!r}, this pizero speaks {PROTOCOL}")
        expected = {"protocol", "embodiment", "horizon", "about"}
        if set(message) != expected or not isinstance(message["embodiment"], dict):
            raise ValueError(f"its metadata are {sorted(message)}, expected {sorted(expected)}")
        horizon, about = message["horizon"], message["about"]
        if type(horizon) is not int or horizon < 1:
            raise ValueError(f"its horizon is {horizon!r}, must be at least 1")
        if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
            raise ValueError(f"its metadata say {about!r} about the policy, expected texts by name")
        return cls(Embodiment.from_json(message["embodiment"]), horizon, about)


def pack(value: Any) -> bytes:
    """Bytes of dicts, lists, texts, numbers, None and numpy arrays. Raises ValueError for anything else."""
    return msgpack.packb(value, default=_to_plain)


def unpack(data: bytes) -> Any:
    """What was packed; tuples come back as lists. Arrays are read-only views of `data`, in the order C.

    Raises ValueError when the bytes are no msgpack or an array in them is not whole.
    """
    try:
        return msgpack.unpackb(data, object_hook=_from_plain)
    except KeyError as error:
        raise ValueError(f"message cannot be read: an array in it has no {error}") from None
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ValueError(f"message cannot be read: {str(error) or type(error).__name__}") from None


def frame_message(frame: Frame, seed: int | None) -> dict[str, Any]:
    """A frame as a request. `seed` is that of the noise; None: the policy draws on."""
    state = np.asarray(frame.state, np.float32)
    return {"images": dict(frame.images), "state": state, "prompt": frame.prompt, "seed": seed}


def read_frame(message: Any) -> tuple[Frame, int | None]:
    """The frame and the seed in a request. Raises ValueError for what is missing, unknown or of the wrong kind."""
    if not isinstance(message, dict):
        raise ValueError(f"request is a {type(message).__name__}, expected a frame (a dict) or a list of frames")
    if unknown := [key for key in message if key not in FRAME_KEYS]:
        raise ValueError(f"frame has unknown keys {unknown}; it takes {', '.join(FRAME_KEYS)}")
    if missing := [key for key in ("images", "state", "prompt") if key not in message]:
        raise ValueError(f"frame has no {', '.join(missing)}; it takes {', '.join(FRAME_KEYS)}")
    images, prompt, seed = message["images"], message["prompt"], message.get("seed")
    if not isinstance(images, dict) or not all(
        isinstance(camera, str) and isinstance(image, np.ndarray) for camera, image in images.items()
    ):
        raise ValueError("images must be arrays by the names of their cameras")
    if not isinstance(prompt, str):
        raise ValueError(f"prompt is a {type(prompt).__name__}, must be a text")
    if seed is not None and (type(seed) is not int or not 0 <= seed <= MOST_SEED):
        raise ValueError(f"seed is {seed!r}, must be an integer in 0 ... {MOST_SEED}, or None")
    return Frame(images, read_state(message["state"]), prompt), seed


def read_state(state: Any) -> np.ndarray:
    """A state (s,) as float32. Raises ValueError when it is no vector of numbers."""
    if not isinstance(state, np.ndarray) or state.dtype.kind not in "iuf" or state.ndim != 1:
        what = f"{state.dtype} {state.shape}" if isinstance(state, np.ndarray) else f"a {type(state).__name__}"
        raise ValueError(f"state is {what}, must be an array of numbers with one dimension")
    return state.astype(np.float32)


def blank_frame(embodiment: Embodiment) -> Frame:
    """Black pictures of all cameras, a state of zeros, no instruction: to see whether and how a policy answers."""
    images = {camera: np.zeros((BLANK_SIDE, BLANK_SIDE, 3), np.uint8) for camera in embodiment.cameras}
    return Frame(images, np.zeros(len(embodiment.state), np.float32))


def _to_plain(value: Any) -> dict[bytes, Any]:
    """msgpack asks it about what it does not know."""
    if not isinstance(value, np.ndarray | np.generic):
        raise ValueError(f"a {type(value).__name__} cannot be sent")
    if not _is_sent(value.dtype):
        raise ValueError(f"numpy's {value.dtype} cannot be sent; send numbers or texts")
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}


def _from_plain(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        dtype, shape, data = _dtype(value[b"dtype"]), value[b"shape"], value[b"data"]
        if not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError(f"an array has shape {shape}")
        if len(data) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"an array of {dtype} {tuple(shape)} comes with {len(data)} bytes")
        return np.ndarray(shape, dtype, data)
    if b"__npgeneric__" in value:
        scalar = _dtype(value[b"dtype"]).type(value[b"data"])
        if not isinstance(scalar, np.generic):
            raise ValueError(f"a scalar has the value {value[b'data']!r}")
        return scalar
    return value


def _dtype(name: str) -> np.dtype:
    dtype = np.dtype(name)
    if not _is_sent(dtype):
        raise ValueError(f"an array is of {dtype}, which is not taken")
    return dtype


def _is_sent(dtype: np.dtype) -> bool:
    return dtype.kind in KINDS and dtype.char != "g"  # a long double is another number on another machine
