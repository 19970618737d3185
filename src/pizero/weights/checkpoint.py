"""Our own checkpoint: a folder that holds all a policy needs, weights, sizes, statistics, embodiment and tokenizer.

    config.json         format, version, sizes of the model, and how frames become observations (with the embodiment)
    model.safetensors   the weights, by the parameter names of `Pi0`
    stats.json          statistics of the data it was trained on
    tokenizer.model     the tokenizer of its prompts: a sentencepiece model, or tokenizer.json of Hugging Face

A training run adds `train.json` and `train_state/` (`train/state.py`); a policy does not need them. A run that trains
adapters has those in place of model.safetensors (`weights/adapter_source.py`).
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pizero.data.prompt import Tokenizer
from pizero.data.stats import DatasetStats
from pizero.data.transform import Transform, TransformConfig
from pizero.embodiment import Embodiment
from pizero.model.config import Pi0Config
from pizero.model.pi0 import Pi0, precision
from pizero.weights.adapter_source import is_adapter, open_adapter
from pizero.weights.json_config import from_json, to_json
from pizero.weights.robots import choose_robot
from pizero.weights.source import MAX_NAMED, Source, listed, read_json

FORMAT = "pizero"
VERSION = 2
CONFIG, WEIGHTS, STATS = "config.json", "model.safetensors", "stats.json"
TOKENIZERS = ("tokenizer.model", "tokenizer.json")
"""A checkpoint has one of them."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and what turns frames into its observations and its outputs into actions."""

    model: Pi0
    """In evaluation mode, on the device and in the dtype that were asked for."""
    transform: Transform
    """With the statistics and the tokenizer of the data it was trained on."""


def save_checkpoint(
    path: Path,
    save_weights: Callable[[Path], None],
    model_config: Pi0Config,
    transform: Transform,
    write_more: Callable[[Path], None] | None = None,
) -> None:
    """Write the folder `path`: aside, as `<path>.part`, then renamed, so that `path` is complete whenever it exists.

    `save_weights` is given the file of the weights, whose names are those of `Pi0`; `write_more` the folder aside, to
    which it adds files of its own. Raises ValueError when `path` exists. What raises in between leaves nothing behind.
    """
    if path.exists():
        raise ValueError(f"{path} exists already; remove it or choose another folder")
    aside = path.with_name(path.name + ".part")
    if aside.exists():  # left by a run that was killed
        shutil.rmtree(aside)
    aside.mkdir(parents=True)
    try:
        config = {
            "format": FORMAT,
            "version": VERSION,
            "model": to_json(model_config),
            "transform": transform.config.to_json(),
        }
        (aside / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        save_weights(aside / WEIGHTS)
        transform.stats.save(aside / STATS)
        (aside / transform.tokenizer.file_name).write_bytes(transform.tokenizer.model_bytes)
        if write_more is not None:
            write_more(aside)
        for file in aside.rglob("*"):
            _flush(file)
    except BaseException:
        shutil.rmtree(aside)
        raise
    os.rename(aside, path)
    _flush(path.parent)


def load_checkpoint(
    path: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    base: Path | None = None,
    robot: str | None = None,
) -> Checkpoint:
    """The checkpoint in the folder `path`; weights in `dtype`, None: bfloat16 where all are, else float32.

    Where it holds adapters, they are merged into their base: the folder `base`, None: the one that they name. Where it
    was trained on several robots, `robot` is the name of the one to act for, None: the first.

    Raises ValueError, in one line that says what to do, when the folder, a file or a key is missing, when a file is
    truncated, was written by another version, or does not belong to the others.
    """
    model_config, transform = load_configs(path)
    if dtype is None:  # one type for all, since layers of different types cannot follow each other
        dtype = torch.bfloat16 if _all_bfloat16(path / WEIGHTS) else torch.float32
    with torch.device("meta"):
        model = Pi0(model_config)
    weights = load_weights(path, model_config, device, partial(precision, dtype=dtype), base)
    model.load_state_dict(weights, assign=True)
    return Checkpoint(model.eval(), choose_robot(path, transform, robot))


def load_weights(
    path: Path,
    model_config: Pi0Config,
    device: torch.device | str,
    dtype_of: Callable[[str], torch.dtype] | None = None,
    base: Path | None = None,
) -> dict[str, Tensor]:
    """All weights of a checkpoint by the names of `Pi0`, adapters merged; `dtype_of` None: in the types of the file.

    Raises ValueError as `load_checkpoint` does.
    """
    if not is_adapter(path):
        if base is not None:
            raise ValueError(f"{path} holds all its weights itself and has no base; leave the base out")
        return load_tensors(path / WEIGHTS, _shapes(model_config), device, dtype_of)
    source = open_adapter(path, base)
    check_tensors(path, source, model_config)
    weights = {}
    for name in _shapes(model_config):
        tensor = source.read(name)
        weights[name] = tensor.to(device, tensor.dtype if dtype_of is None else dtype_of(name), copy=True)
    return weights


def check_tensors(path: Path, source: Source, model_config: Pi0Config) -> None:
    """Raises ValueError when the tensors of the folder `path` are not those of the model."""
    _check_shapes(path, {name: info.shape for name, info in source.tensors.items()}, _shapes(model_config))


def _shapes(model_config: Pi0Config) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in Pi0(model_config).state_dict().items()}


