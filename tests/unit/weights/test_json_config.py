from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from pizero.weights.json_config import from_json, to_json


@dataclass(frozen=True)
class Inner:
    size: int = 3
    rate: float = 0.5


@dataclass(frozen=True)
class Outer:
    name: str = "run"
    inner: Inner = field(default_factory=Inner)
    path: Path | None = Path("a/b")
    names: tuple[str, ...] = ("x", "y")
    pair: tuple[float, float] = (0.9, 0.95)
    kind: Literal["one", "two"] = "one"
    on: bool = True
    limit: float | None = None

    def __post_init__(self) -> None:
        if self.name == "":
            raise ValueError("name is empty")


def test_json_gives_the_equal_dataclass_back() -> None:
    for value in (Outer(), Outer("other", Inner(7, 1e-10), None, (), (0.0, 1.0), "two", False, 3.0)):
        assert from_json(Outer, to_json(value), "here") == value
    assert to_json(Outer()) == {
        "name": "run",
        "inner": {"size": 3, "rate": 0.5},
        "path": "a/b",
        "names": ["x", "y"],
        "pair": [0.9, 0.95],
        "kind": "one",
        "on": True,
        "limit": None,
    }


def test_missing_and_unknown_keys_are_named_with_their_path() -> None:
    data = to_json(Outer())
    del data["inner"]["rate"]
    data["inner"]["sise"] = 4
    with pytest.raises(ValueError, match=r"file\.json: inner\.rate is missing, inner\.sise is unknown"):
        from_json(Outer, data, "file.json")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("name", 3, "name is 3, expected str"),
        ("inner", 3, "inner is 3, expected an object"),
        ("on", 1, "on is 1, expected bool"),
        ("kind", "three", "kind is 'three', expected 'one' or 'two'"),
        ("pair", [1.0], "pair is "),
        ("pair", [1.0, "x"], r"pair\[1\] is 'x', expected float"),
        ("names", "xy", "names is 'xy'"),
        ("limit", True, "limit is True, expected float"),
        ("path", 3, "path is 3, expected Path"),
        ("name", "", "name is empty"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(key: str, value: object, expected: str) -> None:
    with pytest.raises(ValueError, match="here: " + expected):
        from_json(Outer, {**to_json(Outer()), key: value}, "here")


def test_true_is_not_an_integer() -> None:
    with pytest.raises(ValueError, match="size is True, expected int"):
        from_json(Inner, {"size": True, "rate": 0.5}, "here")
