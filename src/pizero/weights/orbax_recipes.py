"""Parameters of ours from the leaves of openpi's JAX checkpoints (openpi, src/openpi/models).

A leaf holds a weight of all layers. Matrices are (in, out), with the heads as an axis of their own; ours are (out, in).
The leaves of the action expert have the names of the vlm's with `_1` behind.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pizero.model.config import GemmaConfig, Pi0Config, SiglipConfig
from pizero.weights.orbax_lora import Adapter, Group, adapter_keys, adapter_shapes, merge_adapter
from pizero.weights.recipe import Recipe
from pizero.weights.source import Source

IMAGE = "PaliGemma/img/"
BLOCK = IMAGE + "Transformer/encoderblock/"
ATTENTION = BLOCK + "MultiHeadDotProductAttention_0/"
EMBEDDING = "PaliGemma/llm/embedder/input_embedding"
FINAL_NORM = "PaliGemma/llm/final_norm"
LAYERS = "PaliGemma/llm/layers/"
END = {"vlm": "", "action": "_1"}
"""What the names of an expert's leaves end with."""
HEADS = {
    False: ("state_proj", "action_in_proj", "action_time_mlp_in", "action_time_mlp_out", "action_out_proj"),
    True: ("time_mlp_in", "time_mlp_out", "action_in_proj", "action_out_proj"),
}
"""Linear layers around the action expert, of pi0 and of pi0.5."""
Shape = tuple[int, ...]
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Part:
    """A parameter of ours in each layer, cut out of one leaf."""

    name: str
    """Of ours, within its layer."""
    key: str
    """The leaf."""
    shape: Shape
    """Of one layer of the leaf."""
    pick: Change = lambda x: x
    """The part of the leaf's layer that is ours; of its adapter's factors likewise."""
    lay: Change = lambda x: x
    """The part, laid out as ours."""
    group: Group | None = None
    """The adapters that may change it."""
    over_heads: bool = False
    """Whether its adapter sums over the heads: see `merge_adapter`."""


def all_recipes(config: Pi0Config, adapters: Mapping[tuple[str, Group], Adapter]) -> dict[str, Recipe]:
    """Every parameter, in openpi's direction of time; leaf by leaf, so that each needs to be decoded only once."""
    pi05 = config.time_conditioning == "adarms"
    recipes = _vision(config.vision, config.vlm.width)
    recipes["embed_tokens.weight"] = _whole(EMBEDDING, (config.vocab_size, config.vlm.width))
    for expert, gemma in (("vlm", config.vlm), ("action", config.action)):
        norms, final = _norms(expert, gemma.width, adaptive=pi05 and expert == "action")
        own = {group: adapter for (whose, group), adapter in adapters.items() if whose == expert}
        parts = [*_attention(END[expert], gemma), *_feed_forward(END[expert], gemma), *norms]
        recipes |= _layers(f"{expert}.layers", gemma.depth, parts, own) | final
    return recipes | _heads(config, pi05)


