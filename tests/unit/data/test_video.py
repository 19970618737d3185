from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pizero.data.recording import CorruptPicture
from pizero.data.video import VideoReader, VideoWriter, exact_rate


def written(path: Path, images: list[np.ndarray], rate_hz: float) -> Path:
    writer = VideoWriter(path, images[0].shape[:2], rate_hz)
    for image in images:
        writer.add(image)
    writer.close()
    writer.close()
    assert writer.num_frames == len(images)
    return path


def grey(level: int) -> np.ndarray:
    return np.full((16, 18, 3), level, np.uint8)


def test_every_second_frame_of_a_still_picture_is_a_key_frame(tmp_path: Path) -> None:
    path = written(tmp_path / "still.mp4", [grey(90)] * 8, 20.0)
    with av.open(str(path)) as container:
        assert [bool(frame.key_frame) for frame in container.decode(video=0)] == [True, False] * 4


@pytest.mark.parametrize("rate_hz", [3.0, 12.5, 29.97, 30.0, 80.0])
def test_any_frame_is_found_by_its_time_in_any_order(tmp_path: Path, rate_hz: float) -> None:
    levels = [10 + 9 * i for i in range(25)]
    reader = VideoReader(written(tmp_path / "ramp.mp4", [grey(level) for level in levels], rate_hz), rate_hz)
    for i in [0, 24, 24, 3, 4, 5, 5, 7, 6, 0, *range(25)]:
        for jitter in (0.0, -0.2, 0.2):  # of a frame: recordings keep time in float32
            assert abs(int(reader.frame((i + jitter) / rate_hz)[8, 8, 1]) - levels[i]) <= 3, (i, jitter)
    reader.close()


def test_colours_come_back_as_rgb(tmp_path: Path) -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[:] = (200, 60, 20)
    back = VideoReader(written(tmp_path / "red.mp4", [image], 10.0), 10.0).frame(0.0)
    np.testing.assert_allclose(back.reshape(-1, 3), np.broadcast_to([200, 60, 20], (1024, 3)), atol=6)


def test_a_time_outside_the_video_is_refused(tmp_path: Path) -> None:
    reader = VideoReader(written(tmp_path / "short.mp4", [grey(9)] * 4, 10.0), 10.0)
    with pytest.raises(ValueError, match=r"short.mp4 ends before 0.400 s"):
        reader.frame(0.4)
    assert reader.frame(0.3).shape == (16, 18, 3)
    with pytest.raises(ValueError, match=r"short.mp4 has no frame at -0.100 s, the next one is at 0.000 s"):
        reader.frame(-0.1)


def test_odd_sides_are_refused_before_a_file_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"odd.mp4: pictures are 15 x 18, both sides must be even"):
        VideoWriter(tmp_path / "odd.mp4", (15, 18), 10.0)
    assert not list(tmp_path.iterdir())


def test_rates_are_stored_as_small_fractions() -> None:
    assert exact_rate(12.5) == Fraction(25, 2)
    assert exact_rate(30.0) == 30
    assert exact_rate(30000 / 1001) == Fraction(30000, 1001)


def test_a_frame_that_is_made_from_a_damaged_one_is_damaged_too(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    path = written(tmp_path / "still.mp4", [noise] * 8, 10.0)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert [packet.is_keyframe for packet in packets] == [True, False] * 4
        start, size = packets[4].pos, packets[4].size
    data = bytearray(path.read_bytes())
    data[start + size // 2 : start + size // 2 + 8] = b"\x5a" * 8
    path.write_bytes(data)
    reader = VideoReader(path, 10.0)
    reader.frame(0.3)
    for i in (4, 4, 5):  # asking again gives no other answer
        with pytest.raises(CorruptPicture, match=rf"still.mp4 cannot be decoded at 0.{i}00 s"):
            reader.frame(i / 10)
    for i in (3, 6, 7, 2):
        assert np.abs(reader.frame(i / 10).astype(int) - noise).mean() < 60


def test_a_video_of_another_rate_or_none_at_all_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "slow.mp4", [grey(9)] * 4, 10.0)
    with pytest.raises(ValueError, match=r"slow.mp4 has 10 frames a second, the data set 12; a data set has one rate"):
        VideoReader(path, 12.0)
    VideoReader(path, 10.2).close()
    with pytest.raises(ValueError, match=r"nowhere.mp4 is missing"):
        VideoReader(tmp_path / "nowhere.mp4", 10.0)
    (tmp_path / "text.mp4").write_text("<html>not found</html>")
    with pytest.raises(CorruptPicture, match=r"text.mp4 cannot be read as a video"):
        VideoReader(tmp_path / "text.mp4", 10.0)
