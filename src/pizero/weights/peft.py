"""Adapters of PEFT (LoRA), merged into the weights they were trained on: W + s B A, rounded once, to float32.

Layout of peft, src/peft/utils/save_and_load.py: `adapter_config.json` and `adapter_model.safetensors`, whose keys are
`base_model.model.<module>.lora_A.weight` and `.lora_B.weight`, and the whole weight of a module that was trained anew.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pizero.model.lora import merged_weight
from pizero.weights.facts import Facts
from pizero.weights.source import Info, SafetensorsSource, Source, listed, read_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
FACTOR = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")
PLAIN_BASE = (True, False, None, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` that leave the base as it was; the others train against a changed one."""
FIXED: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "use_qalora": (False, None),
    "fan_in_fan_out": (False, None),
    "layer_replication": (None,),
    "trainable_token_indices": (None,),
    "alora_invocation_tokens": (None,),
    "init_lora_weights": PLAIN_BASE,
}
"""What is merged here: fields of `adapter_config.json` and the values that they may have."""


@dataclass(frozen=True)
class Factors:
    """The two factors of what is added to a weight."""

    a: str
    """Key of A, (r, in)."""
    b: str
    """Key of B, (out, r)."""
    scale: float
    """s of W + s B A."""


class AdapterSource(SafetensorsSource):
    """The tensors of an adapter alone: no weights of a model, which `adapt` adds."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, [folder / WEIGHTS])


class MergedSource:
    """The tensors of `base` with the adapter in `folder` added; merged ones are float32.

    `path` stands for both: where it is None, that of the base. Raises ValueError when the adapter is of another kind
    than plain LoRA, or does not fit the base.
    """

    def __init__(self, base: Source, folder: Path, path: Path | None = None) -> None:
        self.path = base.path if path is None else path
        self._base, self._folder = base, folder
        self._adapter = AdapterSource(folder)
        config = read_json(folder / CONFIG)
        _check_kind(config, folder / CONFIG)
        self._whole, self._factors = self._assign(config)
        self.tensors: dict[str, Info] = dict(base.tensors)
        for key, theirs in self._whole.items():
            self.tensors[key] = Info(base.tensors[key].shape, self._adapter.tensors[theirs].dtype)
        for key in self._factors:
            self.tensors[key] = Info(base.tensors[key].shape, torch.float32)

    def read(self, key: str, index: int | None = None) -> Tensor:
        """See `Source`."""
        whole = self._adapter.read(self._whole[key]) if key in self._whole else None
        if key not in self._factors:
            return self._base.read(key, index) if whole is None else whole if index is None else whole[index]
        factors = self._factors[key]
        weight = self._base.read(key) if whole is None else whole
        merged = merged_weight(weight, self._adapter.read(factors.a), self._adapter.read(factors.b), factors.scale)
        return merged if index is None else merged[index]

    def _assign(self, config: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Factors]]:
        """The key of the base -> what the adapter has for it: a whole weight, and the factors of an addition."""
        whole: dict[str, str] = {}
        pairs: dict[str, dict[str, str]] = {}
        problems = []
        for theirs in self._adapter.tensors:
            found = FACTOR.fullmatch(theirs)
            name = f"{found[1]}.weight" if found else re.sub(r"\.modules_to_save(\.default)?\.", ".", theirs)
            key = _base_key(name, self._base)
            if key is None:
                problems.append(f"no weight of the base belongs to {theirs}")
            elif found:
                pairs.setdefault(key, {})[found[2]] = theirs
            elif self._adapter.tensors[theirs].shape != self._base.tensors[key].shape:
                shape = self._adapter.tensors[theirs].shape
                problems.append(f"{theirs} is {shape}, the base has {self._base.tensors[key].shape}")
            else:
                whole[key] = theirs
        factors = {}
        for key, pair in pairs.items():
            try:
                factors[key] = self._factor(key, pair, config)
            except ValueError as error:
                problems.append(str(error))
        if problems or not (whole or factors):
            named = listed(problems) or "it holds no tensor"
            raise ValueError(f"the adapter {self._folder} does not fit {self._base.path}: {named}")
        return whole, factors

    def _factor(self, key: str, pair: Mapping[str, str], config: Mapping[str, Any]) -> Factors:
        if set(pair) != {"A", "B"}:
            raise ValueError(f"{next(iter(pair.values()))} has no other factor")
        a, b = (self._adapter.tensors[pair[side]].shape for side in "AB")
        shape = self._base.tensors[key].shape
        if len(shape) != 2 or len(a) != 2 or len(b) != 2 or (b[0], a[1]) != shape or a[0] != b[1]:
            raise ValueError(f"{pair['A']} is {a} and its B is {b}, the weight of the base is {shape}")
        module = pair["A"].removeprefix(PREFIX).partition(".lora_A")[0]
        rank = _of_module(module, config, "rank_pattern", "r")
        if rank != a[0]:
            raise ValueError(f"{pair['A']} has rank {a[0]}, {CONFIG} says {rank:g}")
        alpha = _of_module(module, config, "alpha_pattern", "lora_alpha")
        return Factors(pair["A"], pair["B"], alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return folder.is_dir() and (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def adapt(source: Source, facts: Facts, open_base: Callable[[Path], Source]) -> Source:
    """The source with the adapter that belongs to it: `facts.adapter`, or, where it is one itself, over `facts.base`.

    `open_base` opens the tensors at a path. A source without an adapter is given back, an adapter without base too.
    Raises ValueError for a folder that holds no adapter, and for a base that none needs.
    """
    if isinstance(source, AdapterSource):
        if facts.base is None:
            return source
        source = MergedSource(open_base(facts.base), source.path, source.path)
    elif facts.base is not None:
        raise ValueError(f"--base: {source.path} holds all its weights itself; leave it out")
    if facts.adapter is None:
        return source
    if not is_adapter(facts.adapter):
        raise ValueError(f"--adapter: {facts.adapter} has no {CONFIG} and {WEIGHTS}; give the folder of a PEFT adapter")
    return MergedSource(source, facts.adapter)


def _check_kind(config: Mapping[str, Any], file: Path) -> None:
    for field, allowed in FIXED.items():
        value = config.get(field, allowed[0])
        if not any(value is choice or (isinstance(value, str) and value == choice) for choice in allowed):
            raise ValueError(
                f"{file}: {field} is {value!r}, only {allowed[0]!r} can be merged; merge it with peft "
                "(merge_and_unload) and import the result"
            )


def _base_key(name: str, base: Source) -> str | None:
    """The key of the base that the adapter's name stands for; lerobot's keys may lack their first `model.`."""
    inner = name.removeprefix(PREFIX)
    return next((key for key in (inner, inner.removeprefix("model."), f"model.{inner}") if key in base.tensors), None)


def _of_module(module: str, config: Mapping[str, Any], patterns: str, default: str) -> float:
    """A number for one module: of the first pattern that fits the end of its name, else the default (peft)."""
    for pattern, value in (config.get(patterns) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return _number(value, patterns)
    return _number(config.get(default), default)


def _number(value: Any, field: str) -> float:
    if type(value) not in (int, float) or not value > 0:
        raise ValueError(f"{CONFIG}: {field} is {value!r}, must be a number above 0")
    return float(value)