def load_configs(path: Path) -> tuple[Pi0Config, Transform]:
    """Everything of a checkpoint but its weights. Raises ValueError as `load_checkpoint` does."""
    _check_folder(path)
    file = path / CONFIG
    config = read_json(file)
    if config.get("format") != FORMAT:
        raise ValueError(f"{file} is not that of a pizero checkpoint; {_import_hint(config)}")
    if config.get("version") != VERSION:
        raise ValueError(
            f"{path} is a checkpoint of version {config.get('version')}, this pizero reads version {VERSION}; "
            "install the pizero that wrote it, or train again"
        )
    if wrong := set(config) ^ {"format", "version", "model", "transform"}:
        raise ValueError(f"{file}: {', '.join(sorted(wrong))} is missing or unknown; copy the checkpoint again")
    model_config = from_json(Pi0Config, config["model"], f"{file}, model")
    try:
        transform_config = TransformConfig.from_json(config["transform"])
        stats = DatasetStats.load(path / STATS)
        transform = Transform(transform_config, stats, Tokenizer(find_tokenizer(path)))
    except ValueError as error:
        raise ValueError(f"checkpoint {path}: {error}") from error
    check_fit(model_config, transform, str(path))
    return model_config, transform


def find_tokenizer(path: Path) -> Path:
    """The tokenizer's file in a checkpoint's folder; the first of those it can be when there is none."""
    return next((path / name for name in TOKENIZERS if (path / name).is_file()), path / TOKENIZERS[0])


def check_fit(model_config: Pi0Config, transform: Transform, place: str) -> None:
    """Raises ValueError when the transform does not give what the model takes; `place` says whose they are."""
    config, side = transform.config, model_config.vision.image_size
    for name, given, taken in (
        ("image_size", config.image_size, side),
        ("state_dim", config.state_dim, model_config.state_dim),
        ("action_dim", config.action_dim, model_config.action_dim),
        ("horizon", config.horizon, model_config.horizon),
    ):
        if given != taken:
            raise ValueError(f"{place}: {name} is {given} in the transform and {taken} in the model; make them equal")
    if transform.tokenizer.vocab_size > model_config.vocab_size:
        raise ValueError(
            f"{place}: the tokenizer has {transform.tokenizer.vocab_size} tokens, vocab_size of the model is "
            f"{model_config.vocab_size}; choose the tokenizer that belongs to the weights, or a larger vocab_size"
        )


def check_embodiment(checkpoint: Embodiment, other: Embodiment) -> None:
    """Raises ValueError that says where the robot of a checkpoint and another one (of a data set, a task) differ."""
    if difference := checkpoint.difference(other):
        raise ValueError(
            f"the checkpoint is for another robot: {difference} (checkpoint against the other); "
            "choose a checkpoint of this robot, or train one with `pizero train`"
        )


def is_checkpoint(path: Path) -> bool:
    """True for a folder whose config.json says that it is a checkpoint of ours, whatever else is wrong with it."""
    return (path / CONFIG).is_file() and read_json(path / CONFIG).get("format") == FORMAT


def save_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Tensors of any device to a safetensors file."""
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, file)


def load_tensors(
    file: Path,
    shapes: Mapping[str, tuple[int, ...]],
    device: torch.device | str,
    dtype_of: Callable[[str], torch.dtype] | None = None,
) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which must be those of `shapes`; in the types of `dtype_of`, None: the file's.

    Raises ValueError that names up to 20 keys that are missing, unexpected or of another shape, or the file that is
    missing or truncated.
    """
    if not file.is_file():
        raise ValueError(f"{file} does not exist; copy the whole checkpoint folder again")
    try:
        with safe_open(file, framework="pt", device=str(device)) as tensors:
            found = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
            _check_shapes(file, found, shapes)
            # a copy, aligned as torch does: on the CPU the last bits of a product can depend on where its numbers lie
            if dtype_of is None:
                return {name: tensors.get_tensor(name).clone() for name in shapes}
            return {name: tensors.get_tensor(name).to(dtype_of(name), copy=True) for name in shapes}
    except SafetensorError as error:
        raise ValueError(f"{file} is truncated or no safetensors file ({error}); copy the checkpoint again") from error


def _all_bfloat16(file: Path) -> bool:
    """Whether every tensor of a file is; not of one that is missing or broken, of which `load_tensors` complains."""
    try:
        with safe_open(file, framework="pt") as tensors:
            return all(tensors.get_slice(name).get_dtype() == "BF16" for name in tensors.keys())  # noqa: SIM118
    except (SafetensorError, OSError):
        return False


def _check_shapes(file: Path, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    problems = [f"missing: {name}" for name in expected if name not in found]
    for name, shape in found.items():
        if name not in expected:
            problems.append(f"unexpected: {name}")
        elif shape != expected[name]:
            problems.append(f"mis-shaped: {name} is {shape}, expected {expected[name]}")
    if problems:
        raise ValueError(
            f"{file} does not hold the expected tensors: {listed(problems)}. "
            f"It belongs to another {CONFIG}: copy the checkpoint again"
        )


def _check_folder(path: Path) -> None:
    if not path.is_dir():
        raise ValueError(f"{path} is no folder; give a checkpoint folder, such as runs/NAME/last")
    if not (path / CONFIG).is_file():
        inside = sorted(folder.name for folder in path.iterdir() if (folder / CONFIG).is_file())
        hint = f"one of the checkpoints in it: {', '.join(inside[-MAX_NAMED:])}" if inside else "a checkpoint folder"
        raise ValueError(f"{path} has no {CONFIG}; give {hint}")


def _import_hint(config: dict[str, Any]) -> str:
    if config.get("model_type") == "paligemma":
        return "it is a PaliGemma, which a run can start from: pizero train PRESET --init FOLDER"
    return "another program's checkpoint becomes one with `pizero import SRC DST`"


def _flush(path: Path) -> None:
    """Have the kernel write a file or folder to disk, so that a rename never comes before the contents."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
