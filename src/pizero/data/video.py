"""Pictures into mp4 files and back: H.264, every second frame a key frame, so that any frame is near.

H.264 and not lerobot's default AV1: on one core, 96-pixel simulator pictures encode at about 5,000 frames/s against
1,100 and decode at 2,700 against 2,300, at a similar size and distance from the original (0.9 kB a frame and 30.5 dB
against 1.2 kB and 30.9 dB); lerobot, browsers and OpenCV all read it.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import numpy as np
from jaxtyping import UInt8

from pizero.data.recording import CorruptPicture

ENCODER: Final = "h264"
OPTIONS = {
    "g": "2",  # at most one frame to decode before the one that is wanted (lerobot's choice)
    "bf": "0",  # no frames out of order, so that time starts at 0 without an edit list
    "crf": "18",  # by eye without loss
    "preset": "veryfast",
    "mbtree": "0",  # looks ahead, of no use here; with tiny pictures x264 looks at memory that nobody wrote
    "threads": "1",  # the simulator has the other core
}
PIXEL_FORMAT = "yuv420p"
STRICT = {"err_detect": "explode"}
"""Damaged data is an error; by default FFmpeg paints over it and says nothing."""
RATE_TOLERANCE = 0.05
"""How far, as a part, a file's frame rate may be from the data set's: common rates differ by more, and an average over
a short file is a little off."""


class VideoWriter:
    """Writes one mp4 file, frame after frame; `close` finishes it.

    Raises ValueError when a side of the picture is odd, which H.264 with halved colour resolution cannot store.
    """

    def __init__(self, path: Path, size: tuple[int, int], rate_hz: float) -> None:
        height, width = size
        if height % 2 or width % 2:
            raise ValueError(f"video {path.name}: pictures are {height} x {width}, both sides must be even")
        self.size, self.num_frames, self.num_bytes = size, 0, 0
        self._closed = False
        self._container = av.open(str(path), "w")
        self._stream = self._container.add_stream(ENCODER, exact_rate(rate_hz), options=dict(OPTIONS))
        self._stream.pix_fmt = PIXEL_FORMAT
        self._stream.height, self._stream.width = height, width

    def add(self, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Appends one RGB picture."""
        assert image.shape[:2] == self.size, f"{image.shape} in a video of {self.size}"
        self._mux(self._stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        self.num_frames += 1

    def close(self) -> None:
        """Writes what is left and the index; the file is readable afterwards. Does nothing the second time."""
        if not self._closed:
            self._closed = True
            self._mux(self._stream.encode(None))
            self._container.close()

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            self.num_bytes += packet.size
            self._container.mux(packet)


class VideoReader:
    """Decodes single frames of one video file by their time; frames in order cost no seek.

    Raises ValueError, naming the file, when it is missing or has another frame rate; CorruptPicture when it is damaged
    or has no frame at the time.
    """

    def __init__(self, path: Path, rate_hz: float) -> None:
        self.path = path
        self._half_step = 0.5 / rate_hz
        if not path.is_file():
            raise ValueError(f"{path} is missing; the data set needs it")
        try:
            self._container = av.open(str(path))
            self._stream = self._container.streams.video[0]
        except (OSError, IndexError, av.FFmpegError) as error:
            raise CorruptPicture(f"{path} cannot be read as a video: {_first_line(error)}") from None
        self._check_rate(rate_hz)
        self._stream.codec_context.thread_count = 1
        self._stream.codec_context.options = STRICT
        assert self._stream.time_base is not None, "an opened stream has a time base"
        self._tick_s = float(self._stream.time_base)
        self._frames: Iterator[av.VideoFrame] = iter(())
        self._last_s = float("-inf")

    def frame(self, time_s: float) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB picture shown at a time in seconds, at most half a frame away from it."""
        try:
            is_next = self._half_step < time_s - self._last_s < 3 * self._half_step
            self._last_s = float("-inf")
            if not is_next:
                tick = round(time_s / self._tick_s)
                self._container.seek(tick, stream=self._stream, backward=True)
                self._frames = self._container.decode(self._stream)
            for frame in self._frames:
                if frame.time > time_s - self._half_step:
                    break
            else:
                raise CorruptPicture(f"{self.path} ends before {time_s:.3f} s; it is truncated or of another data set")
        except (av.FFmpegError, OSError) as error:
            raise CorruptPicture(f"{self.path} cannot be decoded at {time_s:.3f} s: {_first_line(error)}") from None
        if frame.time > time_s + self._half_step:
            raise CorruptPicture(f"{self.path} has no frame at {time_s:.3f} s, the next one is at {frame.time:.3f} s")
        if frame.is_corrupt:
            raise CorruptPicture(f"{self.path} cannot be decoded at {time_s:.3f} s: its data is damaged")
        self._last_s = frame.time
        return frame.to_ndarray(format="rgb24")

    def _check_rate(self, rate_hz: float) -> None:
        """The average alone would be wrong for a file whose last frame is long, the other for one with gaps."""
        rates = [float(rate) for rate in (self._stream.average_rate, self._stream.base_rate) if rate]
        if rates and all(abs(rate / rate_hz - 1) > RATE_TOLERANCE for rate in rates):
            raise ValueError(
                f"{self.path} has {rates[0]:.4g} frames a second, the data set {rate_hz:g}; a data set has one rate"
            )

    def close(self) -> None:
        """Gives the file back."""
        self._container.close()


def exact_rate(rate_hz: float) -> Fraction:
    """A frame rate as the fraction that a video file stores; 12.5 is 25/2."""
    return Fraction(rate_hz).limit_denominator(1001)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
