"""Pictures of an episode as a film that every browser plays, and as a strip of stills."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8


def write_video(path: Path, pictures: Sequence[UInt8[np.ndarray, "h w 3"]], frames_per_second: int) -> None:
    """An mp4 file (H.264, yuv420p, starts playing before it is loaded whole), written aside and renamed.

    H.264 takes even sizes only: an odd last row or column is left out.
    """
    import av  # 0.1 s and 30 MB that only those who film pay

    if not pictures:
        raise ValueError(f"{path}: a video needs at least one picture")
    height, width = (side - side % 2 for side in pictures[0].shape[:2])
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with av.open(str(part), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=frames_per_second, options={"crf": "20"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.thread_count = 1  # many workers film at once
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    os.replace(part, path)


def write_strip(
    path: Path, pictures: Sequence[UInt8[np.ndarray, "h w 3"]], num_stills: int = 6, still_height: int = 160
) -> None:
    """A PNG of stills side by side, evenly spaced from the first picture to the last; written aside and renamed."""
    from PIL import Image

    if not pictures:
        raise ValueError(f"{path}: a strip needs at least one picture")
    chosen = np.linspace(0, len(pictures) - 1, num_stills).round().astype(int)
    height, width = pictures[0].shape[:2]
    image = Image.fromarray(np.concatenate([pictures[i] for i in chosen], axis=1))
    image = image.resize((round(still_height / height * width) * num_stills, still_height), Image.Resampling.LANCZOS)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    image.save(part, format="png")
    os.replace(part, path)
