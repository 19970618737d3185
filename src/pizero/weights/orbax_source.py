"""A folder of arrays that orbax (JAX) wrote, read with tensorstore alone: no jax, no orbax.

`_METADATA` lists the leaves of the tree. Each is a zarr array of its own, named by its path joined with dots, either
all in one OCDBT database (`manifest.ocdbt`, `d/`, `ocdbt.process_*/`) or each in a folder of its own
(github.com/google/orbax, docs/guides/checkpoint/checkpoint_format.ipynb).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pizero.weights.source import Info, read_json

METADATA, MANIFEST = "_METADATA", "manifest.ocdbt"
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
"""Floating-point types by their names in tensorstore."""
CACHE_BYTES = 5 * 10**9
"""Most memory for decoded chunks. One chunk often holds a weight of all layers, which are asked for one by one; the
largest of pi0, gate and up of 18 layers in float32, has 4.8e9 bytes."""


class OrbaxSource:
    """The arrays of an orbax folder; keys are paths joined by "/".

    A "params/" that all keys start with and a "/value" that all end with (nnx) are left out. Raises ValueError when
    tensorstore is not installed, or when a file is missing or broken.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ts = import_tensorstore()
        metadata = read_json(path / METADATA)
        leaves = _leaves(metadata, path)
        names = zip(_keys(leaves), (".".join(leaf) for leaf in leaves), strict=True)
        self._specs = {key: _spec(path, name, metadata) for key, name in names}
        context = self._ts.Context()
        opened = {key: self._open(key, context) for key in self._specs}
        self.tensors: dict[str, Info] = {}
        for key, future in opened.items():
            with self._broken(key):
                array = future.result()
            self.tensors[key] = Info(tuple(array.shape), DTYPES.get(array.dtype.name, array.dtype.name))
        self._last: tuple[str, Any] | None = None

    def read(self, key: str, index: int | None = None) -> Tensor:
        """See `Source`. Only the chunks that hold the entry are read from disk."""
        with self._broken(key):
            array = self._array(key)
            numbers: np.ndarray = (array if index is None else array[index]).read().result()
        return to_torch(numbers)

    def _array(self, key: str) -> Any:
        """The array, with a cache of its own that goes when another one is read: two would not fit into memory."""
        if self._last is None or self._last[0] != key:
            self._last = None
            context = self._ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})
            self._last = key, self._open(key, context).result()
        return self._last[1]

    def _open(self, key: str, context: Any) -> Any:
        return self._ts.open(self._specs[key], open=True, read=True, context=context)

    @contextmanager
    def _broken(self, key: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError, RuntimeError) as error:
            reason = " ".join(str(error).split(" [", 1)[0].split())  # without the specification and source lines
            raise ValueError(f"{self.path}: {key} is missing or truncated ({reason}); copy the folder again") from error


def import_tensorstore() -> ModuleType:
    """The package tensorstore. Raises ValueError that says how to install it."""
    try:
        import tensorstore
    except ImportError as error:
        raise ValueError(
            f"orbax checkpoints are read with tensorstore, which is not there ({error}): pip install 'pizero[orbax]'"
        ) from error
    return tensorstore


def to_torch(numbers: np.ndarray) -> Tensor:
    """The same bits; bfloat16 of ml_dtypes, which torch does not know, included."""
    if numbers.dtype.name == "bfloat16":
        return torch.from_numpy(np.ascontiguousarray(numbers).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.ascontiguousarray(numbers))


def _spec(path: Path, name: str, metadata: dict[str, Any]) -> dict[str, Any]:
    """Where and how tensorstore finds an array."""
    folder = {"driver": "file", "path": f"{path.resolve()}/"}
    inside = {"driver": "ocdbt", "base": folder, "path": f"{name}/"}
    spec: dict[str, Any] = {
        "driver": "zarr3" if metadata.get("use_zarr3") else "zarr",
        "kvstore": inside if (path / MANIFEST).is_file() else folder | {"path": f"{path.resolve()}/{name}/"},
        "recheck_cached_data": "open",
    }
    if metadata.get("store_array_data_equal_to_fill_value"):
        spec["fill_missing_data_reads"] = False  # older orbax leaves out chunks of zeros: there, missing means zero
    return spec


def _leaves(metadata: dict[str, Any], path: Path) -> list[tuple[str, ...]]:
    """Paths of the arrays in the tree; empty nodes are none."""
    tree = metadata.get("tree_metadata")
    if not isinstance(tree, dict) or not tree:
        raise ValueError(f"{path / METADATA} lists no arrays; copy the folder again")
    try:
        leaves = [
            tuple(str(part["key"]) for part in leaf["key_metadata"])
            for leaf in tree.values()
            if not leaf["value_metadata"].get("skip_deserialize")
        ]
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{path / METADATA} is not that of an orbax tree; copy the folder again") from None
    if not (path / MANIFEST).is_file() and not any((path / ".".join(leaf)).is_dir() for leaf in leaves):
        raise ValueError(f"{path / MANIFEST} does not exist; copy the whole folder again")
    return leaves


def _keys(leaves: list[tuple[str, ...]]) -> list[str]:
    start = 1 if all(leaf[0] == "params" and len(leaf) > 1 for leaf in leaves) else 0
    stop = -1 if all(leaf[-1] == "value" and len(leaf) > start + 1 for leaf in leaves) else None
    return ["/".join(leaf[start:stop]) for leaf in leaves]
