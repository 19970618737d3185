"""The framing of TFRecord files: where each record begins and ends. No TensorFlow.

A record is its length (8 bytes, little endian), a checksum of those 8 bytes, the data, and a checksum of the data.
Source: TensorFlow, tensorflow/core/lib/io/record_writer.h; the checksum is CRC-32C, rotated and shifted (crc32c.h).
"""

import struct
from collections.abc import Iterator
from pathlib import Path

HEADER_BYTES = 12
FOOTER_BYTES = 4
CRC32C = 0x82F63B78
"""Castagnoli's polynomial, lowest bit first."""
MASK = 0xA282EAD8
"""Added to a checksum, so that one of data that hold checksums is as good as any."""
_32_BITS = 0xFFFFFFFF

Buffer = bytes | memoryview


def _table() -> tuple[int, ...]:
    entries = []
    for entry in range(256):
        for _ in range(8):
            entry = entry >> 1 ^ (CRC32C if entry & 1 else 0)
        entries.append(entry)
    return tuple(entries)


_TABLE = _table()


def masked_crc32c(data: Buffer) -> int:
    """The checksum that TFRecord keeps of some bytes."""
    crc = _32_BITS
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= _32_BITS
    return ((crc >> 15 | crc << 17) + MASK) & _32_BITS


def records(path: Path, data: Buffer) -> Iterator[tuple[int, int]]:
    """First byte and end of the data of each record in a file's bytes.

    The checksums of the lengths are checked, those of the data are not: that would read every byte. Raises ValueError,
    naming file and record, where the file is truncated or is no TFRecord file.
    """
    position, number = 0, 0
    while position < len(data):
        place = f"{path}: record {number}, at byte {position},"
        if position + HEADER_BYTES > len(data):
            raise ValueError(f"{place} is truncated")
        length, checksum = struct.unpack_from("<QI", data, position)
        if masked_crc32c(data[position : position + 8]) != checksum:
            raise ValueError(
                f"{place} is damaged, or the file is no TFRecord file: the checksum of its length is wrong"
            )
        start = position + HEADER_BYTES
        position = start + length + FOOTER_BYTES
        if position > len(data):
            raise ValueError(f"{place} is truncated: it has {length} bytes, the file ends after {len(data) - start}")
        yield start, start + length
        number += 1
