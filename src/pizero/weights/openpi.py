"""openpi's PyTorch checkpoints: `model.safetensors`, and `config.json` and `assets/*/norm_stats.json` beside it.

Names, sizes and the direction of time of openpi, src/openpi/models_pytorch/pi0_pytorch.py and gemma_pytorch.py; lerobot
took them over, and the JAX side is brought into this form.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pizero.model.config import EulerGrid, GemmaConfig, Pi0Config, SiglipConfig
from pizero.model.pi0 import Pi0
from pizero.weights.facts import Facts
from pizero.weights.norm_stats import find_norm_stats, several_norm_stats
from pizero.weights.recipe import Plan, Recipe, change, copy
from pizero.weights.source import Source, count_layers, most_common_shape, open_safetensors, read_json
from pizero.weights.turn import READ_OUT, time_layer, turn_columns

NAME = "openpi"
VLM = "paligemma_with_expert.paligemma.model."
VISION = VLM + "vision_tower.vision_model."
EXPERT = "paligemma_with_expert.gemma_expert.model."
TIED = "paligemma_with_expert.paligemma.lm_head.weight"
EMBEDDING = VLM + "language_model.embed_tokens.weight"
UNUSED = (r"paligemma_with_expert\.gemma_expert\.lm_head\.weight",)
"""The action expert says no words."""
SO400M_WIDTH, SO400M_HEADS = 1152, 16
"""The vision tower of every released model."""
PROMPT_LENGTH = {False: 48, True: 200}
"""Most tokens of a prompt, of pi0 and pi0.5 (openpi, src/openpi/models/pi0_config.py)."""
PALIGEMMA_TOKENS = 257_152
"""PaliGemma's tokens; rows after them are padding or the place of an image."""


def open_source(path: Path) -> Source | None:
    """The tensors at `path`; None when they are not openpi's. Raises ValueError when a file is broken."""
    source = open_safetensors(path)
    if source is None:
        return None
    theirs = sum(key.startswith("paligemma_with_expert.") for key in source.tensors)
    return source if theirs > len(source.tensors) / 2 else None


def facts(path: Path, source: Source) -> Facts:
    """What the folder says of the policy's data."""
    folder = path if path.is_dir() else path.parent
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return said_by_openpi(is_pi05(source), config, folder)


def said_by_openpi(pi05: bool, config: Mapping[str, Any], folder: Path) -> Facts:
    """What is true of every policy of openpi, and what `config` (of its converter) and the assets add."""
    horizon = config.get("action_horizon")
    if horizon is not None and (not isinstance(horizon, int) or horizon < 1):
        raise ValueError(f"{folder / 'config.json'}: action_horizon is {horizon!r}, must be a whole number above 0")
    return Facts(
        horizon=horizon,
        stats=find_norm_stats(folder),
        normalization="quantile" if pi05 else "z-score",
        prompt_format=None if pi05 else "pi0",
        prompt_length=PROMPT_LENGTH[pi05],
        resize="pad",
        raw_state=(),
        raw_actions=(),
    )


def needs(source: Source, facts: Facts) -> dict[str, str]:
    """What must be known for a plan, and why."""
    missing = {"horizon": "no tensor's shape tells it"} | several_norm_stats(source.path)
    if vision_heads(facts, most_common_shape(source, _pattern("vision.layers.N.layer_norm1.bias"))[0]) is None:
        missing["vision_heads"] = "no tensor's shape tells it"
    return missing


def plan(source: Source, facts: Facts) -> Plan:
    """How a model of ours is made of openpi's tensors."""
    config = infer_config(source, facts, openpi_key, "openpi")
    tied = (re.escape(TIED),) if EMBEDDING in source.tensors else ()  # both are there in what lerobot made of it
    return Plan(config, turn(plain_recipes(source, config, openpi_key), config), UNUSED + tied)


def is_pi05(source: Source) -> bool:
    """Whether the action expert's norms are adaptive."""
    votes = [key.endswith(".dense.weight") for key in source.tensors if re.fullmatch(_EXPERT_NORM, key)]
    return 2 * sum(votes) > len(votes)


_EXPERT_NORM = r".*gemma_expert\.model\.layers\.\d+\.(input|post_attention)_layernorm\.(dense\.)?weight"


def openpi_key(name: str) -> str:
    """openpi's key for a parameter of ours."""
    for ours, theirs in (
        (
            r"^vision\.layers\.(\d+)\.([qkv]_proj|out_proj)",
            VLM + r"vision_tower.vision_model.encoder.layers.\1.self_attn.\2",
        ),
        (r"^vision\.layers\.(\d+)\.(fc\d)", VLM + r"vision_tower.vision_model.encoder.layers.\1.mlp.\2"),
        (r"^vision\.layers\.", VLM + "vision_tower.vision_model.encoder.layers."),
        (r"^vision\.(patch_embedding|position_embedding)", VLM + r"vision_tower.vision_model.embeddings.\1"),
        (r"^vision\.", VLM + "vision_tower.vision_model."),
        (r"^projector\.", VLM + "multi_modal_projector.linear."),
        (r"^embed_tokens\.weight$", EMBEDDING),
        (r"^vlm\.", VLM + "language_model."),
        (r"^action\.", EXPERT),
        (r"^heads\.", ""),
    ):
        key, found = re.subn(ours, theirs, name)
        if found:
            return key
    raise AssertionError(name)


