"""Tensors of other programs: files, shards and broken ones."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pizero.weights.source import (
    INDEX,
    Info,
    SafetensorsSource,
    TorchSource,
    count_layers,
    find_files,
    load_torch,
    most_common_shape,
    read_json,
)

MATRIX = torch.arange(6.0).view(2, 3)


def shards(folder: Path, parts: dict[str, dict[str, torch.Tensor]], index: dict[str, str] | None = None) -> Path:
    for name, tensors in parts.items():
        save_file(tensors, folder / name)
    names = {key: name for name, tensors in parts.items() for key in tensors} if index is None else index
    (folder / INDEX).write_text(json.dumps({"weight_map": names}))
    return folder


def of_keys(*keys: str) -> SafetensorsSource:
    """A source that has these keys, all of shape (2,)."""
    source = SafetensorsSource(Path("somewhere"), [])
    source.tensors = {key: Info((2,), torch.float32) for key in keys}
    return source


def test_one_file_and_shards_are_read_alike(tmp_path):
    tensors = {"a": MATRIX, "b": MATRIX.bfloat16(), "c": torch.arange(3), "d": MATRIX.half(), "e": MATRIX.double()}
    one, many = tmp_path / "one", tmp_path / "many"
    one.mkdir()
    many.mkdir()
    save_file(tensors, one / "model.safetensors")
    shards(many, {"x.safetensors": {"a": tensors["a"]}, "y.safetensors": {k: tensors[k] for k in "bcde"}})
    for path in (one, many, one / "model.safetensors"):
        source = SafetensorsSource(path, find_files(path))
        assert source.tensors == {
            "a": Info((2, 3), torch.float32),
            "b": Info((2, 3), torch.bfloat16),
            "c": Info((3,), "I64"),
            "d": Info((2, 3), torch.float16),
            "e": Info((2, 3), torch.float64),
        }
        for key, tensor in tensors.items():
            assert torch.equal(source.read(key), tensor)
            assert torch.equal(source.read(key, 1), tensor[1])


def test_a_key_in_two_shards_is_refused(tmp_path):
    parts = {"x.safetensors": {"a": MATRIX, "c": MATRIX.clone()}, "y.safetensors": {"a": MATRIX, "b": MATRIX.clone()}}
    with pytest.raises(ValueError, match=r"^a is in x\.safetensors and in y\.safetensors"):
        SafetensorsSource(tmp_path, find_files(shards(tmp_path, parts)))


def test_missing_shards_are_named_and_counted(tmp_path):
    index = {f"k{i}": f"part-{i:02}.safetensors" for i in range(30)}
    shards(tmp_path, {"part-00.safetensors": {"k0": MATRIX}}, index)
    with pytest.raises(ValueError, match=r"lacks 29 of 30 shards: part-01\.safetensors, ") as error:
        find_files(tmp_path)
    assert "part-20.safetensors" in str(error.value)
    assert "part-21.safetensors" not in str(error.value)


@pytest.mark.parametrize("text", ["{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_an_index_without_shards_is_refused(tmp_path, text):
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(ValueError, match="has no weight_map"):
        find_files(tmp_path)


def test_what_a_folder_holds_instead_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"it holds: nothing$"):
        find_files(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"it holds: notes\.txt$"):
        find_files(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        find_files(tmp_path / "nowhere")


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.99])
def test_truncated_files_are_called_so(tmp_path, keep):
    file, other = tmp_path / "model.safetensors", tmp_path / "model.pt"
    save_file({"a": torch.randn(50, 50)}, file)
    torch.save({"model": {"a": torch.randn(50, 50)}}, other)
    for path in (file, other):
        whole = path.read_bytes()
        path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(ValueError, match=rf"^{file} is truncated or no safetensors file"):
        SafetensorsSource(file, [file])
    with pytest.raises(ValueError, match=rf"^{other} is truncated or no file of torch.save") as error:
        load_torch(other)
    assert "\n" not in str(error.value)


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_code_in_a_file_of_torch_save_is_not_run(tmp_path):
    torch.save({"model": {"a": MATRIX}, "more": Trap(tmp_path / "sprung")}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt is truncated or no file of torch\.save") as error:
        load_torch(tmp_path / "x.pt")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "sprung").exists()


def test_a_file_of_torch_save_is_read_under_its_entry_without_the_prefix(tmp_path):
    state = {"p.a": MATRIX, "p.b": torch.arange(3), "p.c": MATRIX.bfloat16()}
    torch.save({"model": state, "step": 3}, tmp_path / "x.pt")
    source = TorchSource(tmp_path / "x.pt", "model", "p.")
    assert source.tensors == {
        "a": Info((2, 3), torch.float32),
        "b": Info((3,), "torch.int64"),
        "c": Info((2, 3), torch.bfloat16),
    }
    assert torch.equal(source.read("a"), MATRIX)
    assert torch.equal(source.read("a", 1), MATRIX[1])
    with pytest.raises(ValueError, match="no dictionary of tensors under 'weights'; it has model, step"):
        TorchSource(tmp_path / "x.pt", "weights")
    torch.save([MATRIX], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"list\.pt holds a list, expected a dictionary"):
        load_torch(tmp_path / "list.pt")


@pytest.mark.parametrize(
    ("content", "words"), [(b"{", "truncated or not JSON"), (b"\xff", "not JSON"), (b"[]", "list")]
)
def test_broken_json_is_named(tmp_path, content, words):
    file = tmp_path / "config.json"
    with pytest.raises(ValueError, match="does not exist"):
        read_json(file)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_json(file)


def test_the_most_common_shape_wins_and_an_absent_one_is_called_missing_by_its_name():
    source = of_keys("x.layers.0.w", "x.layers.1.w", "x.layers.2.w", "x.b")
    source.tensors["x.layers.0.w"] = Info((3,), torch.float32)
    assert most_common_shape(source, r"x\.layers\.(\d+)\.w") == (2,)
    with pytest.raises(ValueError, match=r"missing: x\.layers\.N\.y, .* nearest that it has is x\.layers\.\d\.w$"):
        most_common_shape(source, r"x\.layers\.(\d+)\.y")


def test_layers_are_counted_in_spite_of_one_key_too_few_or_too_many():
    keys = [f"x.layers.{i}.{name}" for i in range(3) for name in "abcd"]
    start = r"x\.layers\.(\d+)\."
    assert count_layers(of_keys(*keys), start) == 3
    assert count_layers(of_keys(*keys[:-1]), start) == 3
    assert count_layers(of_keys(*keys, "x.layers.7.a"), start) == 3
    assert count_layers(of_keys("y"), start) == 0
