import struct
from pathlib import Path

import pytest
from rlds_files import framed, slow_crc

from pizero.data.tfrecord import masked_crc32c, records

PATH = Path("file.tfrecord")


def test_the_checksum_is_the_one_of_the_standard() -> None:
    """CRC-32C of "123456789" is e3069283 (RFC 3720), turned right by 15 bits, plus a282ead8."""
    turned = 0xE3069283 >> 15 | 0xE3069283 << 17
    assert masked_crc32c(b"123456789") == (turned + 0xA282EAD8) & 0xFFFFFFFF
    for data in (b"", b"\0" * 8, bytes(range(256))):
        assert masked_crc32c(data) == slow_crc(data)


def test_records_are_found_one_after_the_other() -> None:
    contents = [b"first", b"", b"x" * 300]
    data = b"".join(map(framed, contents))
    assert [data[start:end] for start, end in records(PATH, data)] == contents
    assert [bytes(memoryview(data)[a:b]) for a, b in records(PATH, memoryview(data))] == contents
    assert list(records(PATH, b"")) == []


@pytest.mark.parametrize("kept", [5, 12, 15, 20])
def test_a_truncated_file_is_refused_at_its_last_record(kept: int) -> None:
    data = framed(b"whole") + framed(b"cut off")[:kept]
    with pytest.raises(ValueError, match=r"file.tfrecord: record 1, at byte 21, is truncated"):
        list(records(PATH, data))


def test_a_length_that_its_checksum_denies_is_refused() -> None:
    data = bytearray(framed(b"first") + framed(b"second"))
    struct.pack_into("<Q", data, 21, 5)
    with pytest.raises(ValueError, match=r"record 1, at byte 21, is damaged, or the file is no TFRecord file"):
        list(records(PATH, bytes(data)))
    with pytest.raises(ValueError, match="record 0"):
        list(records(PATH, b"this is a text file, not a record of anything"))
