import math

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pizero.embodiment import Embodiment
from pizero.frame import Frame
from pizero.serve.protocol import (
    MOST_SEED,
    Metadata,
    blank_frame,
    frame_message,
    pack,
    read_frame,
    unpack,
)

ROBOT = Embodiment("arm", ("front",), ("x", "y"), ("dx",), 10.0, (-1.0,), (1.0,))
DTYPES = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?"),
    hnp.byte_string_dtypes(),
    hnp.unicode_string_dtypes(),
)
ARRAYS = DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0)))
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(), st.binary(), ARRAYS
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


def same(a: object, b: object) -> bool:
    """Bit for bit, types included."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and a == b


@given(VALUES)
def test_what_was_packed_comes_out_bit_for_bit(value):
    assert same(value, unpack(pack(value)))


@given(hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=3, min_side=2)))
def test_arrays_that_are_not_contiguous_arrive_as_they_look(array):
    for view in (array.T, array[::-1], array[:, ::2], np.asfortranarray(array)):
        np.testing.assert_array_equal(unpack(pack(view)), view)


@pytest.mark.parametrize(
    "scalar", [np.float32(0.1), np.float16(0.1), np.uint8(7), np.int64(-(2**62)), np.bool_(True), np.bool_(False)]
)
def test_scalars_keep_their_type(scalar):
    back = unpack(pack({"x": scalar}))["x"]
    assert type(back) is type(scalar)
    assert back == scalar


def test_the_bytes_are_those_of_openpis_encoding():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    plain = {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": "<f4", b"shape": (2, 3)}
    assert pack({"actions": array, "prompt": "go"}) == msgpack.packb({"actions": plain, "prompt": "go"})
    generic = {b"__npgeneric__": True, b"data": 0.5, b"dtype": "<f4"}
    assert pack([np.float32(0.5)]) == msgpack.packb([generic])


@pytest.mark.parametrize("value", [np.array([{}]), np.complex64(1j), np.zeros(2, "i4,f4"), np.longdouble(1), object()])
def test_what_would_need_pickle_is_not_sent(value):
    with pytest.raises(ValueError, match="cannot be sent"):
        pack({"x": value})


def array_map(dtype: str, shape: object, data: bytes) -> bytes:
    return msgpack.packb({b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x81",
        b"\xc1",
        b"GET / HTTP/1.1",
        b"\x91" * 100_000,
        pack({"x": np.zeros(5)})[:-1],
        array_map("<f4", [3], b"12345678"),
        array_map("<f4", [1], b"12345678"),
        array_map("<f4", [-2], b"12345678"),
        array_map("|O", [1], b"12345678"),
        array_map("<c8", [1], b"12345678"),
        array_map("<i4,<f4", [1], b"12345678"),
        array_map("nonsense", [1], b"12345678"),
        array_map("<f4", "ab", b"12345678"),
        array_map("<f4", None, b"12345678"),
        msgpack.packb({b"__ndarray__": True}),
        msgpack.packb({b"__npgeneric__": True, b"data": [], b"dtype": "<f4"}),
    ],
)
def test_bytes_that_are_no_message_are_refused(data):
    with pytest.raises(ValueError, match="message cannot be read"):
        unpack(data)


def make_frame() -> Frame:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Frame({"front": image}, np.float32([0.1, -2]), "öffne es")


@pytest.mark.parametrize("seed", [None, 0, 7, MOST_SEED])
def test_a_frame_and_its_seed_arrive(seed):
    frame = make_frame()
    back, its_seed = read_frame(unpack(pack(frame_message(frame, seed))))
    assert its_seed == seed
    assert back.prompt == "öffne es"
    assert same(dict(back.images), dict(frame.images))
    assert same(back.state, frame.state)


def test_a_frame_without_a_seed_is_one_too():
    message = frame_message(make_frame(), 3)
    del message["seed"]
    assert read_frame(unpack(pack(message)))[1] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"promt": "go"}, "unknown keys \\['promt'\\]; it takes images, state, prompt, seed"),
        ({"images": [1]}, "images must be arrays by the names of their cameras"),
        ({"images": {"front": 1}}, "images must be arrays"),
        ({"images": {b"front": np.zeros((5, 7, 3), np.uint8)}}, "images must be arrays"),
        ({"images": {"front": np.zeros((3, 5, 7), np.uint8)}}, "camera 'front' is uint8 \\(3, 5, 7\\)"),
        ({"images": {"front": np.zeros((5, 7, 3), np.float32)}}, "camera 'front' is float32"),
        ({"state": [1.0, 2.0]}, "state is a list"),
        ({"state": np.zeros((1, 2))}, "state is float64 \\(1, 2\\)"),
        ({"state": np.array(["a"])}, "state is <U1"),
        ({"prompt": b"go"}, "prompt is a bytes"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"seed": True}, "seed is True"),
    ],
)
def test_a_request_that_is_no_frame_is_told_why(change, message):
    with pytest.raises(ValueError, match=message):
        read_frame(frame_message(make_frame(), 1) | change)


def test_a_request_that_lacks_something_is_told_what():
    with pytest.raises(ValueError, match="frame has no state, prompt; it takes"):
        read_frame({"images": {}})
    with pytest.raises(ValueError, match="request is a int, expected a frame"):
        read_frame(3)


def test_metadata_arrive():
    metadata = Metadata(ROBOT, 4, {"checkpoint": "step-7"})
    assert Metadata.from_message(unpack(pack(metadata.to_message()))) == metadata


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": 2}, "speaks protocol 2, this pizero speaks 1"),
        ({"more": 1}, "its metadata are .*'more'"),
        ({"embodiment": 3}, "its metadata are"),
        ({"embodiment": {}}, "embodiment has keys"),
        ({"horizon": 0}, "its horizon is 0"),
        ({"horizon": "4"}, "its horizon is '4'"),
        ({"about": {"a": 1}}, "about the policy"),
    ],
)
def test_metadata_that_are_not_ours_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Metadata.from_message(Metadata(ROBOT, 4).to_message() | change)


def test_a_blank_frame_has_all_that_the_robot_has():
    frame = blank_frame(ROBOT)
    assert frame.images["front"].shape == (224, 224, 3)
    assert frame.state.tolist() == [0, 0]
