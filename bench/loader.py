"""Samples a second on one core, from data sets made on the spot: python bench/loader.py [--episodes 16] [--rounds 5]

A sample is one camera's picture, decoded and resized to 224 x 224, with its state and a chunk of 50 x 7 actions, at a
random frame. LeRobot: 224 x 224 video (H.264, every second frame a key frame), and PNG in the tables. RLDS: 256 x 256
JPEG in TFRecord files. Pictures are smooth with noise on them: more bytes than a simulator's, about those of a camera.
Rounds of the formats alternate; the best round of each counts, and their spread is printed. One thread.
"""

import argparse
import io
import json
import os
import platform
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pizero import __version__
from pizero.data import lerobot_layout as layout
from pizero.data.dataset import Dataset, open_dataset
from pizero.data.images import resize
from pizero.data.lerobot import LeRobotWriter
from pizero.data.picture import simplejpeg
from pizero.data.tfrecord import masked_crc32c
from pizero.embodiment import Embodiment
from pizero.frame import Frame

SIDE, JPEG_SIDE = 224, 256
HORIZON, ACTIONS = 50, 7
LENGTH = 50
"""Frames of an episode."""
JPEG_QUALITY = 95
"""tf.io.encode_jpeg's default, which TensorFlow Datasets uses."""
ROBOT = Embodiment("bench", ("front",), tuple("abcdefg"), tuple("tuvwxyz"), 10.0, (-9.0,) * ACTIONS, (9.0,) * ACTIONS)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=16, help=f"of {LENGTH} frames each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=300, help="in a round")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    folder = Path(tempfile.mkdtemp())
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    try:
        rows = measure(folder, args.episodes, args.rounds, args.samples)
    finally:
        shutil.rmtree(folder)
    print(f"{'format':>16} {'samples/s':>10} {'worst':>8} {'open s':>7} {'kB/frame':>9}")
    for row in rows:
        print(
            f"{row['format']:>16} {row['samples_per_s']:10.0f} {row['worst_per_s']:8.0f} {row['open_s']:7.2f} "
            f"{row['kilobytes_per_frame']:9.1f}"
        )
    about = {"benchmark": "loader", "rows": rows, "frames": args.episodes * LENGTH, "samples": args.samples}
    about |= {"rounds": args.rounds, "jpeg": "simplejpeg" if simplejpeg else "pillow", "av": av.__version__}
    about |= {"device": platform.processor() or platform.machine(), "python": platform.python_version()}
    print(json.dumps(about | {"pizero": __version__}))
    return 0


def measure(folder: Path, episodes: int, rounds: int, samples: int) -> list[dict[str, object]]:
    """Write the data sets, open them, and read samples from them in turn."""
    write: Mapping[str, Callable[[Path, int], Path]] = {
        "lerobot video": write_video,
        "lerobot png": write_png,
        "rlds jpeg": write_rlds,
    }
    datasets, opened, sizes = {}, {}, {}
    for name, make in write.items():
        root = make(folder / name.replace(" ", "-"), episodes)
        started = time.perf_counter()
        datasets[name] = open_dataset(root)
        opened[name] = time.perf_counter() - started
        sizes[name] = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    rates: dict[str, list[float]] = {name: [] for name in datasets}
    for number in range(rounds):
        for name, dataset in datasets.items():
            rates[name].append(samples_per_second(dataset, samples, number))
    return [
        {
            "format": name,
            "samples_per_s": max(rates[name]),
            "worst_per_s": min(rates[name]),
            "open_s": opened[name],
            "kilobytes_per_frame": sizes[name] / dataset.num_frames / 1e3,
        }
        for name, dataset in datasets.items()
    ]


def samples_per_second(dataset: Dataset, samples: int, seed: int) -> float:
    """Of random frames, in one thread."""
    frames = np.random.default_rng(seed).integers(0, dataset.num_frames, samples)
    camera = dataset.embodiment.cameras[0]
    started = time.perf_counter()
    for i in frames:
        resize(dataset.image(i, camera), (SIDE, SIDE), "pad")
        dataset.chunk(i, HORIZON)
        dataset.state[i].copy()
    return samples / (time.perf_counter() - started)


