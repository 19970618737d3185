"""Adapter folders: written, read back into a run, and merged into a whole checkpoint.

`load_checkpoint` takes them as it takes any checkpoint (`weights/adapter_source.py`).
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pizero.data.transform import Transform
from pizero.model.config import Pi0Config
from pizero.model.pi0 import precision
from pizero.weights import peft
from pizero.weights.adapter_source import (
    AdapterConfig,
    is_adapter,
    open_adapter,
    read_adapter_config,
    write_adapter_config,
)
from pizero.weights.checkpoint import check_tensors, load_configs, load_tensors, save_checkpoint, save_tensors
from pizero.weights.writer import Report, write_safetensors


def save_adapter(
    path: Path,
    trained: Mapping[str, Tensor],
    adapter: AdapterConfig,
    model_config: Pi0Config,
    transform: Transform,
    write_more: Callable[[Path], None] | None = None,
) -> None:
    """Write the adapter folder `path`, as `save_checkpoint` writes a checkpoint.

    `trained` are the tensors of the adapters and of what was trained whole, by their names in the model.
    """
    whole = tuple(dict.fromkeys(name.rpartition(".")[0] for name in trained if ".lora_" not in name))

    def write(file: Path) -> None:
        save_tensors(file.with_name(peft.WEIGHTS), {peft.PREFIX + name: tensor for name, tensor in trained.items()})
        write_adapter_config(file.parent, adapter, whole)

    save_checkpoint(path, write, model_config, transform, write_more)


def load_adapter(
    path: Path, adapter: AdapterConfig, shapes: Mapping[str, tuple[int, ...]], device: torch.device | str
) -> dict[str, Tensor]:
    """The tensors that `save_adapter` was given, by their names in the model, for a run that goes on.

    Raises ValueError when they belong to another base than `adapter` says, or are not those of `shapes`.
    """
    if (saved := read_adapter_config(path)).base_sha256 != adapter.base_sha256:
        raise ValueError(
            f"{path} holds adapters of weights with sha256 {saved.base_sha256}, init has {adapter.base_sha256}; "
            "give as init the weights that they were trained on"
        )
    keys = {peft.PREFIX + name: shape for name, shape in shapes.items()}
    tensors = load_tensors(path / peft.WEIGHTS, keys, device)
    return {key.removeprefix(peft.PREFIX): tensor for key, tensor in tensors.items()}


def merge_adapter(
    path: Path,
    output: Path,
    base: Path | None = None,
    dtype: torch.dtype = torch.float32,
    report: Report | None = None,
) -> None:
    """Write the whole checkpoint `output`: the base of the adapters in `path`, with them added, tensor by tensor.

    In `dtype`, but the heads in float32. Raises ValueError when `output` exists, `path` holds no adapters, or their
    base is missing or another; then nothing is written.
    """
    if output.exists():
        raise ValueError(f"{output} exists already; remove it or choose another folder")
    model_config, transform = load_configs(path)
    if not is_adapter(path):
        raise ValueError(f"{path} holds all its weights itself; there is nothing to merge")
    source = open_adapter(path, base)
    check_tensors(path, source, model_config)
    tensors = {name: (precision(name, dtype), info.shape) for name, info in source.tensors.items()}
    write = partial(write_safetensors, tensors=tensors, make=source.read, report=report)
    save_checkpoint(output, write, model_config, transform)