def plain_recipes(source: Source, config: Pi0Config, key_of: Callable[[str], str]) -> dict[str, Recipe]:
    """Every parameter copied from the tensor that `key_of` names; of the tied embedding either name may be there."""
    with torch.device("meta"):
        shapes = {name: tuple(x.shape) for name, x in Pi0(config).state_dict().items()}
    recipes = {name: copy(key_of(name), shape) for name, shape in shapes.items()}
    tied = key_of("embed_tokens.weight").replace(EMBEDDING, TIED)
    if key_of("embed_tokens.weight") not in source.tensors and tied in source.tensors:
        recipes["embed_tokens.weight"] = copy(tied, shapes["embed_tokens.weight"])
    return recipes


def turn(recipes: Mapping[str, Recipe], config: Pi0Config) -> dict[str, Recipe]:
    """Recipes for weights of time 0 = data made recipes for ours, time 0 = noise."""
    turned = dict(recipes)
    for name in READ_OUT:
        turned[name] = change(recipes[name], torch.neg)
    name = time_layer(config)
    turned[name] = change(recipes[name], lambda weight: turn_columns(weight, config), torch.float64)
    return turned


@dataclass(frozen=True)
class Shapes:
    """The shapes from which sizes are read, found by our names with N for the layer."""

    source: Source
    key_of: Callable[[str], str]

    def __call__(self, name: str) -> tuple[int, ...]:
        """The most common shape of the tensors of this name in all layers."""
        return most_common_shape(self.source, _pattern(name, self.key_of))

    def layers(self, start: str) -> int:
        """How many layers there are whose names start so."""
        return count_layers(self.source, _pattern(start, self.key_of))

    def embedding(self) -> tuple[int, ...]:
        """Of the token embedding or, where it is not there, of the tensor that it is tied to."""
        key = self.key_of("embed_tokens.weight")
        tied = key.replace(EMBEDDING, TIED)
        other = key not in self.source.tensors and tied in self.source.tensors
        return most_common_shape(self.source, re.escape(tied if other else key))


def infer_config(
    source: Source, facts: Facts, key_of: Callable[[str], str], euler_grid: EulerGrid, **more: Any
) -> Pi0Config:
    """Sizes and switches of a policy of openpi's kind from its shapes and facts; `more` are fields of Pi0Config."""
    shape = Shapes(source, key_of)
    pi05 = is_pi05(source)
    assert facts.horizon is not None
    head_dim = shape("vlm.layers.N.self_attn.k_proj.weight")[0]
    depth = shape.layers("vlm.layers.N.")
    [action_dim] = shape("heads.action_out_proj.bias")

    def gemma(expert: str, rope_base: float | None) -> GemmaConfig:
        heads_width, width = shape(f"{expert}.layers.N.self_attn.q_proj.weight")
        return GemmaConfig(
            width=width,
            depth=depth,
            mlp_dim=shape(f"{expert}.layers.N.mlp.gate_proj.weight")[0],
            num_heads=heads_width // head_dim,
            num_kv_heads=1,
            head_dim=head_dim,
            rope_base=10_000.0 if rope_base is None else rope_base,
        )

    return Pi0Config(
        vision=siglip_config(
            facts,
            width=shape("vision.layers.N.layer_norm1.bias")[0],
            depth=shape.layers("vision.layers.N."),
            mlp_dim=shape("vision.layers.N.fc1.bias")[0],
            patch=shape("vision.patch_embedding.weight"),
            positions=shape("vision.position_embedding.weight"),
        ),
        vlm=gemma("vlm", facts.vlm_rope_base),
        action=gemma("action", facts.action_rope_base),
        vocab_size=beside(shape.embedding(), shape("vlm.layers.N.input_layernorm.weight")[0]),
        state_dim=action_dim if pi05 else beside(shape("heads.state_proj.weight"), shape("heads.state_proj.bias")[0]),
        action_dim=action_dim,
        horizon=facts.horizon,
        state_token=not pi05,
        time_conditioning="adarms" if pi05 else "input",
        euler_grid=euler_grid,
        **more,
    )


def siglip_config(
    facts: Facts, width: int, depth: int, mlp_dim: int, patch: tuple[int, ...], positions: tuple[int, ...]
) -> SiglipConfig:
    """The vision tower of these sizes, with the shapes of its two embeddings; its heads are known or told."""
    heads = vision_heads(facts, width)
    assert heads is not None
    patch_size = max(patch, key=patch.count)  # the one length that comes twice
    patches = beside(positions, width)
    return SiglipConfig(
        width=width,
        depth=depth,
        mlp_dim=mlp_dim,
        num_heads=heads,
        image_size=math.isqrt(patches) * patch_size,
        patch_size=patch_size,
    )


def beside(shape: tuple[int, ...], known: int) -> int:
    """The other length of a matrix that has a known one, so that a transposed matrix is found out by `check`."""
    return shape[0] if shape[-1] == known else shape[-1]


def vision_heads(facts: Facts, width: int) -> int | None:
    """Attention heads of a vision tower of this width, if they are known."""
    return SO400M_HEADS if facts.vision_heads is None and width == SO400M_WIDTH else facts.vision_heads


def _pattern(name: str, key_of: Callable[[str], str] = openpi_key) -> str:
    """A pattern of the keys for our name, in which N stands for the number of a layer."""
    return re.escape(key_of(name.replace(".N.", ".0."))).replace(r"layers\.0\.", r"layers\.(\d+)\.")
