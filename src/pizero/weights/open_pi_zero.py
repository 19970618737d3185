"""open-pi-zero's checkpoints: one `.pt` file of its trainer.

Names and formulas of open-pi-zero, src/model/vla/{pizero,joint_model,modules}.py. Its expert tokens are scaled by
sqrt(width) and its action-time MLP reads the time first: both are folded into the weights. Horizon, rotary base, time
embedding and statistics are not in the file.
"""

import math
import re
from pathlib import Path

import torch
from torch import Tensor

from pizero.model.config import GemmaConfig, Pi0Config, TimeConditioning, geometric_periods
from pizero.model.pi0 import Pi0
from pizero.weights.facts import Facts
from pizero.weights.openpi import PALIGEMMA_TOKENS, beside, siglip_config, vision_heads
from pizero.weights.recipe import Plan, Recipe, change, copy
from pizero.weights.source import Source, TorchSource, count_layers, load_torch, most_common_shape

NAME = "open-pi-zero"
COMPILED = "_orig_mod."
"""What torch.compile puts before every key."""
VLM, ACTION, STATE = "joint_model.mixtures.vlm.", "joint_model.mixtures.action.", "joint_model.mixtures.proprio."
SOFTCAP = 50.0
"""`attn_softclamp` of every config of open-pi-zero."""
UNUSED = (r"lm_head\.weight", r".*\.rotary_emb\.inv_freq", r"vision_tower\.vision_model\.embeddings\.position_ids")
RENAMES = (
    (r"^vision\.layers\.(\d+)\.([qkv]_proj|out_proj)", r"vision_tower.vision_model.encoder.layers.\1.self_attn.\2"),
    (r"^vision\.layers\.(\d+)\.(fc\d)", r"vision_tower.vision_model.encoder.layers.\1.mlp.\2"),
    (r"^vision\.layers\.", "vision_tower.vision_model.encoder.layers."),
    (r"^vision\.(patch_embedding|position_embedding)", r"vision_tower.vision_model.embeddings.\1"),
    (r"^vision\.", "vision_tower.vision_model."),
    (r"^projector\.", "multi_modal_projector.linear."),
    (r"^vlm\.", VLM),
    (r"^action\.(.*)\.to_gamma\.", ACTION + r"\1.to_gamma.0."),
    (r"^action\.(.*)\.input_layernorm\.to_gate\.", ACTION + r"\1.post_adaptive_scale.to_adaln_zero_gamma."),
    (r"^action\.(.*)\.post_attention_layernorm\.to_gate\.", ACTION + r"\1.final_adaptive_scale.to_adaln_zero_gamma."),
    (r"^action\.", ACTION),
    (r"^heads\.state_proj\.", "proprio_encoder."),
    (r"^heads\.action_in_proj\.", "action_encoder.linear_1."),
    (r"^heads\.action(_time)?_mlp_in\.", "action_encoder.linear_2."),
    (r"^heads\.action(_time)?_mlp_out\.", "action_encoder.linear_3."),
    (r"^heads\.action_out_proj\.", "action_decoder."),
)
"""From our names to its names; the first that fits is applied."""


def open_source(path: Path) -> Source | None:
    """The tensors in the file; None when it is none of open-pi-zero's. Raises ValueError when it is broken."""
    if not path.is_file() or path.suffix not in (".pt", ".pth", ".bin"):
        return None
    state = load_torch(path).get("model")
    if not isinstance(state, dict):
        return None
    theirs = any("joint_model.mixtures." in str(key) for key in state)
    compiled = all(str(key).startswith(COMPILED) for key in state)
    return TorchSource(path, "model", COMPILED if compiled else "") if theirs else None


def facts(path: Path, source: Source) -> Facts:
    """What is true of every policy of open-pi-zero; the file says nothing of the data."""
    return Facts(
        normalization="bounds",
        prompt_format="open-pi-zero",
        resize="squash",
        delta_actions=(),
        raw_state=(),
        joint_units="robot",
        vlm_rope_base=10_000.0,
    )


def needs(source: Source, facts: Facts) -> dict[str, str]:
    """What must be known for a plan, and why."""
    names = ("horizon", "action_rope_base", "time_max_period")
    missing = dict.fromkeys(names, "the file does not hold the config")
    if vision_heads(facts, most_common_shape(source, _pattern("vision.layers.N.layer_norm1.bias"))[0]) is None:
        missing["vision_heads"] = "no tensor's shape tells it"
    return missing


def plan(source: Source, facts: Facts) -> Plan:
    """How a model of ours is made of the tensors of a trainer's file."""
    config = _config(source, facts)
    with torch.device("meta"):
        shapes = {name: tuple(x.shape) for name, x in Pi0(config).state_dict().items()}
    recipes = {name: _recipe(source, name, shape, config) for name, shape in shapes.items()}
    for name in [name for name in recipes if name.startswith("heads.") and _scaled(name)]:
        recipes[name] = _scale(recipes[name], config.action.width)
    if config.time_conditioning == "input":
        name = "heads.action_time_mlp_in.weight"
        recipes[name] = change(recipes[name], lambda weight: torch.cat(weight.chunk(2, dim=1)[::-1], dim=1))
    return Plan(config, recipes, UNUSED)


def their_key(name: str) -> str:
    """open-pi-zero's key for a parameter of ours."""
    for ours, theirs in RENAMES:
        key, found = re.subn(ours, theirs, name)
        if found:
            return key
    return name


