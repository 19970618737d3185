"""Files written tensor by tensor: bit for bit what they are made from, and never half a file."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pizero.weights.writer import write_safetensors

TENSORS = {
    "double": torch.randn(3, 4, dtype=torch.float64),
    "single": torch.randn(5),
    "brain": torch.randn(2, 3, 2).bfloat16(),
    "half": torch.randn(3).half(),
    "scalar": torch.tensor(1.5),
    "empty": torch.zeros(0, 4),
    "strided": torch.randn(4, 6).T[::2],
    "odd ☃ name": torch.randn(1).bfloat16(),
}


def announced(tensors):
    return {name: (x.dtype, tuple(x.shape)) for name, x in tensors.items()}


def test_safetensors_reads_the_same_bits(tmp_path):
    file = tmp_path / "x.safetensors"
    metadata = {"format": "pt", "note": 'a "quoted" ☃'}
    write_safetensors(file, announced(TENSORS), TENSORS.__getitem__, metadata=metadata)
    loaded = load_file(file)
    assert set(loaded) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor), name
    with safe_open(file, framework="pt") as opened:
        assert opened.metadata() == metadata
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.safetensors"]


def test_special_numbers_keep_their_bits(tmp_path):
    numbers = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45, torch.finfo(torch.float32).max])
    write_safetensors(tmp_path / "x", announced({"a": numbers}), lambda _: numbers)
    assert torch.equal(load_file(tmp_path / "x")["a"].view(torch.int32), numbers.view(torch.int32))


def test_numbers_start_at_a_multiple_of_eight_bytes(tmp_path):
    for length in range(1, 10):
        write_safetensors(tmp_path / "x", announced({"a" * length: torch.ones(3)}), lambda _: torch.ones(3))
        assert int.from_bytes((tmp_path / "x").read_bytes()[:8], "little") % 8 == 0
        assert load_file(tmp_path / "x")["a" * length].tolist() == [1.0] * 3


def test_no_tensors_are_a_file_too(tmp_path):
    write_safetensors(tmp_path / "x", {}, TENSORS.__getitem__)
    assert load_file(tmp_path / "x") == {}


def test_another_type_is_converted_to_the_announced_one(tmp_path):
    exact = torch.randn(4, dtype=torch.float64)
    write_safetensors(tmp_path / "x", {"a": (torch.bfloat16, (4,))}, lambda _: exact)
    assert torch.equal(load_file(tmp_path / "x")["a"], exact.bfloat16())


def test_progress_counts_bytes(tmp_path):
    seen = []
    tensors = {"a": torch.ones(3), "b": torch.ones(2, dtype=torch.float64)}
    write_safetensors(tmp_path / "x", announced(tensors), tensors.__getitem__, lambda *progress: seen.append(progress))
    assert seen == [(12, 28, "a"), (28, 28, "b")]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_crash_leaves_no_file_and_an_older_one_as_it_was(tmp_path, error):
    def make(name):
        if name == "single":
            raise error
        return TENSORS[name]

    with pytest.raises(error):
        write_safetensors(tmp_path / "new", announced(TENSORS), make)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").write_text("precious")
    with pytest.raises(error):
        write_safetensors(tmp_path / "old", announced(TENSORS), make)
    assert [file.name for file in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "precious"


def test_a_tensor_of_another_shape_than_announced_is_a_bug(tmp_path):
    with pytest.raises(AssertionError, match=r"a is \(3,\), announced as \(4,\)"):
        write_safetensors(tmp_path / "x", {"a": (torch.float32, (4,))}, lambda _: torch.ones(3))
    assert list(tmp_path.iterdir()) == []
