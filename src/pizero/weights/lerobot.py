"""lerobot's pi0 and pi0.5 folders (v0.4 and later). Weights are openpi's, mostly with `model.` before their keys."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pizero.weights.facts import Facts
from pizero.weights.lerobot_folder import (
    CONFIG,
    find_tokenizer,
    read_config,
    read_delta_actions,
    read_folder,
    read_normalization,
    read_prompt_format,
    read_prompt_length,
    read_robot,
    read_stats,
    refuse_memory,
    relative_step,
)
from pizero.weights.openpi import (
    Shapes,
    infer_config,
    is_pi05,
    openpi_key,
    plain_recipes,
    turn,
    vision_heads,
)
from pizero.weights.peft import AdapterSource, MergedSource, is_adapter
from pizero.weights.recipe import Plan
from pizero.weights.source import INDEX, SINGLE, SafetensorsSource, Source, find_files

NAME = "lerobot"
UNUSED = (
    r"(model\.)?paligemma_with_expert\.gemma_expert\.lm_head\.weight",  # the action expert says no words
    r"(model\.)?paligemma_with_expert\.paligemma\.lm_head\.weight",  # not tied in lerobot: the model reads embed_tokens
)
OLD_BUFFERS = ("normalize_inputs.", "normalize_targets.", "unnormalize_outputs.")
"""Where lerobot kept statistics before v0.4: inside the model."""
OLD_FIELDS = ("resize_imgs_with_padding", "proj_width", "adapt_to_pi_aloha")
"""Fields of the config that only versions before v0.4 wrote."""


def open_source(path: Path) -> Source | None:
    """The tensors at `path`, an adapter merged where both are there; None when they are not lerobot's.

    Raises ValueError when a file is broken, or was written before v0.4.
    """
    folder = path if path.is_dir() else path.parent
    config = read_config(folder)
    said = bool(config)
    has_weights = path.suffix == ".safetensors" or (path / SINGLE).is_file() or (path / INDEX).is_file()
    if not has_weights:
        return AdapterSource(path) if said and is_adapter(path) else None
    source = SafetensorsSource(path, find_files(path))
    theirs = sum(key.startswith("model.paligemma_with_expert.") for key in source.tensors)
    if not said and 2 * theirs <= len(source.tensors):
        return None
    _refuse_old(path, config, source)
    return MergedSource(source, path, path) if is_adapter(path) else source


def facts(path: Path, source: Source) -> Facts:
    """What the folder says of the policy's data; without config.json hardly anything."""
    folder = read_folder(path)
    pi05 = folder.config["type"] == "pi05" if folder.config else is_pi05(source)
    if not folder.config:
        return Facts(prompt_format=None if pi05 else "lerobot-pi0", resize="lerobot", raw_state=(), raw_actions=())
    refuse_memory(folder)
    robot = read_robot(folder)
    normalization = read_normalization(folder)
    return Facts(
        horizon=folder.count("chunk_size"),
        robot=robot,
        stats=None if robot is None else read_stats(folder, normalization, robot),
        normalization=normalization,
        prompt_format=read_prompt_format(folder, pi05),
        prompt_length=read_prompt_length(folder),
        resize="lerobot",
        delta_actions=None if robot is None else read_delta_actions(folder, robot),
        raw_state=(),
        raw_actions=(),
        joint_units="robot",
        tokenizer=find_tokenizer(folder),
    )


def needs(source: Source, facts: Facts) -> dict[str, str]:
    """What must be known for a plan, and why."""
    if isinstance(source, AdapterSource):
        return {"base": "it holds an adapter alone"}
    missing = {"horizon": "no tensor's shape tells it"}
    if vision_heads(facts, Shapes(source, key_in(source))("vision.layers.N.layer_norm1.bias")[0]) is None:
        missing["vision_heads"] = "no tensor's shape tells it"
    if facts.delta_actions is None and relative_step(read_folder(source.path)).get("enabled"):
        missing["delta_actions"] = "it leaves joints out by their names, and does not name the actions"
    return missing


def plan(source: Source, facts: Facts) -> Plan:
    """How a model of ours is made of lerobot's tensors."""
    folder, key_of = read_folder(source.path), key_in(source)
    pi05 = is_pi05(source)
    if folder.config and folder.config["type"] != ("pi05" if pi05 else "pi0"):
        found = "are" if pi05 else "are not"
        raise ValueError(
            f"{folder.path / CONFIG}: type is {folder.config['type']!r}, but the norms of the action expert {found} "
            "adaptive, as those of pi05; it belongs to other weights"
        )
    periods = {ours: folder.value(theirs, (int, float)) for ours, theirs in PERIODS.items()}
    said = {ours: float(value) for ours, value in periods.items() if value is not None}
    config = infer_config(source, facts, key_of, "lerobot", **said)
    if pi05 and (state_dim := folder.count("max_state_dim")) is not None:
        config = replace(config, state_dim=state_dim)
    for field, size in (
        ("max_state_dim", config.state_dim),
        ("max_action_dim", config.action_dim),
    ):
        if (value := folder.count(field)) not in (None, size):
            raise ValueError(f"{folder.path / CONFIG}: {field} is {value}, the tensors say {size}")
    side = config.vision.image_size
    if folder.value("image_resolution", list, [side, side]) != [side, side]:
        raise ValueError(
            f"{folder.path / CONFIG}: image_resolution is {folder.config['image_resolution']}, the tensors say {side}"
        )
    return Plan(config, turn(plain_recipes(source, config, key_of), config), UNUSED)


PERIODS = {"time_min_period": "min_period", "time_max_period": "max_period"}
"""Our names of the shortest and longest period of the time embedding, and lerobot's."""


def key_in(source: Source) -> Callable[[str], str]:
    """lerobot's key for a parameter of ours, with or without `model.` in front as this source has it."""
    most = sum(key.startswith("model.") for key in source.tensors) > len(source.tensors) / 2

    def key_of(name: str) -> str:
        plain, prefixed = openpi_key(name), f"model.{openpi_key(name)}"
        usual, other = (prefixed, plain) if most else (plain, prefixed)
        return other if other in source.tensors and usual not in source.tensors else usual

    return key_of


def _refuse_old(path: Path, config: Mapping[str, Any], source: Source) -> None:
    inside = next((key for key in source.tensors if key.startswith(OLD_BUFFERS)), None)
    field = next((field for field in OLD_FIELDS if field in config), None)
    if inside or field:
        raise ValueError(
            f"{path} was written by lerobot before v0.4 (it has {inside or field}); convert it with lerobot's "
            "src/lerobot/processor/migrate_policy_normalization.py, and import what that writes"
        )
