"""PaliGemma's weights (Hugging Face safetensors) into pi0: vision tower, projector, token embedding and vlm expert."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from pizero.model.config import GemmaConfig, SiglipConfig
from pizero.model.pi0 import Pi0

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MAX_NAMED = 20
"""How many keys an error names."""

RENAMES = (
    (r"^model\.", ""),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^language_model\.(model\.)?", "vlm."),
    (r"^vlm\.embed_tokens\.", "embed_tokens."),
    (r"^multi_modal_projector\.linear\.", "projector."),
    (r"^vision_tower\.(vision_model\.)?", "vision."),
    (r"^vision\.embeddings\.", "vision."),
    (r"^vision\.encoder\.layers\.(\d+)\.(self_attn\.|mlp\.)?", r"vision.layers.\1."),
)
"""From every layout on disk to the parameter names of `Pi0`, applied in this order."""

UNUSED = (
    r"vision\.head\..*",  # attention pooling of SigLIP, which PaliGemma does not use
    r"vision\.position_ids",  # a counter that old transformers saved
    r"vlm\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",  # the same for rotary embedding
    r"lm_head\.weight",  # tied to the token embedding
)
"""Tensors that may be in a file and are not needed, by their name after `RENAMES`."""

LAYOUTS = {
    "PaliGemma as on the hub (transformers before 4.52)": ("language_model.model.", "vision_tower.vision_model."),
    "PaliGemma saved by transformers 5.23": (
        "language_model.model.",
        "vision_tower.embeddings.",
        "vision_tower.encoder.",
    ),
    "PaliGemma saved by transformers 5.5": (
        "model.language_model.model.",
        "model.vision_tower.",
        "model.multi_modal_projector.",
    ),
    "PaliGemma in the memory of transformers 4.52 and later": (
        "model.language_model.layers.",
        "model.vision_tower.",
        "model.multi_modal_projector.",
    ),
    "a pi0 policy of openpi or lerobot": ("paligemma_with_expert.", "model.paligemma_with_expert."),
    "a pi0 policy of open-pi-zero": ("joint_model.", "vision_tower.", "action_encoder."),
    "a pi0 policy of transformers": ("model.vlm.", "model.dit.", "embed_action_time."),
    "a checkpoint of pizero": ("vision.layers.", "vlm.layers.", "action.layers.", "heads."),
    "Gemma without a vision tower": ("model.layers.", "model.embed_tokens.", "model.norm."),
    "SigLIP without a language model": ("vision_model.", "text_model."),
}
"""Layouts that a safetensors file may have, by how its keys start; only to say what a file looks like."""


class Entry(NamedTuple):
    """Where a tensor is on disk, and what it is."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: str


def load_paligemma(model: Pi0, path: Path) -> None:
    """Copy a PaliGemma into `model`, in place; the action expert and the heads keep what they have.

    `path` is a folder (one file, or shards with their index) or one safetensors file, in any of the four key layouts
    that transformers has written. Tensors are read one by one and take the dtype and device of the model. Of the token
    embedding the first `model.config.vocab_size` rows are taken. Nothing is changed when ValueError is raised: a file
    is missing or broken, or a key is missing, unexpected or of another shape.
    """
    target = {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.startswith(("vision.", "projector.", "embed_tokens.", "vlm."))
    }
    assert not any(parameter.is_meta for parameter in target.values()), "materialise the model before loading into it"
    entries = find_entries(path)
    source = match(entries, target, path)
    with torch.no_grad():
        for file in sorted({entry.file for entry in source.values()}):
            with open_tensors(file) as tensors:
                for name, entry in source.items():
                    if entry.file == file:  # rows beyond the model's vocabulary stay on disk
                        target[name].copy_(tensors.get_slice(entry.key)[: target[name].shape[0]])


