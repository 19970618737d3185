from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pizero.sim.video import write_strip, write_video


def pictures(count: int, height: int = 64, width: int = 64) -> list[np.ndarray]:
    """Left half red, right half as bright as the picture's number says."""
    made = []
    for i in range(count):
        picture = np.zeros((height, width, 3), np.uint8)
        picture[:, : width // 2] = (200, 0, 0)
        picture[:, width // 2 :] = 20 * i
        made.append(picture)
    return made


def test_a_video_comes_back_in_order_upright_and_in_colour(tmp_path: Path) -> None:
    write_video(tmp_path / "new" / "a.mp4", pictures(10), 20)
    with av.open(str(tmp_path / "new" / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 20
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == 10
    for frame, picture in zip(frames, pictures(10), strict=True):
        np.testing.assert_allclose(frame[10, 10], picture[10, 10], atol=12)
        np.testing.assert_allclose(frame[50, 50], picture[50, 50], atol=12)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.mp4"]


def test_a_video_plays_before_it_is_loaded(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", pictures(5), 20)
    data = (tmp_path / "a.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_an_odd_last_row_and_column_are_left_out(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", pictures(2, 33, 47), 20)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (46, 32)


def test_a_strip_goes_from_the_first_picture_to_the_last(tmp_path: Path) -> None:
    write_strip(tmp_path / "a.png", pictures(11), num_stills=3, still_height=32)
    strip = np.asarray(Image.open(tmp_path / "a.png"))
    assert strip.shape == (32, 96, 3)
    assert [int(strip[16, 24 + 32 * i, 0]) for i in range(3)] == [0, 100, 200]


@pytest.mark.parametrize("write", [lambda path: write_video(path, [], 20), lambda path: write_strip(path, [])])
def test_nothing_to_show_is_refused(write, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        write(tmp_path / "a")
    assert not list(tmp_path.iterdir())
