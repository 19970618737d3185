"""Frozen dataclasses as plain JSON and back, strictly: every key and type must fit. No torch, as in all configs."""

import types
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Dicts, lists, strings, numbers, booleans and None; `from_json` gives the equal value back."""
    if is_dataclass(value) and not isinstance(value, type):
        return to_json(asdict(value))
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def from_json(cls: type[T], data: Any, place: str) -> T:
    """The dataclass `cls` from what `to_json` gave.

    `place` says in errors where the data came from. Raises ValueError for keys that are missing or unknown, for a value
    of another type, and for what the dataclass itself refuses; each names the field by its dotted path.
    """
    return _object(cls, data, place, "")


def _object(cls: Any, data: Any, place: str, path: str) -> Any:
    if not isinstance(data, dict):
        raise ValueError(f"{place}: {path or 'the config'} is {data!r}, expected an object")
    prefix = f"{path}." if path else ""
    hints = get_type_hints(cls)
    wrong = [f"{prefix}{key} is missing" for key in hints if key not in data]
    wrong += [f"{prefix}{key} is unknown" for key in data if key not in hints]
    if wrong:
        raise ValueError(f"{place}: {', '.join(wrong)}; it was written by another version of pizero or by hand")
    values = {key: _value(hints[key], data[key], place, prefix + key) for key in hints}
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _value(hint: Any, data: Any, place: str, path: str) -> Any:
    if is_dataclass(hint):
        return _object(hint, data, place, path)
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if data is None and type(None) in inside:
            return None
        (hint,) = (option for option in inside if option is not type(None))  # the configs have no other unions
        return _value(hint, data, place, path)
    if origin is Literal and data in inside:
        return data
    if origin is tuple and isinstance(data, list):
        items = [inside[0]] * len(data) if inside[1:] == (...,) else inside
        if len(items) == len(data):
            paths = [f"{path}[{i}]" for i in range(len(data))]
            return tuple(_value(item, x, place, p) for item, x, p in zip(items, data, paths, strict=True))
    if hint is Path and isinstance(data, str):
        return Path(data)
    if hint is float and type(data) in (int, float):
        return float(data)
    if hint in (int, bool, str) and type(data) is hint:
        return data
    raise ValueError(f"{place}: {path} is {data!r}, expected {_name(hint)}")


def _name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(repr(choice) for choice in get_args(hint))
    return hint.__name__ if isinstance(hint, type) else str(hint)