def _vision(c: SiglipConfig, projected: int) -> dict[str, Recipe]:
    d, heads = c.width, (c.num_heads, c.width // c.num_heads)
    parts = []
    for i in (0, 1):
        parts += [
            Part(f"layer_norm{i + 1}.weight", f"{BLOCK}LayerNorm_{i}/scale", (d,)),
            Part(f"layer_norm{i + 1}.bias", f"{BLOCK}LayerNorm_{i}/bias", (d,)),
        ]
    for ours, theirs in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
        parts += [
            Part(f"{ours}.weight", f"{ATTENTION}{theirs}/kernel", (d, *heads), lay=lambda x: x.flatten(1).T),
            Part(f"{ours}.bias", f"{ATTENTION}{theirs}/bias", heads, lay=torch.flatten),
        ]
    parts += [
        Part("out_proj.weight", f"{ATTENTION}out/kernel", (*heads, d), lay=lambda x: x.flatten(0, 1).T),
        Part("out_proj.bias", f"{ATTENTION}out/bias", (d,)),
        Part("fc1.weight", f"{BLOCK}MlpBlock_0/Dense_0/kernel", (d, c.mlp_dim), lay=torch.t),
        Part("fc1.bias", f"{BLOCK}MlpBlock_0/Dense_0/bias", (c.mlp_dim,)),
        Part("fc2.weight", f"{BLOCK}MlpBlock_0/Dense_1/kernel", (c.mlp_dim, d), lay=torch.t),
        Part("fc2.bias", f"{BLOCK}MlpBlock_0/Dense_1/bias", (d,)),
    ]
    patch = (c.patch_size, c.patch_size, 3, d)
    return {
        "vision.patch_embedding.weight": _whole(f"{IMAGE}embedding/kernel", patch, lambda x: x.permute(3, 2, 0, 1)),
        "vision.patch_embedding.bias": _whole(f"{IMAGE}embedding/bias", (d,)),
        "vision.position_embedding.weight": _whole(
            f"{IMAGE}pos_embedding", (1, c.num_patches, d), lambda x: x.squeeze(0)
        ),
        **_layers("vision.layers", c.depth, parts, {}),
        "vision.post_layernorm.weight": _whole(f"{IMAGE}Transformer/encoder_norm/scale", (d,)),
        "vision.post_layernorm.bias": _whole(f"{IMAGE}Transformer/encoder_norm/bias", (d,)),
        "projector.weight": _whole(f"{IMAGE}head/kernel", (d, projected), torch.t),
        "projector.bias": _whole(f"{IMAGE}head/bias", (projected,)),
    }


def _attention(end: str, c: GemmaConfig) -> list[Part]:
    """Queries and the read-out have an axis of heads; keys and values lie in one leaf, (2, kv heads, in, out)."""
    n, m, d, h = c.num_heads, c.num_kv_heads, c.width, c.head_dim
    q, kv, out = (f"{LAYERS}attn/{name}_einsum{end}/w" for name in ("q", "kv", "attn_vec"))
    o_proj = Part("self_attn.o_proj.weight", out, (n, h, d), lay=_rows, group="attn", over_heads=True)
    return [
        Part("self_attn.q_proj.weight", q, (n, d, h), lay=_columns, group="attn"),
        Part("self_attn.k_proj.weight", kv, (2, m, d, h), pick=lambda x: x[0], lay=_columns, group="attn"),
        Part("self_attn.v_proj.weight", kv, (2, m, d, h), pick=lambda x: x[1], lay=_columns, group="attn"),
        o_proj,
    ]


def _columns(x: Tensor) -> Tensor:
    """(heads, in, head_dim) to (heads * head_dim, in)."""
    return x.transpose(1, 2).flatten(0, 1)


def _rows(x: Tensor) -> Tensor:
    """(heads, head_dim, out) to (out, heads * head_dim)."""
    return x.flatten(0, 1).T


def _feed_forward(end: str, c: GemmaConfig) -> list[Part]:
    """Gate and up lie in one leaf, (2, in, hidden)."""
    gating, linear = (f"{LAYERS}mlp{end}/{name}" for name in ("gating_einsum", "linear"))
    both = (2, c.width, c.mlp_dim)
    return [
        Part("mlp.gate_proj.weight", gating, both, pick=lambda x: x[0], lay=torch.t, group="mlp"),
        Part("mlp.up_proj.weight", gating, both, pick=lambda x: x[1], lay=torch.t, group="mlp"),
        Part("mlp.down_proj.weight", linear, (c.mlp_dim, c.width), lay=torch.t, group="mlp"),
    ]


def _norms(expert: str, d: int, adaptive: bool) -> tuple[list[Part], dict[str, Recipe]]:
    """The norms in each layer, and the last one. Adaptive ones are made by a linear layer: scale, shift and gate."""
    end = END[expert]
    names = (
        ("input_layernorm", f"{LAYERS}pre_attention_norm{end}"),
        ("post_attention_layernorm", f"{LAYERS}pre_ffw_norm{end}"),
    )
    final, key = f"{expert}.norm", FINAL_NORM + end
    if not adaptive:
        parts = [Part(f"{ours}.weight", f"{theirs}/scale", (d,)) for ours, theirs in names]
        return parts, {f"{final}.weight": _whole(f"{key}/scale", (d,))}
    parts = []
    for ours, theirs in names:
        parts += [
            Part(f"{ours}.dense.weight", f"{theirs}/Dense_0/kernel", (d, 3 * d), lay=torch.t),
            Part(f"{ours}.dense.bias", f"{theirs}/Dense_0/bias", (3 * d,)),
        ]
    return parts, _linear(f"{final}.dense", f"{key}/Dense_0", d, 3 * d)


def _heads(config: Pi0Config, pi05: bool) -> dict[str, Recipe]:
    width = config.action.width
    into = {"state_proj": config.state_dim, "action_in_proj": config.action_dim, "action_time_mlp_in": 2 * width}
    out = {"action_out_proj": config.action_dim}
    recipes: dict[str, Recipe] = {}
    for name in HEADS[pi05]:
        recipes |= _linear(f"heads.{name}", name, into.get(name, width), out.get(name, width))
    return recipes


def _linear(ours: str, theirs: str, d_in: int, d_out: int) -> dict[str, Recipe]:
    return {
        f"{ours}.weight": _whole(f"{theirs}/kernel", (d_in, d_out), torch.t),
        f"{ours}.bias": _whole(f"{theirs}/bias", (d_out,)),
    }


def _whole(key: str, shape: Shape, change: Change = lambda x: x) -> Recipe:
    """A parameter that a leaf holds alone."""
    return Recipe({key: shape}, lambda source: change(source.read(key)))


def _layers(ours: str, depth: int, parts: Iterable[Part], adapters: Mapping[Group, Adapter]) -> dict[str, Recipe]:
    """The parts in each layer."""
    return {
        f"{ours}.{i}.{part.name}": _layer(part, i, depth, adapters.get(part.group) if part.group else None)
        for part in parts
        for i in range(depth)
    }


def _layer(part: Part, i: int, depth: int, adapter: Adapter | None) -> Recipe:
    expects = {part.key: (depth, *part.shape)}

    def plain(source: Source) -> Tensor:
        return part.lay(part.pick(source.read(part.key, i)))

    if adapter is None:
        return Recipe(expects, plain)
    keys = adapter_keys(part.key)
    for key, shape in zip(keys, adapter_shapes(part.shape, adapter.rank), strict=True):
        expects[key] = (depth, *shape)

    def merged(source: Source) -> Tensor:
        weight, a, b = (part.pick(source.read(key, i)) for key in (part.key, *keys))
        return part.lay(merge_adapter(weight, a, b, adapter.scale, over_heads=part.over_heads))

    return Recipe(expects, merged, torch.float32)
