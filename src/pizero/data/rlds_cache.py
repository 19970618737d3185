"""The index of an RLDS data set kept between runs: the pass over the files of a large one takes minutes."""

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from pizero.data.rlds_features import Shard
from pizero.data.rlds_index import RldsIndex, make_index
from pizero.data.rlds_reading import Reading

INDEX_VERSION = 1
"""Raised when an index has other content for the same files."""


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME`/pizero/rlds, or ~/.cache/pizero/rlds."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pizero" / "rlds"


def cached_index(root: Path, split: str, shards: Sequence[Shard], reading: Reading) -> RldsIndex:
    """The index of a split, from the cache where it is there and no file has changed since in size or time.

    Raises ValueError as `make_index`, or when the cache cannot be written.
    """
    path = cache_folder() / (hashlib.sha256(f"{root.resolve()}\n{split}".encode()).hexdigest()[:32] + ".npz")
    described = _describe(shards, reading)
    if (index := _load(path, described)) is not None:
        return index
    index = make_index(shards, reading)
    _save(path, described, index)
    return index


def _describe(shards: Sequence[Shard], reading: Reading) -> str:
    """What an index depends on, as text."""
    stats = [(shard, shard.path.stat()) for shard in shards]
    return json.dumps(
        {
            "version": INDEX_VERSION,
            "cameras": list(reading.cameras.items()),
            "prompt": reading.prompt,
            "numbers": list(reading.numbers.items()),
            "robot": reading.robot.name if reading.robot else None,
            "files": [[s.path.name, s.num_records, stat.st_size, stat.st_mtime_ns] for s, stat in stats],
        }
    )


def _load(path: Path, described: str) -> RldsIndex | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["described"]) != described:
                return None
            values: dict[str, Any] = {f.name: file[f.name] for f in fields(RldsIndex)}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None  # not there, or not of our making: made anew
    values["prompts"] = tuple(json.loads(str(values["prompts"])))
    values["num_unlabelled"] = int(values["num_unlabelled"])
    return RldsIndex(**values)


def _save(path: Path, described: str, index: RldsIndex) -> None:
    arrays = {f.name: vars(index)[f.name] for f in fields(RldsIndex)}
    arrays["prompts"] = np.array(json.dumps(index.prompts))
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")  # several processes of a run may be here at once
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            np.savez(file, described=np.array(described), **arrays)
        os.replace(aside, path)
    except OSError as error:
        raise ValueError(
            f"{path.parent} cannot keep the index of an RLDS data set: {error}; set XDG_CACHE_HOME to a folder that can"
        ) from None
