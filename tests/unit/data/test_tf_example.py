import struct

import numpy as np
import pytest
from rlds_files import block, example, feature, varint

from pizero.data import tf_example


def test_every_kind_of_feature_comes_back() -> None:
    numbers = np.array([1.5, -2.25, 3e-30], np.float32)
    integers = np.array([0, 1, 127, 128, 300, 2**31, 2**63 - 1, -1, -(2**63)])
    data = example({"a/x": numbers, "b": integers, "c": [b"one", b"", b"three" * 60], "empty": []})
    found = tf_example.features(data, (0, len(data)))
    assert list(found) == ["a/x", "b", "c", "empty"]
    np.testing.assert_array_equal(tf_example.floats(data, found["a/x"]), numbers)
    np.testing.assert_array_equal(tf_example.integers(data, found["b"]), integers)
    spans = tf_example.byte_spans(data, found["c"])
    assert [data[start:end] for start, end in spans] == [b"one", b"", b"three" * 60]
    assert tf_example.byte_spans(data, found["empty"]) == []
    assert [tf_example.kind(data, found[name]) for name in found] == ["floats", "integers", "bytes", "bytes"]


def test_only_the_given_part_of_the_data_is_read() -> None:
    inner = example({"x": np.array([4.0], np.float32)})
    data = b"before" + inner + b"after"
    found = tf_example.features(data, (6, 6 + len(inner)))
    assert tf_example.floats(data, found["x"]).tolist() == [4.0]


def test_numbers_that_are_not_packed_are_read_too() -> None:
    """Older writers give every number a field of its own, and protobuf says that readers must take both."""
    unpacked = b"".join(bytes([1 << 3 | 5]) + struct.pack("<f", value) for value in (1.0, 2.0))
    data = block(2, unpacked + block(1, np.float32([3]).tobytes()))
    assert tf_example.floats(data, (0, len(data))).tolist() == [1, 2, 3]
    data = block(3, bytes([1 << 3]) + varint(700) + block(1, varint(1) + varint(900)))
    assert tf_example.integers(data, (0, len(data))).tolist() == [700, 1, 900]


def test_fields_that_are_not_known_are_passed_over() -> None:
    known = example({"x": np.array([7])})
    extra = bytes([9 << 3]) + varint(99) + bytes([10 << 3 | 1]) + b"8 bytes!" + bytes([11 << 3 | 5]) + b"four"
    data = extra + known + block(12, b"more")
    assert tf_example.integers(data, tf_example.features(data, (0, len(data)))["x"]).tolist() == [7]


@pytest.mark.parametrize(
    ("read", "data", "message"),
    [
        (tf_example.floats, feature([b"text"]), "holds bytes, expected floats"),
        (tf_example.integers, feature(np.float32([1])), "holds floats, expected integers"),
        (tf_example.byte_spans, feature(np.array([1])), "holds integers, expected bytes"),
        (tf_example.floats, block(2, block(1, b"12345")), "list of floats is damaged"),
        (tf_example.integers, block(3, block(1, b"\xff")), "ends within a number"),
        (tf_example.integers, block(3, block(1, b"\xff" * 10 + b"\x01")), "more than 10 bytes"),
        (tf_example.byte_spans, block(1, varint(1 << 3 | 2) + varint(9) + b"short"), "list of bytes is damaged"),
        (tf_example.features, b"\x0a\x05abc", "longer than what it is in"),
        (tf_example.features, b"\x0f", "unknown wire type 7"),
        (tf_example.features, b"\x0a", "ends within the number"),
    ],
)
def test_what_is_damaged_or_of_another_kind_is_refused(read, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(data, (0, len(data)))