def episode(number: int, side: int) -> Iterator[np.ndarray]:
    """Pictures of a scene that drifts."""
    random = np.random.default_rng(number)
    coarse = Image.fromarray(random.integers(0, 255, (12, 12, 3), np.uint8))
    scene = np.asarray(coarse.resize((side + LENGTH, side + LENGTH), Image.Resampling.BICUBIC)).astype(np.int16)
    for i in range(LENGTH):
        noise = random.integers(-6, 7, (side, side, 1))
        yield (scene[i : i + side, i : i + side] + noise).clip(0, 255).astype(np.uint8)


def numbers(number: int) -> np.ndarray:
    """States or actions of an episode."""
    return np.random.default_rng(number).normal(size=(LENGTH, ACTIONS)).astype(np.float32)


def write_video(root: Path, episodes: int) -> Path:
    """A LeRobot folder as our recorder writes it."""
    with LeRobotWriter(root, ROBOT, {"front": (SIDE, SIDE)}) as writer:
        for number in range(episodes):
            pictures = zip(episode(number, SIDE), numbers(number), strict=True)
            writer.add_episode([Frame({"front": image}, state, "go") for image, state in pictures], numbers(number))
    return root


def write_png(root: Path, episodes: int) -> Path:
    """The same with PNG in the tables, a row group for each episode, as the lerobot package writes it."""
    write_video(root, episodes)
    path, key = root / layout.DATA.format(chunk_index=0, file_index=0), layout.CAMERA_PREFIX + "front"
    table = pq.read_table(path)
    cells = [{"bytes": encoded(image, "PNG")} for n in range(episodes) for image in episode(n, SIDE)]
    column = pa.array(cells, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    pq.write_table(table.append_column(key, column), path, row_group_size=LENGTH)
    info = json.loads((root / layout.INFO).read_text())
    info["features"][key]["dtype"] = "image"
    (root / layout.INFO).write_text(json.dumps(info))
    shutil.rmtree(root / "videos")
    return root


def write_rlds(root: Path, episodes: int) -> Path:
    """One TFRecord file, as TensorFlow Datasets lays it out."""
    root.mkdir(parents=True)
    file = root / "bench-train.tfrecord-00000-of-00001"
    with file.open("wb") as out:
        for number in range(episodes):
            steps = {
                "observation/image": (1, [encoded(image, "JPEG") for image in episode(number, JPEG_SIDE)]),
                "observation/state": (2, [numbers(number).tobytes()]),
                "action": (2, [numbers(number).tobytes()]),
                "language_instruction": (1, [b"go"] * LENGTH),
            }
            pairs = [
                block(
                    1, block(1, f"steps/{name}".encode()) + block(2, block(kind, b"".join(block(1, v) for v in values)))
                )
                for name, (kind, values) in steps.items()
            ]
            data = block(1, b"".join(pairs))
            length = struct.pack("<Q", len(data))
            out.write(length + struct.pack("<I", masked_crc32c(length)) + data + bytes(4))
    part = {"name": "train", "shardLengths": [str(episodes)]}
    info = {"name": "bench", "fileFormat": "tfrecord", "splits": [part]}
    (root / "dataset_info.json").write_text(json.dumps(info))
    sides = {"dimensions": [str(JPEG_SIDE), str(JPEG_SIDE), "3"]}
    vector = {"tensor": {"shape": {"dimensions": [str(ACTIONS)]}, "dtype": "float32", "encoding": "none"}}
    image = {"image": {"shape": sides, "dtype": "uint8", "encodingFormat": "jpeg"}}
    observation = {"featuresDict": {"features": {"image": image, "state": vector}}}
    step = {"observation": observation, "action": vector, "language_instruction": {"text": {}}}
    steps = {"sequence": {"feature": {"featuresDict": {"features": step}}}}
    (root / "features.json").write_text(json.dumps({"featuresDict": {"features": {"steps": steps}}}))
    return root


def encoded(image: np.ndarray, kind: str) -> bytes:
    """A picture as the bytes of a file."""
    out = io.BytesIO()
    if kind == "JPEG":
        Image.fromarray(image).save(out, kind, quality=JPEG_QUALITY)
    else:
        Image.fromarray(image).save(out, kind, compress_level=1)
    return out.getvalue()


def block(number: int, data: bytes) -> bytes:
    """A field of protobuf's wire format."""
    length, size = b"", len(data)
    while size >= 0x80:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


if __name__ == "__main__":
    sys.exit(main())