def _recipe(source: Source, name: str, shape: tuple[int, ...], config: Pi0Config) -> Recipe:
    key = their_key(name)
    if key not in source.tensors and _without_effect(name, config.vlm.depth):
        dtype = source.tensors["embed_tokens.weight"].dtype if "embed_tokens.weight" in source.tensors else None
        return Recipe({}, lambda _: torch.zeros(shape), dtype if dtype is torch.bfloat16 else torch.float32)
    if name == "embed_tokens.weight":
        rows = most_common_shape(source, re.escape(key))[0]
        return change(copy(key, (rows, *shape[1:])), lambda table: table[: shape[0]])
    if key.removesuffix("weight") + "lora_A" in source.tensors:
        return _merged(source, key, shape)
    if key.startswith(ACTION) and any(other.startswith(STATE) for other in source.tensors):
        return _checked_copy(key, key.replace(ACTION, STATE), shape)
    return copy(key, shape)


def _without_effect(name: str, depth: int) -> bool:
    """Parameters of the vlm that nothing is computed from, which open-pi-zero may leave out."""
    last = rf"vlm\.layers\.{depth - 1}\.(mlp\..*|post_attention_layernorm\..*|self_attn\.o_proj\..*)"
    return name == "vlm.norm.weight" or re.fullmatch(last, name) is not None


def _merged(source: Source, key: str, shape: tuple[int, ...]) -> Recipe:
    """weight + B A: open-pi-zero's adapters have scale 1 (src/model/lora.py)."""
    stem = key.removesuffix("weight")
    rank = source.tensors[stem + "lora_A"].shape[0]
    inputs = torch.Size(shape[1:]).numel()
    expects = {key: shape, stem + "lora_A": (rank, inputs), stem + "lora_B": (shape[0], rank)}

    def merge(source: Source) -> Tensor:
        a, b = source.read(stem + "lora_A").double(), source.read(stem + "lora_B").double()
        return (source.read(key).double() + b @ a).float()

    return Recipe(expects, merge, torch.float32)


def _checked_copy(key: str, twin: str, shape: tuple[int, ...]) -> Recipe:
    """The tensor, which the file holds twice: state and actions share one expert."""

    def read(source: Source) -> Tensor:
        tensor = source.read(key)
        if not torch.equal(tensor, source.read(twin)):
            raise ValueError(
                f"{source.path}: {key} and {twin} differ; only policies whose state and action weights are tied "
                "(tie_action_proprio_weights) can be imported"
            )
        return tensor

    return Recipe({key: shape, twin: shape}, read)


def _scaled(name: str) -> bool:
    """Whether a head's output is a token of the action expert, which open-pi-zero multiplies by sqrt(width)."""
    return re.match(r"heads\.(state_proj|action(_time)?_mlp_out)\.", name) is not None


def _scale(recipe: Recipe, width: int) -> Recipe:
    """Exact where sqrt(width) is a power of two; then the type stays."""
    factor = math.sqrt(width)
    exact = math.log2(factor).is_integer()
    return change(recipe, lambda x: x * factor if exact else x.double() * factor, None if exact else torch.float32)


def _config(source: Source, facts: Facts) -> Pi0Config:
    def shape(name: str) -> tuple[int, ...]:
        return most_common_shape(source, _pattern(name))

    assert facts.horizon is not None
    assert facts.action_rope_base is not None
    assert facts.vlm_rope_base is not None
    assert facts.time_max_period is not None
    head_dim = shape("vlm.layers.N.self_attn.k_proj.weight")[0]
    depth = count_layers(source, _pattern("action.layers.N."))

    def gemma(expert: str, rope_base: float) -> GemmaConfig:
        heads_width, width = shape(f"{expert}.layers.N.self_attn.q_proj.weight")
        mlp_dim = shape(f"{expert}.layers.N.mlp.gate_proj.weight")[0]
        return GemmaConfig(width, depth, mlp_dim, heads_width // head_dim, 1, head_dim, rope_base)

    conditioning: TimeConditioning = "input"
    time_dim = None
    if any(".to_gamma." in key for key in source.tensors):
        conditioning = "adaln-zero" if any(".to_adaln_zero_gamma." in key for key in source.tensors) else "adaln"
        time_dim = shape("action.layers.N.input_layernorm.to_beta.weight")[1]
    shortest, longest = geometric_periods(facts.time_max_period)
    return Pi0Config(
        vision=siglip_config(
            facts,
            width=shape("vision.layers.N.layer_norm1.bias")[0],
            depth=count_layers(source, _pattern("vision.layers.N.")),
            mlp_dim=shape("vision.layers.N.fc1.bias")[0],
            patch=shape("vision.patch_embedding.weight"),
            positions=shape("vision.position_embedding.weight"),
        ),
        vlm=gemma("vlm", facts.vlm_rope_base),
        action=gemma("action", facts.action_rope_base),
        vocab_size=min(shape("embed_tokens.weight")[0], PALIGEMMA_TOKENS),
        state_dim=beside(shape("heads.state_proj.weight"), shape("heads.state_proj.bias")[0]),
        action_dim=shape("heads.action_out_proj.bias")[0],
        horizon=facts.horizon,
        time_conditioning=conditioning,
        time_dim=time_dim,
        time_min_period=shortest,
        time_max_period=longest,
        positions="restart",
        attention_softcap=SOFTCAP,
        euler_grid="open-pi-zero",
    )


def _pattern(name: str) -> str:
    """A pattern of the keys for our name, in which N stands for the number of a layer."""
    return re.escape(their_key(name.replace(".N.", ".0."))).replace(r"layers\.0\.", r"layers\.(\d+)\.")
