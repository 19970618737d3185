"""Pictures that a LeRobot folder keeps as PNG or JPEG in its parquet files, one decoded at a time."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int, UInt8

from pizero.data.open_files import OpenFiles
from pizero.data.picture import decode_picture
from pizero.data.recording import CorruptPicture

MAX_OPEN_TABLES = 4
"""Parquet files kept open; each keeps the encoded pictures of one row group a camera in memory."""


@dataclass(frozen=True)
class ImageRows:
    """Where the rows of a data set are: file after file."""

    paths: tuple[Path, ...]
    starts: Int[np.ndarray, " f"]
    """Frame that is the first of each file."""


class ImageReader:
    """Pictures by frame number. Raises CorruptPicture, naming file and row, when one cannot be decoded."""

    def __init__(self, root: Path, rows: ImageRows) -> None:
        self._rows = rows
        self._tables: OpenFiles[_ImageTable] = OpenFiles(partial(_ImageTable, root), MAX_OPEN_TABLES)

    def picture(self, i: int, key: str) -> UInt8[np.ndarray, "h w 3"]:
        """The picture of frame i in the column `key`."""
        file = int(np.searchsorted(self._rows.starts, i, side="right")) - 1
        path, row = self._rows.paths[file], i - int(self._rows.starts[file])
        try:
            with self._tables.use(path) as table:
                data = table.encoded(row, key)
            return decode_picture(data)
        except (ValueError, OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CorruptPicture(f"{path}: picture {key!r} in row {row} cannot be decoded: {reason}") from None

    def close(self) -> None:
        """Closes the files."""
        self._tables.close()


class _ImageTable:
    """One parquet file. The row group used last is kept, so that frames in order are read once."""

    def __init__(self, root: Path, path: Path) -> None:
        self._root = root
        self._file = pq.ParquetFile(path)
        groups = range(self._file.num_row_groups)
        self._starts = np.cumsum([0] + [self._file.metadata.row_group(group).num_rows for group in groups])
        self._kept: dict[str, tuple[int, pa.ChunkedArray]] = {}

    def encoded(self, row: int, key: str) -> bytes:
        """The bytes of a PNG or JPEG file, which may lie beside the table."""
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if self._kept.get(key, (-1, None))[0] != group:
            self._kept[key] = (group, self._file.read_row_group(group, columns=[key])[key])
        cell: dict[str, Any] = self._kept[key][1][row - int(self._starts[group])].as_py() or {}
        if cell.get("bytes") is None and cell.get("path"):
            return (self._root / cell["path"]).read_bytes()
        return cell.get("bytes") or b""

    def close(self) -> None:
        self._file.close()
