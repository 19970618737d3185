"""tf.train.Example without TensorFlow: the few rules of protobuf's wire format that it needs, over bytes in place.

    Example { Features features = 1 }    Features { map<string, Feature> feature = 1 }
    Feature { BytesList | FloatList | Int64List = 1 | 2 | 3 }    each a list { repeated value = 1 }

Source: TensorFlow, tensorflow/core/example/{example,feature}.proto; protobuf, "Encoding". A part of the data is told by
its `Span`, so that pictures are found without being read. ValueError: the bytes are no Example.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
from jaxtyping import Float32, Int64

from pizero.data.tfrecord import Buffer

Span = tuple[int, int]
"""First byte and end."""

VARINT: Final = 0
FIXED64: Final = 1
LENGTH_DELIMITED: Final = 2
FIXED32: Final = 5

BYTES_LIST: Final = 1
FLOAT_LIST: Final = 2
INT64_LIST: Final = 3
KIND_NAMES = {BYTES_LIST: "bytes", FLOAT_LIST: "floats", INT64_LIST: "integers", None: "nothing"}

LONGEST_VARINT = 10


def features(data: Buffer, span: Span) -> dict[str, Span]:
    """The span of the Feature of each name in an Example."""
    found = {}
    for number, wire, outer in _fields(data, span):
        if (number, wire) != (1, LENGTH_DELIMITED):
            continue
        for entry_number, entry_wire, entry in _fields(data, outer):
            if (entry_number, entry_wire) != (1, LENGTH_DELIMITED):
                continue
            name, feature = "", (entry[1], entry[1])
            for part, part_wire, value in _fields(data, entry):
                if part_wire == LENGTH_DELIMITED and part == 1:
                    name = bytes(data[value[0] : value[1]]).decode()
                elif part_wire == LENGTH_DELIMITED and part == 2:
                    feature = value
            found[name] = feature
    return found


def byte_spans(data: Buffer, feature: Span) -> list[Span]:
    """Where each entry of a Feature of bytes is."""
    values = []
    for span in _lists(data, feature, BYTES_LIST):
        start, end = span
        while start < end:  # as _fields, without its generality: a data set has one entry for every picture
            tag = data[start]
            length, value = _varint(data, start + 1, end)
            if tag != 1 << 3 | LENGTH_DELIMITED or value + length > end:
                raise ValueError(f"entry at byte {start} of a list of bytes is damaged")
            values.append((value, value + length))
            start = value + length
    return values


def floats(data: Buffer, feature: Span) -> Float32[np.ndarray, " n"]:
    """The values of a Feature of floats."""
    parts = []
    for span in _lists(data, feature, FLOAT_LIST):
        for number, wire, (start, end) in _fields(data, span):
            if number != 1 or wire not in (LENGTH_DELIMITED, FIXED32) or (end - start) % 4:
                raise ValueError(f"entry at byte {start} of a list of floats is damaged")
            parts.append(np.frombuffer(data, "<f4", (end - start) // 4, start))
    return np.concatenate([np.zeros(0, np.float32), *parts])


def integers(data: Buffer, feature: Span) -> Int64[np.ndarray, " n"]:
    """The values of a Feature of integers; booleans are 0 and 1."""
    parts = []
    for span in _lists(data, feature, INT64_LIST):
        for number, wire, (start, end) in _fields(data, span):
            if number != 1 or wire not in (LENGTH_DELIMITED, VARINT):
                raise ValueError(f"entry at byte {start} of a list of integers is damaged")
            parts.append(varints(np.frombuffer(data, np.uint8, end - start, start)))
    return np.concatenate([np.zeros(0, np.int64), *parts])


def kind(data: Buffer, feature: Span) -> str:
    """What a Feature holds, for error messages: "bytes", "floats", "integers" or "nothing"."""
    return KIND_NAMES[next((number for number, _, _ in _fields(data, feature) if number in KIND_NAMES), None)]


def varints(packed: np.ndarray) -> Int64[np.ndarray, " n"]:
    """Numbers written one after the other, 7 bits a byte, the lowest first; the highest bit says that one goes on."""
    is_last = packed < 0x80
    if len(packed) and not is_last[-1]:
        raise ValueError("a list of integers ends within a number")
    ends = np.flatnonzero(is_last)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    if len(ends) and (ends - starts).max() >= LONGEST_VARINT:
        raise ValueError(f"an integer has more than {LONGEST_VARINT} bytes")
    place = np.arange(len(packed)) - np.repeat(starts, ends - starts + 1)
    bits = (packed & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)  # 64 bits: what is above falls off
    return np.add.reduceat(bits, starts).astype(np.int64) if len(ends) else np.zeros(0, np.int64)


def _lists(data: Buffer, feature: Span, wanted: int) -> Iterator[Span]:
    for number, wire, span in _fields(data, feature):
        if number not in (BYTES_LIST, FLOAT_LIST, INT64_LIST):
            continue
        if number != wanted or wire != LENGTH_DELIMITED:
            raise ValueError(f"it holds {KIND_NAMES[number]}, expected {KIND_NAMES[wanted]}")
        yield span


def _fields(data: Buffer, span: Span) -> Iterator[tuple[int, int, Span]]:
    """Number, wire type and the bytes of the value of each field of a message."""
    position, end = span
    while position < end:
        tag, start = _varint(data, position, end)
        wire = tag & 7
        if wire == LENGTH_DELIMITED:
            length, start = _varint(data, start, end)
            stop = start + length
        elif wire == VARINT:
            stop = _varint(data, start, end)[1]
        elif wire in (FIXED32, FIXED64):
            stop = start + (4 if wire == FIXED32 else 8)
        else:
            raise ValueError(f"byte {position} begins a field of unknown wire type {wire}")
        if stop > end:
            raise ValueError(f"the field at byte {position} is longer than what it is in")
        yield tag >> 3, wire, (start, stop)
        position = stop


def _varint(data: Buffer, position: int, end: int) -> tuple[int, int]:
    """A number, and the position after it."""
    value = 0
    for shift in range(0, 7 * LONGEST_VARINT, 7):
        if position >= end:
            raise ValueError(f"the data ends within the number before byte {position}")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"the number before byte {position} has more than {LONGEST_VARINT} bytes")
