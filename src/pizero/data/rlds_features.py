"""What an RLDS folder says about itself: the features of a step, and the files of a split.

`features.json` and `dataset_info.json` as TensorFlow Datasets writes them (tensorflow_datasets/core/proto).
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pizero.data.lerobot_files import read_json

DATASET_INFO = "dataset_info.json"
FEATURES = "features.json"
STEPS = "steps/"
"""In front of the name of every feature of a step in the records."""
FILE_NAME = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
"""What the files are called where dataset_info.json does not say."""


@dataclass(frozen=True)
class Feature:
    """One feature of every step."""

    kind: Literal["picture", "text", "numbers", "other"]
    """ "other": something that is not read, such as a sequence within a step, compressed numbers or sound."""
    shape: tuple[int, ...] = ()
    """Of one step; -1: not fixed. (): one number."""
    dtype: str = ""
    """As numpy calls it."""

    @property
    def width(self) -> int:
        """Numbers in one step."""
        product = 1
        for side in self.shape:
            product *= side
        return product


@dataclass(frozen=True)
class Shard:
    """One file of a split."""

    path: Path
    num_records: int
    """Episodes in it."""


def read_features(root: Path) -> dict[str, Feature]:
    """The features of a step by name, nested ones with "/" between. Raises ValueError when there are no steps."""
    path = root / FEATURES
    top = read_json(path).get("featuresDict", {}).get("features", {})
    step = top.get("steps", {}).get("sequence", {}).get("feature")
    if step is None:
        raise ValueError(f"{path} has no steps, but {sorted(top) or 'nothing'}; an RLDS data set has episodes of steps")
    return dict(_flat("", step))


def read_name(root: Path) -> str:
    """The data set's name."""
    return str(_info(root)["name"])


def read_shards(root: Path, split: str) -> list[Shard]:
    """The files of a split, all of which are there. Raises ValueError that names what is missing."""
    path, info = root / DATASET_INFO, _info(root)
    splits: dict[str, Mapping[str, Any]] = {part["name"]: part for part in info["splits"]}
    if split not in splits:
        near = difflib.get_close_matches(split, splits, 1)
        hint = f"; nearest: {near[0]!r}" if near else ""
        raise ValueError(f"{path} has no split {split!r}, but {sorted(splits) or 'none'}{hint}")
    kind = info.get("fileFormat", "tfrecord")
    if kind != "tfrecord":
        raise ValueError(f"{path}: files are of the format {kind!r}, only 'tfrecord' is read")
    lengths = [int(length) for length in splits[split].get("shardLengths", [])]
    if not sum(lengths):
        raise ValueError(f"{root} is empty: {path.name} says that its split {split!r} has no episodes")
    pattern = splits[split].get("filepathTemplate") or FILE_NAME
    shards = []
    for number, length in enumerate(lengths):
        place = f"{number:05d}-of-{len(lengths):05d}"
        file = pattern.format(DATASET=info["name"], SPLIT=split, FILEFORMAT=kind, SHARD_X_OF_Y=place)
        if not (root / file).is_file():
            raise ValueError(f"{root / file} is missing; {path.name} lists {len(lengths)} files of split {split!r}")
        shards.append(Shard(root / file, length))
    return shards


def _info(root: Path) -> dict[str, Any]:
    path = root / DATASET_INFO
    info = read_json(path)
    if missing := {"name", "splits"} - set(info):
        raise ValueError(f"{path} lacks {sorted(missing)}")
    return info


def _flat(name: str, node: Mapping[str, Any]) -> Iterator[tuple[str, Feature]]:
    if "featuresDict" in node:
        for key, child in node["featuresDict"].get("features", {}).items():
            yield from _flat(f"{name}/{key}" if name else key, child)
    elif "image" in node:
        yield name, Feature("picture", _shape(node["image"]), node["image"].get("dtype", "uint8"))
    elif "text" in node or node.get("tensor", {}).get("dtype") == "string":
        yield name, Feature("text")
    elif "tensor" in node and node["tensor"].get("encoding", "none") == "none":
        yield name, Feature("numbers", _shape(node["tensor"]), node["tensor"].get("dtype", ""))
    else:
        yield name, Feature("other")


def _shape(node: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(side) for side in node.get("shape", {}).get("dimensions", []))
