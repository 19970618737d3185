"""PaliGemma's weights (Hugging Face safetensors) into pi0: vision tower, projector, token embedding and vlm expert."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pizero.model.config import GemmaConfig, Pi0Config, SiglipConfig
from pizero.model.pi0 import Pi0
from pizero.weights.facts import Facts
from pizero.weights.openpi import PALIGEMMA_TOKENS
from pizero.weights.recipe import Plan, Recipe, change, check, copy
from pizero.weights.source import SafetensorsSource, Source, find_files, open_safetensors, read_json

NAME = "paligemma"
PARTS = ("vision.", "projector.", "embed_tokens.", "vlm.")
"""What a PaliGemma holds of a pi0."""

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


def load_paligemma(model: Pi0, path: Path) -> None:
    """Copy a PaliGemma into `model`, in place; the action expert and the heads keep what they have.

    `path` is a folder (one file, or shards with their index) or one safetensors file, in any of the four key layouts
    that transformers has written. Tensors are read one by one and take the dtype and device of the model. Of the token
    embedding the first `model.config.vocab_size` rows are taken. Nothing is changed when ValueError is raised: a file
    is missing or broken, or a key is missing, unexpected or of another shape.
    """
    target = {name: parameter for name, parameter in model.named_parameters() if name.startswith(PARTS)}
    assert not any(parameter.is_meta for parameter in target.values()), "materialise the model before loading into it"
    source = SafetensorsSource(path, find_files(path))
    recipes = paligemma_recipes(source, {name: tuple(parameter.shape) for name, parameter in target.items()})
    check(source, recipes, unused_keys(source))
    with torch.no_grad():
        for name, parameter in target.items():
            parameter.copy_(recipes[name].make(source))


def open_source(path: Path) -> Source | None:
    """The tensors at `path`; None when they are no PaliGemma's. Raises ValueError when a file is broken."""
    source = open_safetensors(path)
    if source is None:
        return None
    names = {rename(key) for key in source.tensors}
    ours = sum(name.startswith(("vision.layers.", "vlm.layers.", "projector.")) for name in names)
    starts = ("language_model.", "model.language_model.")
    text = any(key.startswith(starts) for key in source.tensors)
    return source if text and 2 * ours > len(names) else None


def facts(path: Path, source: Source) -> Facts:
    """A PaliGemma says nothing of robots."""
    return Facts()


def needs(source: Source, facts: Facts) -> dict[str, str]:
    """What must be known for a plan, and why."""
    return {
        "fresh_expert": "the seed of an action expert of random weights: a PaliGemma has none, it is where training "
        "starts; `pizero train PRESET --init FOLDER` takes it as it is",
        "horizon": "a PaliGemma gives no actions",
    }


def plan(source: Source, facts: Facts) -> Plan:
    """How a model of ours is made of a PaliGemma: the released action expert beside it, with fresh weights."""
    assert facts.horizon is not None
    assert facts.fresh_expert is not None
    config = fresh_config(source.path, facts.horizon)
    with torch.device("meta"):
        shapes = {name: tuple(x.shape) for name, x in Pi0(config).state_dict().items()}
    theirs = {name: shape for name, shape in shapes.items() if name.startswith(PARTS)}
    recipes = paligemma_recipes(source, theirs)
    fresh = fresh_weights(config, facts.fresh_expert)
    for name in set(shapes) - set(theirs):
        recipes[name] = _given(fresh[name])
    return Plan(config, {name: recipes[name] for name in shapes}, unused_keys(source))


def fresh_config(path: Path, horizon: int) -> Pi0Config:
    """The sizes of a PaliGemma's folder, with an action expert half as wide as released ones are to Gemma's."""
    vision, vlm, rows = paligemma_config(path if path.is_dir() else path.parent)
    action = replace(vlm, width=vlm.width // 2, mlp_dim=vlm.mlp_dim // 4)
    vocab_size = min(rows, PALIGEMMA_TOKENS)
    return Pi0Config(vision=vision, vlm=vlm, action=action, vocab_size=vocab_size, horizon=horizon)


def fresh_weights(config: Pi0Config, seed: int) -> dict[str, torch.Tensor]:
    """Weights of a new action expert and its heads, float32."""
    smallest = replace(config, vlm=replace(config.vlm, width=8, mlp_dim=8), vision=SMALLEST_VISION, vocab_size=8)
    model = Pi0(smallest).init_weights(torch.Generator().manual_seed(seed))
    return {name: x.detach() for name, x in model.state_dict().items() if not name.startswith(PARTS)}


def _given(tensor: torch.Tensor) -> Recipe:
    return Recipe({}, lambda _: tensor, torch.float32)


SMALLEST_VISION = SiglipConfig(width=8, depth=1, mlp_dim=8, num_heads=1, image_size=14, patch_size=14)
"""Stands for the vision tower where only the action expert is wanted."""


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


def rename(key: str) -> str:
    """The parameter of `Pi0` that a key on disk stands for; something else when it stands for none."""
    for pattern, replacement in RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def paligemma_recipes(source: Source, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Recipe]:
    """How each parameter of ours is made; of the token embedding the first rows. A key that comes twice is an error."""
    keys: dict[str, str] = {}
    for key in source.tensors:
        name = rename(key)
        if name in keys:
            raise ValueError(f"{source.path} does not fit the model: twice: {key} and {keys[name]}")
        keys[name] = key
    if "embed_tokens.weight" not in keys and "lm_head.weight" in keys:  # tied, and saved under the other name
        keys["embed_tokens.weight"] = keys["lm_head.weight"]
    recipes = {name: copy(keys.get(name) or likely_key(name, keys), shape) for name, shape in shapes.items()}
    key, (rows, width) = keys.get("embed_tokens.weight", ""), shapes["embed_tokens.weight"]
    if key and source.tensors[key].shape[0] > rows:
        whole = copy(key, (source.tensors[key].shape[0], width))
        recipes["embed_tokens.weight"] = change(whole, lambda table: table[:rows])
    return recipes


def likely_key(name: str, keys: Mapping[str, str]) -> str:
    """The key that a missing parameter would have, from that of the same one in another layer; its own name else."""
    layer = re.compile(r"\.layers\.\d+\.")
    for other, key in keys.items():
        if layer.sub(".", other) == layer.sub(".", name) != name:
            return layer.sub(lambda _: found[0] if (found := layer.search(name)) else "", key)
    return name


def unused_keys(source: Source) -> tuple[str, ...]:
    """Patterns of the keys of this source that are not needed."""
    needless = (key for key in source.tensors if any(re.fullmatch(pattern, rename(key)) for pattern in UNUSED))
    return tuple(re.escape(key) for key in needless)
