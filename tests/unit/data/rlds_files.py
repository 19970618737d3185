"""Writes small RLDS folders as TensorFlow Datasets lays them out; an encoder of its own, to test the reader with."""

import io
import json
import struct
from pathlib import Path

import numpy as np
from PIL import Image

BRIDGE_STEP = {
    "action": ("float32", [7]),
    "is_first": ("bool", []),
    "language_instruction": "text",
    "language_embedding": ("float32", [4]),
    "observation/image_0": "picture",
    "observation/image_1": "picture",
    "observation/state": ("float32", [7]),
}
FRACTAL_STEP = {
    "action/base_displacement_vector": ("float32", [2]),
    "action/gripper_closedness_action": ("float32", [1]),
    "action/rotation_delta": ("float32", [3]),
    "action/terminate_episode": ("int32", [3]),
    "action/world_vector": ("float32", [3]),
    "is_last": ("bool", []),
    "observation/base_pose_tool_reached": ("float32", [7]),
    "observation/gripper_closed": ("float32", [1]),
    "observation/image": "picture",
    "observation/natural_language_instruction": "text",
    "observation/workspace_bounds": ("float32", [3, 3]),
}


def varint(value: int) -> bytes:
    value &= 2**64 - 1  # negative numbers as two's complement
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def block(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def feature(values) -> bytes:
    """A Feature from a list of bytes, of floats, or of integers and booleans, packed as TensorFlow does."""
    if isinstance(values, list):
        return block(1, b"".join(block(1, value) for value in values))
    if values.dtype.kind == "f":
        return block(2, block(1, values.astype("<f4").tobytes()))
    return block(3, block(1, b"".join(varint(int(value)) for value in values)))


def example(entries: dict) -> bytes:
    pairs = [block(1, block(1, name.encode()) + block(2, feature(values))) for name, values in entries.items()]
    return block(1, b"".join(pairs))


def slow_crc(data: bytes) -> int:
    """CRC-32C bit by bit, rotated and shifted as TFRecord wants it."""
    crc = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if (crc ^ byte >> bit) & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def framed(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", slow_crc(length)) + data + struct.pack("<I", 0)  # which is not checked


def encoded(image: np.ndarray, how: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, how, **({"quality": 95} if how == "JPEG" else {}))
    return out.getvalue()


def picture(level: int, shape: tuple[int, int] = (8, 10)) -> np.ndarray:
    image = np.full((*shape, 3), level, np.uint8)
    image[0, :, 0] = 255
    return image


def features_json(step: dict) -> dict:
    """features.json of a step's flat features."""

    def leaf(kind) -> dict:
        if kind == "text":
            return {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text", "text": {}}
        if kind == "picture":
            shape = {"dimensions": ["8", "10", "3"]}
            return {"image": {"shape": shape, "dtype": "uint8", "encodingFormat": "jpeg"}}
        if kind == "depth":
            return {"image": {"shape": {"dimensions": ["8", "10", "1"]}, "dtype": "uint16", "encodingFormat": "png"}}
        dtype, shape = kind
        tensor_shape = {"dimensions": [str(side) for side in shape]} if shape else {}
        return {"tensor": {"shape": tensor_shape, "dtype": dtype, "encoding": "none"}}

    tree: dict = {}
    for name, kind in step.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {"featuresDict": {"features": {}}})["featuresDict"]["features"]
        node[last] = leaf(kind)
    steps = {"sequence": {"feature": {"featuresDict": {"features": tree}}, "length": "-1"}}
    metadata = {"featuresDict": {"features": {"file_path": {"text": {}}}}}
    return {"featuresDict": {"features": {"steps": steps, "episode_metadata": metadata}}}


def write_rlds(root: Path, name: str, step: dict, files: list[list[dict]], split: str = "train") -> Path:
    """`files` are lists of episodes, each a dictionary from the flat name of a feature of a step to its values."""
    root.mkdir(parents=True, exist_ok=True)
    lengths = [str(len(episodes)) for episodes in files]
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    part = {"name": split, "shardLengths": lengths, "filepathTemplate": template, "numBytes": "0"}
    info = {"name": name, "version": root.name, "fileFormat": "tfrecord", "splits": [part]}
    if (root / "dataset_info.json").exists():
        others = json.loads((root / "dataset_info.json").read_text())["splits"]
        info["splits"] += [other for other in others if other["name"] != split]
    (root / "dataset_info.json").write_text(json.dumps(info))
    (root / "features.json").write_text(json.dumps(features_json(step)))
    for number, episodes in enumerate(files):
        data = b"".join(
            framed(example({f"steps/{key}": values for key, values in episode.items()} | {"episode_metadata/x": [b""]}))
            for episode in episodes
        )
        (root / f"{name}-{split}.tfrecord-{number:05d}-of-{len(files):05d}").write_bytes(data)
    return root


def bridge_episode(length: int, seed: int, prompt: str = "put the carrot on the plate", how: str = "PNG") -> dict:
    """The picture of step i has the level 20 seed + i; the gripper is open, on its way, closed, on its way at last."""
    random = np.random.default_rng(seed)
    action = random.normal(size=(length, 7)).astype(np.float32)
    action[:, 6] = np.resize([1.0, 0.6, 0.3, 0.0, 0.4], length)
    return {
        "action": action.ravel(),
        "is_first": np.arange(length) == 0,
        "language_instruction": [prompt.encode()] * length,
        "language_embedding": np.zeros(4 * length, np.float32),
        "observation/image_0": [encoded(picture(20 * seed + i), how) for i in range(length)],
        "observation/image_1": [b""] * length,
        "observation/state": random.normal(size=7 * length).astype(np.float32),
    }


def fractal_episode(length: int, closing: list[float], seed: int = 0) -> dict:
    random = np.random.default_rng(seed)
    return {
        "action/base_displacement_vector": np.zeros(2 * length, np.float32),
        "action/gripper_closedness_action": np.array(closing, np.float32),
        "action/rotation_delta": random.normal(size=3 * length).astype(np.float32),
        "action/terminate_episode": np.tile([0, 1, 0], length),
        "action/world_vector": random.normal(size=3 * length).astype(np.float32),
        "is_last": np.arange(length) == length - 1,
        "observation/base_pose_tool_reached": random.normal(size=7 * length).astype(np.float32),
        "observation/gripper_closed": random.uniform(size=length).astype(np.float32),
        "observation/image": [encoded(picture(i)) for i in range(length)],
        "observation/natural_language_instruction": [b"pick coke can"] * length,
        "observation/workspace_bounds": np.zeros(9 * length, np.float32),
    }
