"""Any example: what protobuf writes is read, and what is cut off or changed is an error, never a crash."""

import contextlib
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pizero.data import tf_example

sys.path.append(str(Path(__file__).parents[1] / "unit" / "data"))
from rlds_files import example, varint

NAMES = st.text(min_size=1, max_size=12)
INT64 = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.lists(st.floats(width=32, allow_nan=False), max_size=40)
ENTRIES = st.dictionaries(NAMES, FLOATS | st.lists(INT64, max_size=40) | st.lists(st.binary(max_size=200), max_size=9))


def as_values(values: list):
    if not values or isinstance(values[0], bytes):
        return values
    return np.array(values, np.float32 if isinstance(values[0], float) else np.int64)


def read_back(data: bytes) -> dict:
    found = {}
    for name, span in tf_example.features(data, (0, len(data))).items():
        kind = tf_example.kind(data, span)
        if kind == "floats":
            found[name] = tf_example.floats(data, span).tolist()
        elif kind == "integers":
            found[name] = tf_example.integers(data, span).tolist()
        else:
            found[name] = [data[a:b] for a, b in tf_example.byte_spans(data, span)]
    return found


@settings(deadline=None, max_examples=80)
@given(ENTRIES)
def test_what_is_written_is_read(entries: dict) -> None:
    assert read_back(example({name: as_values(values) for name, values in entries.items()})) == entries


@settings(deadline=None, max_examples=80)
@given(st.lists(INT64, max_size=60))
def test_integers_equal_the_obvious_slow_way(values: list[int]) -> None:
    packed = b"".join(varint(value) for value in values)
    slow, value, shift = [], 0, 0
    for byte in packed:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            slow.append(value - 2**64 if value >= 2**63 else value)
            value, shift = 0, 0
    assert tf_example.varints(np.frombuffer(packed, np.uint8)).tolist() == slow == values


@settings(deadline=None, max_examples=40)
@given(ENTRIES)
def test_what_protobuf_writes_is_read(entries: dict) -> None:
    message = protobuf_example()()
    for name, values in entries.items():
        target = message.features.feature[name]
        if not values or isinstance(values[0], bytes):
            target.bytes_list.value.extend(values)
        elif isinstance(values[0], float):
            target.float_list.value.extend(values)
        else:
            target.int64_list.value.extend(values)
    assert read_back(message.SerializeToString()) == entries


@settings(deadline=None, max_examples=120)
@given(ENTRIES, st.data())
def test_damaged_bytes_are_an_error_or_other_values_but_never_a_crash(entries: dict, data) -> None:
    whole = bytearray(example({name: as_values(values) for name, values in entries.items()}))
    if len(whole) > 2:
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        del whole[data.draw(st.integers(1, len(whole))) :]
    with contextlib.suppress(ValueError):
        read_back(bytes(whole))


def protobuf_example():
    """TensorFlow's message, described to protobuf on the spot."""
    descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
    from google.protobuf import descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    for name, kind in (
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    ):
        file.message_type.add(name=name).field.add(name="value", number=1, type=kind, label=field.LABEL_REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, kind) in enumerate(
        (("bytes_list", "Bytes"), ("float_list", "Float"), ("int64_list", "Int64")), 1
    ):
        feature.field.add(
            name=name, number=number, type=field.TYPE_MESSAGE, type_name=f".t.{kind}List", oneof_index=0, label=1
        )
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=1)
    entry.field.add(name="value", number=2, type=field.TYPE_MESSAGE, type_name=".t.Feature", label=1)
    features.field.add(name="feature", number=1, type=field.TYPE_MESSAGE, type_name=".t.Features.FeatureEntry", label=3)
    top = file.message_type.add(name="Example")
    top.field.add(name="features", number=1, type=field.TYPE_MESSAGE, type_name=".t.Features", label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))
