"""Where tensors lie: files of other programs, read one tensor at a time."""

import difflib
import json
import pickle
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MAX_NAMED = 20
"""How many keys or files an error names."""
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Floating-point types by their names in safetensors files."""


@dataclass(frozen=True)
class Info:
    """What a tensor is, known without reading it."""

    shape: tuple[int, ...]
    """Length of each axis."""
    dtype: torch.dtype | str
    """The type of its numbers; a name where it is not floating point."""


@runtime_checkable
class Source(Protocol):
    """Tensors by key, read when asked for."""

    @property
    def path(self) -> Path:
        """The folder or file, for errors."""
        ...

    @property
    def tensors(self) -> Mapping[str, Info]:
        """Every tensor there is."""
        ...

    def read(self, key: str, index: int | None = None) -> Tensor:
        """A tensor on the CPU, whole or only entry `index` of its first axis. Raises ValueError where it is broken."""
        ...


class SafetensorsSource:
    """One or more safetensors files. Raises ValueError when one is missing, truncated, or a key comes twice."""

    def __init__(self, path: Path, files: Iterable[Path]) -> None:
        self.path = path
        self.tensors: dict[str, Info] = {}
        self._files: dict[str, Path] = {}
        for file in files:
            with open_tensors(file) as tensors:
                for key in tensors.keys():  # noqa: SIM118 (not a dict)
                    if key in self._files:
                        raise ValueError(f"{key} is in {self._files[key].name} and in {file.name}; keep one of them")
                    part = tensors.get_slice(key)
                    name = part.get_dtype()
                    self.tensors[key] = Info(tuple(part.get_shape()), DTYPES.get(name, name))
                    self._files[key] = file

    def read(self, key: str, index: int | None = None) -> Tensor:
        """See `Source`."""
        with open_tensors(self._files[key]) as tensors:
            tensor: Tensor = tensors.get_tensor(key) if index is None else tensors.get_slice(key)[index]
            return tensor


class TorchSource:
    """A dictionary of tensors in a file of `torch.save`, mapped into memory, not read at once.

    `strip` is taken off the front of the keys. Raises ValueError when the file is truncated, holds code, or no tensors.
    """

    def __init__(self, path: Path, entry: str | None = None, strip: str = "") -> None:
        self.path = path
        data = load_torch(path)
        state = data if entry is None else data.get(entry)
        if not isinstance(state, dict) or not state:
            raise ValueError(f"{path} has no dictionary of tensors under {entry!r}; it has {', '.join(map(str, data))}")
        self._state = {key.removeprefix(strip): value for key, value in state.items() if isinstance(value, Tensor)}
        self.tensors = {
            key: Info(tuple(value.shape), value.dtype if value.is_floating_point() else str(value.dtype))
            for key, value in self._state.items()
        }

    def read(self, key: str, index: int | None = None) -> Tensor:
        """See `Source`."""
        return self._state[key] if index is None else self._state[key][index]


def load_torch(path: Path) -> dict[Any, Any]:
    """The dictionary in a file of `torch.save`; no code in it is run."""
    try:
        data = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError, ValueError) as error:
        first = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is truncated or no file of torch.save ({first}); copy it again") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}, expected a dictionary")
    return data


@contextmanager
def open_tensors(file: Path) -> Iterator[Any]:
    """A safetensors file, read lazily; ValueError names one that is broken."""
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except SafetensorError as error:
        raise ValueError(f"{file} is truncated or no safetensors file ({error}); copy or download it again") from error


def find_files(path: Path) -> list[Path]:
    """The safetensors files that hold the weights at `path`: a file, or a folder with one or with shards."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"{path} does not exist; give a folder or one safetensors file")
    if (path / SINGLE).is_file():
        return [path / SINGLE]
    if not (path / INDEX).is_file():
        found = ", ".join(sorted(file.name for file in path.iterdir())[:MAX_NAMED]) or "nothing"
        raise ValueError(f"{path} has neither {SINGLE} nor {INDEX}; it holds: {found}")
    shards = read_json(path / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ValueError(f"{path / INDEX} has no weight_map; copy or download it again")
    files = [path / name for name in sorted(set(shards.values()))]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise ValueError(
            f"{path} lacks {len(absent)} of {len(files)} shards: {', '.join(absent[:MAX_NAMED])}; download them too"
        )
    return files


def open_safetensors(path: Path) -> SafetensorsSource | None:
    """The safetensors file or files at `path`; None when there are none. Raises ValueError when one is broken."""
    if path.suffix != ".safetensors" and not ((path / SINGLE).is_file() or (path / INDEX).is_file()):
        return None
    return SafetensorsSource(path, find_files(path))


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; ValueError names a file that is missing or holds none."""
    try:
        data = json.loads(file.read_text())
    except FileNotFoundError:
        raise ValueError(f"{file} does not exist; copy the whole folder again") from None
    except ValueError as error:  # covers bad UTF-8 too
        raise ValueError(f"{file} is truncated or not JSON ({error}); copy or download it again") from error
    if not isinstance(data, dict):
        raise ValueError(f"{file} holds a {type(data).__name__}, expected an object; copy or download it again")
    return data


def listed(problems: Sequence[str]) -> str:
    """The first `MAX_NAMED` of them in one line, and how many more there are."""
    more = f"; and {len(problems) - MAX_NAMED} more" if len(problems) > MAX_NAMED else ""
    return "; ".join(problems[:MAX_NAMED]) + more


def most_common_shape(source: Source, pattern: str) -> tuple[int, ...]:
    """The shape that most tensors have whose whole key matches; one of another shape is found out by `check`.

    Raises ValueError when there is no such tensor.
    """
    shapes = [info.shape for key, info in source.tensors.items() if re.fullmatch(pattern, key)]
    if not shapes:
        key = re.sub(r"\\(.)", r"\1", pattern.split("|")[0].replace(r"(\d+)", "N"))
        near = difflib.get_close_matches(key, source.tensors, 1)
        hint = f"; the nearest that it has is {near[0]}" if near else ""
        raise ValueError(f"{source.path} does not fit the model: missing: {key}, which tells a size of it{hint}")
    return max(shapes, key=shapes.count)


def count_layers(source: Source, pattern: str) -> int:
    """How many layers there are: numbers that the group of `pattern` finds at the start of keys, from 0 on.

    A layer has at least half as many keys as the fullest; with fewer it is no layer, with one missing it still is one.
    """
    keys = Counter(int(found[1]) for key in source.tensors if (found := re.match(pattern, key)))
    return 1 + max((number for number, count in keys.items() if 2 * count >= max(keys.values())), default=-1)
