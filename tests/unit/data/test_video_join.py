from pathlib import Path

import av
import numpy as np
import pytest

from pizero.data.video import VideoReader, VideoWriter
from pizero.data.video_join import VideoJoiner, video_header


def part(path: Path, length: int, seed: int, size: tuple[int, int] = (32, 48), rate_hz: float = 12.5) -> Path:
    """A video of noise that moves, so that frames refer to each other."""
    random = np.random.default_rng(seed)
    scene = random.integers(0, 255, (size[0], size[1] + length, 3), np.uint8)
    writer = VideoWriter(path, size, rate_hz)
    for i in range(length):
        writer.add(scene[:, i : i + size[1]])
    writer.close()
    return path


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


# a part of odd length ends with a key frame, and the next begins with one
LENGTHS = (5, 1, 4, 3, 3, 2, 1, 1, 9)


@pytest.mark.parametrize("rate_hz", [5.0, 12.5, 20.0, 29.97, 80.0])
def test_every_joined_frame_is_the_part_s_own_at_its_time_in_any_order(tmp_path: Path, rate_hz: float) -> None:
    parts = [part(tmp_path / f"{i}.mp4", n, i, rate_hz=rate_hz) for i, n in enumerate(LENGTHS)]
    joiner = VideoJoiner(tmp_path / "all.mp4", rate_hz)
    for path, length in zip(parts, LENGTHS, strict=True):
        assert joiner.fits(path)
        assert joiner.append(path) == length
    joiner.close()
    joiner.close()
    assert joiner.num_frames == sum(LENGTHS)
    wanted = [frame for path in parts for frame in decoded(path)]
    assert len({frame.tobytes() for frame in wanted}) == sum(LENGTHS)
    np.testing.assert_array_equal(decoded(tmp_path / "all.mp4"), wanted)
    reader = VideoReader(tmp_path / "all.mp4", rate_hz)
    for i in [*np.random.default_rng(0).permutation(len(wanted)).tolist(), 28, 28, 0, *range(len(wanted))]:
        np.testing.assert_array_equal(reader.frame(i / rate_hz), wanted[i])
    reader.close()


def test_nothing_is_encoded_anew(tmp_path: Path) -> None:
    parts = [part(tmp_path / f"{i}.mp4", n, i) for i, n in enumerate((4, 3))]
    joiner = VideoJoiner(tmp_path / "all.mp4", 12.5)
    for path in parts:
        joiner.append(path)
    joiner.close()

    def packets(path: Path) -> list[bytes]:
        with av.open(str(path)) as container:
            return [bytes(packet) for packet in container.demux(video=0) if packet.size]

    assert packets(tmp_path / "all.mp4") == packets(parts[0]) + packets(parts[1])
    assert joiner.num_bytes == sum(map(len, packets(tmp_path / "all.mp4")))


def test_a_part_of_another_size_does_not_fit(tmp_path: Path) -> None:
    first, other = part(tmp_path / "a.mp4", 3, 0), part(tmp_path / "b.mp4", 3, 0, size=(64, 48))
    joiner = VideoJoiner(tmp_path / "all.mp4", 12.5)
    assert joiner.fits(other)  # nothing is there yet
    joiner.append(first)
    assert not joiner.fits(other)
    assert video_header(first) != video_header(other)
    joiner.close()
