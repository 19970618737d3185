"""Folders of transformers' PI0ForConditionalGeneration (transformers, src/transformers/models/pi0/).

transformers 5.23 writes openpi's keys, but for the insides of its PaliGemma; in memory it has names of its own. Time
runs as in openpi. The folder says nothing of the robot, and its picture processor (bicubic) is none of ours.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pizero.weights.facts import Facts
from pizero.weights.openpi import EXPERT, VLM, infer_config, openpi_key, plain_recipes, turn
from pizero.weights.recipe import Plan
from pizero.weights.source import INDEX, SINGLE, SafetensorsSource, Source, find_files, read_json

NAME = "transformers"
CONFIG = "config.json"
UNUSED = (
    r"paligemma_with_expert\.gemma_expert\.lm_head\.weight",
    r"(model\.)?dit\.embed_tokens\.weight",
    r"(model\.)?(paligemma_with_expert\.paligemma|vlm)\.lm_head\.weight",
)
"""The action expert's token embedding under its names, and the head that is tied to the other one."""
SAVED = (
    (VLM + "language_model.", VLM + "language_model.model."),
    (VLM + "vision_tower.vision_model.", VLM + "vision_tower."),
)
"""What transformers 5.23 writes in place of openpi's keys."""
IN_MEMORY = (
    (VLM + "vision_tower.vision_model.", "model.vlm.vision_tower."),
    (VLM, "model.vlm."),
    (EXPERT, "model.dit."),
    ("action_out_proj.", "action_out_proj."),
    ("", "embed_action_time."),
)
"""Its own names in place of openpi's keys; the first that fits."""
PROBES = ("vlm.norm.weight", "vision.post_layernorm.bias", "action.norm.weight", "heads.state_proj.bias")
"""Parameters of ours by which the layout of a file is known."""


def open_source(path: Path) -> Source | None:
    """The tensors at `path`; None when they are not of transformers' pi0. Raises ValueError when a file is broken."""
    if not (path / CONFIG).is_file() or not ((path / SINGLE).is_file() or (path / INDEX).is_file()):
        return None
    if read_json(path / CONFIG).get("model_type") != "pi0":
        return None
    return SafetensorsSource(path, find_files(path))


def facts(path: Path, source: Source) -> Facts:
    """What config.json says. Raises ValueError when it describes another network than pi0's."""
    file = path / CONFIG
    config = read_json(file)
    vlm, action = _part(config, file, "vlm_config", "text_config"), _part(config, file, "dit_config")
    vision = _part(config, file, "vlm_config", "vision_config")
    for name, part in (("vlm_config.text_config", vlm), ("dit_config", action)):
        for field, only in (("model_type", "gemma"), ("num_key_value_heads", 1), ("hidden_act", "gelu_pytorch_tanh")):
            if part.get(field, only) != only:
                raise ValueError(f"{file}: {name}.{field} is {part[field]!r}, only {only!r} is supported")
    return Facts(
        horizon=_whole(config, "chunk_size", file),
        raw_state=(),
        raw_actions=(),
        vision_heads=_whole(vision, "num_attention_heads", file),
        vlm_rope_base=_rope_base(vlm, file),
        action_rope_base=_rope_base(action, file),
    )


def needs(source: Source, facts: Facts) -> dict[str, str]:
    """What must be known for a plan, and why."""
    return dict.fromkeys(("horizon", "vision_heads"), f"its {CONFIG} does not say it")


def plan(source: Source, facts: Facts) -> Plan:
    """How a model of ours is made of transformers' tensors."""
    key_of = key_in(source)
    said = read_json(source.path / CONFIG)
    periods = {"time_min_period": said.get("min_period", 4e-3), "time_max_period": said.get("max_period", 4.0)}
    config = infer_config(source, facts, key_of, "lerobot", **{name: float(value) for name, value in periods.items()})
    return Plan(config, turn(plain_recipes(source, config, key_of), config), UNUSED)


def key_in(source: Source) -> Callable[[str], str]:
    """The key of this source for a parameter of ours: as transformers saves it, as openpi, or as in memory."""
    layouts = (saved_key, openpi_key, memory_key)
    return max(layouts, key=lambda layout: sum(layout(name) in source.tensors for name in PROBES))


def saved_key(name: str) -> str:
    """The key that transformers 5.23 writes."""
    return _replace(openpi_key(name), SAVED)


def memory_key(name: str) -> str:
    """The name that transformers' own model has for it."""
    return _replace(openpi_key(name), IN_MEMORY)


def _replace(key: str, starts: tuple[tuple[str, str], ...]) -> str:
    for theirs, other in starts:
        if key.startswith(theirs):
            return other + key.removeprefix(theirs)
    return key


def _part(config: Mapping[str, Any], file: Path, *names: str) -> Mapping[str, Any]:
    for name in names:
        part = config.get(name)
        if not isinstance(part, dict):
            raise ValueError(f"{file}: {'.'.join(names)} is missing; copy the whole folder again")
        config = part
    return config


def _whole(config: Mapping[str, Any], field: str, file: Path) -> int | None:
    value = config.get(field)
    if value is not None and (type(value) is not int or value < 1):
        raise ValueError(f"{file}: {field} is {value!r}, must be a whole number above 0")
    return value


def _rope_base(part: Mapping[str, Any], file: Path) -> float | None:
    """Transformers 5 keeps it in `rope_parameters`, before as `rope_theta`."""
    rope = part.get("rope_parameters") or part
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"{file}: rope_type is {rope['rope_type']!r}, only 'default' is supported")
    base = rope.get("rope_theta")
    return None if base is None else float(base)
