"""Adapters of ours as files, and the weights that they stand for: those of their base, with the adapters added.

An adapter folder is a checkpoint (`weights/checkpoint.py`) that in place of model.safetensors has the two files of PEFT
(`weights/peft.py`), readable by it:

    adapter_config.json         PEFT's fields; `pizero_base_sha256`, the hash of the base's model.safetensors; and
                                `pizero_nf4_modules`, the layers that had 4 bits a weight in training
    adapter_model.safetensors   both factors of every adapter, and the heads as they are
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pizero.weights import peft
from pizero.weights.source import SINGLE, SafetensorsSource, Source, read_json

HASH, NF4 = "pizero_base_sha256", "pizero_nf4_modules"
"""Our own fields of adapter_config.json."""
PLAIN_LORA = {
    "peft_type": "LORA",
    "task_type": None,
    "inference_mode": True,
    "bias": "none",
    "fan_in_fan_out": False,
    "init_lora_weights": True,
    "use_dora": False,
    "use_rslora": False,
}
"""PEFT's fields that are the same in every adapter of ours."""


@dataclass(frozen=True)
class AdapterConfig:
    """What adapters are, and what they belong to."""

    base: Path
    """Folder of the checkpoint that they were trained on."""
    base_sha256: str
    """Hash of its model.safetensors."""
    rank: int
    alpha: float
    dropout: float
    modules: tuple[str, ...]
    """Names of the linear layers that have one."""
    nf4_modules: tuple[str, ...] = ()
    """Names of the linear layers whose base had 4 bits a weight."""


class Nf4Source:
    """The tensors of a base in which the weights of some layers are what packing into 4 bits leaves of them."""

    def __init__(self, base: Source, modules: tuple[str, ...]) -> None:
        self.path, self.tensors = base.path, base.tensors
        self._base, self._packed = base, frozenset(f"{name}.weight" for name in modules)
        if missing := sorted(self._packed - set(base.tensors)):
            raise ValueError(f"{self.path} has no {missing[0]}, which {NF4} of its adapter names; copy both again")

    def read(self, key: str, index: int | None = None) -> Tensor:
        """See `Source`."""
        if key not in self._packed:
            return self._base.read(key, index)
        from pizero.model.qlora import round_to_nf4  # needs bitsandbytes

        tensor = round_to_nf4(self._base.read(key))
        return tensor if index is None else tensor[index]


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds adapters of ours in place of a model's weights."""
    return peft.is_adapter(folder) and HASH in read_json(folder / peft.CONFIG)


def write_adapter_config(folder: Path, config: AdapterConfig, whole: tuple[str, ...]) -> None:
    """adapter_config.json; `whole` are the names of the modules that were trained whole."""
    fields = PLAIN_LORA | {
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "base_model_name_or_path": str(config.base),
        "target_modules": list(config.modules),
        "modules_to_save": list(whole),
        HASH: config.base_sha256,
        NF4: list(config.nf4_modules),
    }
    (folder / peft.CONFIG).write_text(json.dumps(fields, indent=2) + "\n")


def read_adapter_config(folder: Path) -> AdapterConfig:
    """What `write_adapter_config` wrote. Raises ValueError that names a field which is missing or of another type."""
    file = folder / peft.CONFIG
    fields = read_json(file)
    base, digest = _field(fields, "base_model_name_or_path", str, file), _field(fields, HASH, str, file)
    modules, packed = _field(fields, "target_modules", list, file), _field(fields, NF4, list, file)
    return AdapterConfig(
        base=Path(base),
        base_sha256=digest,
        rank=_field(fields, "r", int, file),
        alpha=float(_field(fields, "lora_alpha", (int, float), file)),
        dropout=float(_field(fields, "lora_dropout", (int, float), file)),
        modules=tuple(modules),
        nf4_modules=tuple(packed),
    )


def open_adapter(folder: Path, base: Path | None = None) -> Source:
    """The weights that the adapters in `folder` stand for, by the names of `Pi0`; merged ones are float32.

    `base` is the folder of their base where it is not the one that they name. Reads the whole base once, to see that it
    is the one that they were trained on. Raises ValueError when it is another, is not there, or anything is broken.
    """
    config = read_adapter_config(folder)
    file = find_base(folder, config, base)
    source: Source = SafetensorsSource(file.parent, [file])
    if config.nf4_modules:
        source = Nf4Source(source, config.nf4_modules)
    return peft.MergedSource(source, folder, folder)


def find_base(folder: Path, config: AdapterConfig, base: Path | None = None) -> Path:
    """The file with the weights that the adapters in `folder` were trained on.

    Raises ValueError when it is not where they say (`base`: where the user says), or holds other weights.
    """
    file = (config.base if base is None else base) / SINGLE
    if not file.is_file():
        raise ValueError(
            f"{folder} holds adapters of the weights in {file}, which does not exist; "
            f"say where they are now: pizero merge {folder} DST --base FOLDER"
        )
    if (found := file_sha256(file)) != config.base_sha256:
        raise ValueError(
            f"{folder} holds adapters of weights with sha256 {config.base_sha256}, and {file} has {found}; "
            f"give the folder of the weights that they were trained on: pizero merge {folder} DST --base FOLDER"
        )
    return file


def file_sha256(file: Path) -> str:
    """The hash of a file's bytes, in hexadecimal; about a second for each gigabyte."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _field(fields: Mapping[str, object], name: str, kind: type | tuple[type, ...], file: Path):  # type: ignore[no-untyped-def]
    value = fields.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{file}: {name} is {value!r}; copy the adapter again")
    return value
