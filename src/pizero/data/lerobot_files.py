"""Files of a LeRobot folder: JSON and parquet, and one line that names the file when something is wrong."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float


def read_json(path: Path) -> dict[str, Any]:
    """The dictionary in a file."""
    return _parse(path, _read_text(path))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The dictionaries in a file, one a line."""
    return [_parse(path, line) for line in _read_text(path).splitlines() if line.strip()]


def read_table(path: Path, names: Sequence[str] | None = None, without: str | None = None) -> pa.Table:
    """The table's columns `names` (None: all, but those that start with `without`)."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; the data set needs it")
    try:
        with pq.ParquetFile(path) as file:
            present = file.schema_arrow.names
            if missing := set(names or ()) - set(present):
                raise ValueError(f"{path} lacks the columns {sorted(missing)}, it has {present}")
            return file.read(names or [name for name in present if not (without and name.startswith(without))])
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged or truncated: {str(error).splitlines()[0]}") from None


def read_vectors(path: Path, table: pa.Table, name: str, width: int) -> Float[np.ndarray, "n width"]:
    """A column of numbers or of lists of `width` numbers, float32, all of them finite."""
    column = table[name].combine_chunks()
    is_list = pa.types.is_nested(column.type)
    lengths = column.value_lengths().to_numpy(zero_copy_only=False) if pa.types.is_list(column.type) else None
    flat = column.flatten() if is_list else column
    if len(flat) != len(column) * width or (lengths is not None and (lengths != width).any()):
        raise ValueError(f"{path}: {name!r} does not have the {width} values per frame that info.json says")
    if not (pa.types.is_floating(flat.type) or pa.types.is_integer(flat.type) or pa.types.is_boolean(flat.type)):
        raise ValueError(f"{path}: {name!r} holds {flat.type}, expected numbers")
    values = np.asarray(flat.to_numpy(zero_copy_only=False), np.float32).reshape(-1, width)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        value = values[tuple(bad[0])]
        raise ValueError(f"{path}: {name!r} is {value} in row {bad[0][0]}, dimension {bad[0][1]}; must be finite")
    return values


def check_rows(path: Path, rows: Sequence[Mapping[str, Any]], *names: str) -> None:
    """Raises ValueError when a row has no value of one of the names."""
    for row in rows:
        if missing := set(names) - {name for name, value in row.items() if value is not None}:
            raise ValueError(f"{path}: an episode or task has no {sorted(missing)}")


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path} is missing; a LeRobot data set has it")
    return path.read_text(encoding="utf-8")


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}, expected a dictionary")
    return data