def paligemma_config(path: Path) -> tuple[SiglipConfig, GemmaConfig, int]:
    """Sizes of the vision tower and the vlm expert and the number of token embeddings, from a folder's config.json.

    Raises ValueError when it is missing, unreadable, or not that of a PaliGemma (the first one: PaliGemma 2 has another
    language model).
    """
    file = path / "config.json"
    if not file.is_file():
        raise ValueError(
            f"{file} does not exist; a PaliGemma folder of Hugging Face has config.json beside its weights"
        )
    config = read_json(file)
    for key, allowed in (("model_type", "paligemma"), ("text_config", dict), ("vision_config", dict)):
        value = config.get(key)
        if value != allowed if isinstance(allowed, str) else not isinstance(value, allowed):
            raise ValueError(f"{file} is not the config of a PaliGemma: {key} is {value!r}")
    text, vision = config["text_config"], config["vision_config"]
    if text.get("model_type", "gemma") != "gemma":
        raise ValueError(
            f"{file}: the language model is {text['model_type']!r}; only 'gemma' (PaliGemma 1) can be loaded"
        )

    def size(name: str, part: Mapping[str, Any], key: str, default: int | None = None) -> int:
        value = part.get(key, default)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{file}: {name}.{key} is {value!r}, must be a whole number above 0")
        return value

    siglip = SiglipConfig(
        width=size("vision_config", vision, "hidden_size"),
        depth=size("vision_config", vision, "num_hidden_layers"),
        mlp_dim=size("vision_config", vision, "intermediate_size"),
        num_heads=size("vision_config", vision, "num_attention_heads"),
        image_size=size("vision_config", vision, "image_size", 224),  # the released config leaves defaults out
        patch_size=size("vision_config", vision, "patch_size"),
    )
    rope = text.get("rope_parameters") or text  # transformers 5 and before
    gemma = GemmaConfig(
        width=size("text_config", text, "hidden_size"),
        depth=size("text_config", text, "num_hidden_layers"),
        mlp_dim=size("text_config", text, "intermediate_size"),
        num_heads=size("text_config", text, "num_attention_heads"),
        num_kv_heads=size("text_config", text, "num_key_value_heads"),
        head_dim=size("text_config", text, "head_dim", 256),
        rope_base=float(rope.get("rope_theta", 10_000.0)),
    )
    return siglip, gemma, size("text_config", text, "vocab_size")


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; ValueError names a file that holds none."""
    try:
        data = json.loads(file.read_text())
    except ValueError as error:  # covers bad UTF-8 too
        raise ValueError(f"{file} is not valid JSON ({error}); copy or download it again") from error
    if not isinstance(data, dict):
        raise ValueError(f"{file} holds a {type(data).__name__}, expected an object")
    return data


@contextmanager
def open_tensors(file: Path) -> Iterator[Any]:
    """A safetensors file, read lazily; ValueError names one that is broken."""
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except SafetensorError as error:
        raise ValueError(f"{file} is truncated or no safetensors file ({error}); copy or download it again") from error


def find_files(path: Path) -> list[Path]:
    """The safetensors files that hold the weights at `path`."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"{path} does not exist; give a PaliGemma folder of Hugging Face or one safetensors file")
    if (path / SINGLE).is_file():
        return [path / SINGLE]
    if not (path / INDEX).is_file():
        found = ", ".join(sorted(file.name for file in path.iterdir())[:MAX_NAMED]) or "nothing"
        raise ValueError(f"{path} has neither {SINGLE} nor {INDEX}; it holds: {found}")
    shards = read_json(path / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ValueError(f"{path / INDEX} has no weight_map; copy or download it again")
    files = [path / name for name in sorted(set(shards.values()))]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise ValueError(
            f"{path} lacks {len(absent)} of {len(files)} shards: {', '.join(absent[:MAX_NAMED])}; download them too"
        )
    return files


def find_entries(path: Path) -> list[Entry]:
    """Every tensor at `path`; nothing but headers is read."""
    entries = []
    for file in find_files(path):
        with open_tensors(file) as tensors:
            for key in tensors.keys():  # noqa: SIM118 (not a dict)
                part = tensors.get_slice(key)
                entries.append(Entry(file, key, tuple(part.get_shape()), part.get_dtype()))
    return entries


def rename(key: str) -> str:
    """The parameter of `Pi0` that a key on disk stands for; something else when it stands for none."""
    for pattern, replacement in RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def match(entries: list[Entry], target: Mapping[str, nn.Parameter], path: Path) -> dict[str, Entry]:
    """The tensor on disk for each parameter; ValueError names all that does not fit."""
    source: dict[str, Entry] = {}
    problems = []
    for entry in entries:
        name = rename(entry.key)
        if name in source:
            problems.append(f"twice: {entry.key} and {source[name].key}")
        source[name] = entry
    if "embed_tokens.weight" not in source and "lm_head.weight" in source:  # tied, and saved under the other name
        source["embed_tokens.weight"] = source["lm_head.weight"]
    problems += [f"missing: {name}" for name in target if name not in source]
    for name, entry in source.items():
        if name not in target:
            if not any(re.fullmatch(pattern, name) for pattern in UNUSED):
                problems.append(f"unexpected: {entry.key}")
            continue
        shape = tuple(target[name].shape)
        if not (fits := entry.shape == shape) and name == "embed_tokens.weight":
            fits = entry.shape[1:] == shape[1:] and entry.shape[0] > shape[0]
        if not fits:
            problems.append(f"mis-shaped: {entry.key} is {entry.shape}, the model needs {shape}")
        elif entry.dtype not in ("F64", "F32", "F16", "BF16"):
            problems.append(f"not floating point: {entry.key} is {entry.dtype}")
    if problems:
        more = f"; and {len(problems) - MAX_NAMED} more" if len(problems) > MAX_NAMED else ""
        raise ValueError(
            f"{path} does not fit the model: {'; '.join(problems[:MAX_NAMED])}{more}. "
            f"Its keys look like {nearest_layout([entry.key for entry in entries])}"
        )
    return {name: source[name] for name in target}


def nearest_layout(keys: list[str]) -> str:
    """The known layout to which most keys belong."""
    scores = {layout: sum(key.startswith(starts) for key in keys) for layout, starts in LAYOUTS.items()}
    best = max(scores, key=lambda layout: scores[layout])
    return best if scores[best] else f"no layout known here; known are: {', '.join(LAYOUTS)}"
