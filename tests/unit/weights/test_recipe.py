"""A plan is checked as a whole: what is wrong is named, up to 20 keys, and what the file looks like instead."""

from pathlib import Path

import pytest
import torch

from pizero.weights.recipe import LAYOUTS, Recipe, change, check, copy, nearest_layout, result_dtype
from pizero.weights.source import Info


class Memory:
    """Tensors of ones, as a `Source`."""

    def __init__(self, **tensors: Info) -> None:
        self.path, self.tensors = Path("here"), tensors

    def read(self, key: str, index: int | None = None) -> torch.Tensor:
        dtype = self.tensors[key].dtype
        assert isinstance(dtype, torch.dtype)
        whole = torch.ones(self.tensors[key].shape, dtype=dtype)
        return whole if index is None else whole[index]


F32 = torch.float32
FITS = Memory(a=Info((2, 3), F32), b=Info((4,), F32))
RECIPES = {"x": copy("a", (2, 3)), "y": copy("b", (4,))}


def test_a_source_that_fits_passes():
    check(FITS, RECIPES)
    check(Memory(**FITS.tensors, extra=Info((1,), "I64")), RECIPES, unused=("ext.*",))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"b": None}, "missing: b."),
        ({"c": Info((1,), F32)}, "unexpected: c."),
        ({"a": Info((3, 2), F32)}, r"mis-shaped: a is \(3, 2\), the model needs \(2, 3\)."),
        ({"a": Info((2, 3), "I8")}, "not floating point: a is I8."),
    ],
)
def test_what_is_wrong_is_named(change, words):
    tensors = {key: info for key, info in (FITS.tensors | change).items() if info is not None}
    with pytest.raises(ValueError, match=f"^here does not fit the model: {words} Its keys look like"):
        check(Memory(**tensors), RECIPES)


def test_a_pattern_of_unused_keys_is_that_of_whole_keys():
    with pytest.raises(ValueError, match="unexpected: extra2"):
        check(Memory(**FITS.tensors, extra2=Info((1,), F32)), RECIPES, unused=("extra",))


def test_at_most_twenty_are_named():
    recipes = {str(i): copy(f"k{i}", (1,)) for i in range(25)}
    with pytest.raises(ValueError) as error:
        check(Memory(a=Info((1,), F32)), recipes)
    assert str(error.value).count("missing: ") == 20
    assert "; and 6 more. " in str(error.value)  # 25 missing, one unexpected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_nearest_to_its_own_keys(layout):
    own = [start + "x" for start in LAYOUTS[layout]]
    assert nearest_layout([*own, "something else"]) == layout


def test_keys_of_no_layout_are_answered_with_all_layouts():
    text = nearest_layout(["a", "b"])
    assert all(layout in text for layout in LAYOUTS)


def test_a_change_comes_after_and_may_set_the_type():
    doubled = change(copy("a", (2, 3)), lambda x: 2 * x, torch.float64)
    assert doubled.make(FITS).unique().tolist() == [2.0]
    assert result_dtype(doubled, FITS) == torch.float64
    assert change(doubled, torch.neg).dtype == torch.float64
    assert change(doubled, torch.neg).make(FITS).unique().tolist() == [-2.0]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float32),
    ],
)
def test_bfloat16_stays_and_all_else_is_float32(given, kept):
    assert result_dtype(copy("a", (1,)), Memory(a=Info((1,), given))) == kept


def test_a_tensor_made_of_none_says_its_type():
    made = Recipe({}, lambda _: torch.zeros(2), torch.bfloat16)
    assert result_dtype(made, FITS) == torch.bfloat16
    check(FITS, RECIPES | {"z": made})
