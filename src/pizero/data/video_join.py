"""Videos of episodes one after the other in one mp4 file, without encoding them anew."""

from pathlib import Path
from typing import Any

import av

from pizero.data.video import exact_rate


class VideoJoiner:
    """Writes one mp4 file of the frames of others, which `VideoWriter` wrote; `close` finishes it.

    Each part begins with a key frame and refers to nothing before it, so its frames are decoded to the same pixels
    wherever it stands; only their times change.
    """

    def __init__(self, path: Path, rate_hz: float) -> None:
        self.num_frames, self.num_bytes = 0, 0
        self._rate = exact_rate(rate_hz)
        self._container = av.open(str(path), "w")
        self._stream: Any = None
        self._header = b""
        self._closed = False

    def fits(self, part: Path) -> bool:
        """Whether the decoder's settings in the part's header are this file's: an mp4 file has one header."""
        return self._stream is None or video_header(part) == self._header

    def append(self, part: Path) -> int:
        """Copies a part's frames behind those that are there; returns how many. It must fit."""
        with av.open(str(part)) as source:
            stream = source.streams.video[0]
            header = bytes(stream.codec_context.extradata or b"")
            if self._stream is None:
                self._stream = self._container.add_stream_from_template(stream)
                self._header = header
            assert header == self._header, f"{part} has another header"
            first = self.num_frames
            for packet in source.demux(stream):
                if not packet.size:  # the end
                    continue
                self.num_bytes += packet.size
                packet.stream = self._stream
                packet.time_base = 1 / self._rate
                packet.pts = packet.dts = self.num_frames
                packet.duration = 1
                self._container.mux(packet)
                self.num_frames += 1
        return self.num_frames - first

    def close(self) -> None:
        """Writes the index; the file is readable afterwards. Does nothing the second time."""
        if not self._closed:
            self._closed = True
            self._container.close()


def video_header(path: Path) -> bytes:
    """What a decoder is told before the first frame of a file (H.264: sequence and picture parameters)."""
    with av.open(str(path)) as container:
        return bytes(container.streams.video[0].codec_context.extradata or b"")
