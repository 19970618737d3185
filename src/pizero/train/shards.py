"""Tensors of a run on disk, each process writing its own part (torch.distributed.checkpoint)."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from pizero.weights.source import listed

# one process alone is what `no_dist` asks for, no mistake
warnings.filterwarnings("ignore", r"torch\.distributed is disabled, unavailable")


def save_shards(folder: Path, tensors: Mapping[str, Tensor], group: dist.ProcessGroup | None) -> None:
    """Write tensors on the host to a folder; with DTensors every process of `group` calls it, each with its parts.

    When it returns everything is on disk, in the first process everything of all. `group` None: this process alone.
    """
    writer = FileSystemWriter(folder)
    save(dict(tensors), storage_writer=writer, process_group=group, no_dist=group is None)


def load_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill tensors, of any device, whole or DTensors, with what was saved under their names, however it was shared.

    Each process reads what it needs. Raises ValueError when the folder holds others, or is missing or damaged.
    """
    reader = FileSystemReader(folder)
    try:
        found = reader.read_metadata().state_dict_metadata
    except (OSError, EOFError, ValueError, AttributeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{folder} is no folder of saved tensors ({error}); copy the checkpoint again") from error
    _check(folder, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, found)
    try:
        load(dict(tensors), storage_reader=reader, no_dist=True)
    except CheckpointException as error:  # no Exception; its text is a traceback
        causes = "; ".join(f"{cause[0]}" for cause in error.failures.values())
        raise ValueError(f"{folder} is damaged ({causes}); copy the checkpoint again") from error


def _check(folder: Path, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, object]) -> None:
    problems = [f"missing: {name}" for name in expected if name not in found]
    for name, entry in found.items():
        if name not in expected:
            problems.append(f"unexpected: {name}")
        elif not isinstance(entry, TensorStorageMetadata) or tuple(entry.size) != expected[name]:
            problems.append(f"mis-shaped: {name}, expected {expected[name]}")
    if problems:
        raise ValueError(
            f"{folder} does not hold the expected tensors: {listed(problems)}. "
            "It belongs to another train.json: copy the checkpoint again"
        )
