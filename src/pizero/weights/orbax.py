"""openpi's JAX checkpoints: `params/`, written by orbax, and `assets/*/norm_stats.json` beside it."""

import difflib
import math
import re
from dataclasses import replace
from pathlib import Path

from pizero.model.config import GemmaConfig, Pi0Config, SiglipConfig
from pizero.weights.facts import Facts, flag
from pizero.weights.norm_stats import several_norm_stats
from pizero.weights.openpi import said_by_openpi, turn
from pizero.weights.orbax_lora import Adapter, Group, asks_alpha, attention_scale, find_rank
from pizero.weights.orbax_recipes import (
    ATTENTION,
    BLOCK,
    EMBEDDING,
    END,
    FINAL_NORM,
    IMAGE,
    LAYERS,
    all_recipes,
)
from pizero.weights.orbax_source import MANIFEST, METADATA, OrbaxSource
from pizero.weights.recipe import Plan
from pizero.weights.source import MAX_NAMED, SINGLE, Source

NAME = "openpi-jax"
PARAMS, TRAIN_STATE = "params", "train_state"
NORMS = (FINAL_NORM, LAYERS + "pre_attention_norm", LAYERS + "pre_ffw_norm")
WEIGHTS: dict[Group, tuple[str, ...]] = {
    "attn": ("attn/q_einsum{}/w", "attn/kv_einsum{}/w", "attn/attn_vec_einsum{}/w"),
    "mlp": ("mlp{}/gating_einsum", "mlp{}/linear"),
}
"""The weights of an expert that may have adapters; the braces stand for the end of its names."""


def open_source(path: Path) -> Source | None:
    """The arrays of a checkpoint folder or its params folder; None when orbax did not write it.

    Raises ValueError when it is broken, or holds something else than the parameters of pi0 or pi0.5.
    """
    folder = _find_params(path)
    if folder is None:
        return None
    source = OrbaxSource(folder)
    _check_policy(source)
    return source


def facts(path: Path, source: Source) -> Facts:
    """What openpi's policies have in common, and the statistics of the folder; it has no config."""
    said = said_by_openpi(is_pi05(source), {}, _checkpoint(source.path))
    return replace(said, vision_heads=_vision_heads(source))


def needs(source: Source, facts: Facts) -> dict[str, str]:
    """What must be known for a plan, and why; where there are statistics of several robots, which."""
    missing = {"horizon": "no tensor's shape tells it"}
    if asks_alpha(_ranks(source, "attn")):
        missing["lora_alpha"] = "alpha of the attention adapters; no file tells it"
    return missing if facts.stats is not None else missing | several_norm_stats(_checkpoint(source.path))


def plan(source: Source, facts: Facts) -> Plan:
    """How a model of ours is made of the leaves; adapters are merged."""
    config = infer_config(source, facts)
    return Plan(config, turn(all_recipes(config, _adapters(source, facts)), config))


def is_pi05(source: Source) -> bool:
    """Whether the action expert's norms are adaptive."""
    return sum(f"{norm}_1/Dense_0/kernel" in source.tensors for norm in NORMS) > len(NORMS) / 2


def infer_config(source: Source, facts: Facts) -> Pi0Config:
    """Sizes and switches from the shapes and the horizon. Raises ValueError when a size is in no leaf's shape."""
    pi05 = is_pi05(source)
    assert facts.horizon is not None
    action_dim = _length(
        source, ("action_out_proj/bias", 0), ("action_in_proj/kernel", 0), ("action_out_proj/kernel", 1)
    )
    return Pi0Config(
        vision=_siglip(source),
        vlm=_gemma(source, "vlm", facts.vlm_rope_base),
        action=_gemma(source, "action", facts.action_rope_base),
        vocab_size=_length(source, (EMBEDDING, 0)),
        state_dim=action_dim,  # in openpi they are one number
        action_dim=action_dim,
        horizon=facts.horizon,
        state_token=not pi05,
        time_conditioning="adarms" if pi05 else "input",
        euler_grid="openpi",
        time_rounding="openpi-jax",
    )


def _siglip(source: Source) -> SiglipConfig:
    norm, dense = BLOCK + "LayerNorm_0/", BLOCK + "MlpBlock_0/Dense_"
    patch_size = _length(source, (IMAGE + "embedding/kernel", 1))
    return SiglipConfig(
        width=_length(source, (norm + "scale", 1), (norm + "bias", 1), (dense + "1/bias", 1)),
        depth=_length(source, (norm + "scale", 0), (norm + "bias", 0), (dense + "1/bias", 0)),
        mlp_dim=_length(source, (dense + "0/bias", 1), (dense + "0/kernel", 2), (dense + "1/kernel", 1)),
        num_heads=_vision_heads(source),
        image_size=math.isqrt(_length(source, (IMAGE + "pos_embedding", 1))) * patch_size,
        patch_size=patch_size,
    )


def _vision_heads(source: Source) -> int:
    return _length(source, *((f"{ATTENTION}{name}/bias", 1) for name in ("query", "key", "value")))


def _gemma(source: Source, expert: str, rope_base: float | None) -> GemmaConfig:
    """The sizes of an expert; those that both experts have in common from the leaves of both."""
    end = END[expert]
    q, kv, out, gating, linear = ([LAYERS + name.format(e) for e in END.values()] for name in sum(WEIGHTS.values(), ()))
    i = list(END).index(expert)
    before, after = f"{LAYERS}pre_attention_norm{end}", f"{LAYERS}pre_ffw_norm{end}"
    widths = [(f"{norm}/{leaf}", 1) for norm in (before, after) for leaf in ("scale", "Dense_0/kernel")]
    width = _length(source, *widths, (q[i], 2), (out[i], 3), (kv[i], 3))
    return GemmaConfig(
        width=width,
        depth=_length(source, *((key, 0) for key in (*q, *kv, *out, *gating, *linear))),
        mlp_dim=_length(source, (gating[i], 3), (gating[i], 2), (linear[i], 1), (linear[i], 2), without=width),
        num_heads=_length(source, *((key, 1) for key in (*q, *out))),
        num_kv_heads=_length(source, *((key, 2) for key in kv)),
        head_dim=_length(source, *((key, 4) for key in kv), *((key, 3) for key in q), *((key, 2) for key in out)),
        rope_base=10_000.0 if rope_base is None else rope_base,
    )


def _length(source: Source, *places: tuple[str, int], without: int | None = None) -> int:
    """The length that most axes (key, axis) have, so that a wrong one is found out by `check`; not `without`."""
    shapes = [(source.tensors[key].shape, axis) for key, axis in places if key in source.tensors]
    lengths = [shape[axis] for shape, axis in shapes if axis < len(shape)]
    if not lengths:
        names = list(dict.fromkeys(key for key, _ in places))
        near = difflib.get_close_matches(names[0], source.tensors, 1)
        hint = f"; the nearest that it has is {near[0]}" if near else ""
        raise ValueError(f"{source.path} lacks {' and '.join(names)}, which tells a size of the model{hint}")
    lengths = [length for length in lengths if length != without] or lengths
    return max(lengths, key=lengths.count)


def _ranks(source: Source, group: Group) -> dict[str, int]:
    """Rank of the adapters of each expert that has some."""
    ranks = {
        expert: find_rank(source, [LAYERS + name.format(end) for name in WEIGHTS[group]]) for expert, end in END.items()
    }
    return {expert: rank for expert, rank in ranks.items() if rank is not None}


def _adapters(source: Source, facts: Facts) -> dict[tuple[str, Group], Adapter]:
    """The adapters by expert and weights. Raises ValueError when their scale is told and there are none."""
    attention, feed_forward = _ranks(source, "attn"), _ranks(source, "mlp")
    for name, value in (("lora_alpha", facts.lora_alpha), ("lora_rslora", facts.lora_rslora)):
        if value is not None and not attention:
            raise ValueError(f"{flag(name)} is {value}, but {source.path} has no attention adapters; leave it out")
    found: dict[tuple[str, Group], Adapter] = {}
    for expert, rank in attention.items():
        found[expert, "attn"] = Adapter(rank, attention_scale(expert, attention, facts))
    for expert, rank in feed_forward.items():
        found[expert, "mlp"] = Adapter(rank, 1.0)
    return found


def _find_params(path: Path) -> Path | None:
    """The folder of the parameters; None when there is nothing of orbax."""
    if not path.is_dir() or (path / SINGLE).is_file():
        return None
    if (path / PARAMS).is_dir():
        return path / PARAMS
    if _is_orbax(path):
        return path
    if (path / TRAIN_STATE).is_dir():
        raise ValueError(
            f"{path} has {TRAIN_STATE}, the optimizer's numbers, and no {PARAMS}, the policy's; copy {PARAMS} too"
        )
    steps = sorted((inside for inside in path.iterdir() if _is_orbax(inside / PARAMS)), key=lambda p: p.name)
    if steps:
        names = ", ".join(step.name for step in steps[-MAX_NAMED:])
        raise ValueError(f"{path} has no {PARAMS}; give one of the checkpoints in it: {names}")
    return None


def _is_orbax(path: Path) -> bool:
    return (path / METADATA).is_file() or (path / MANIFEST).is_file()


def _checkpoint(params: Path) -> Path:
    """The checkpoint to which a folder of parameters belongs."""
    place = params.resolve()
    return place.parent if place.name == PARAMS else params


def _check_policy(source: Source) -> None:
    """Raises ValueError when the arrays are not those of a policy of pi0 or pi0.5."""
    keys = source.tensors
    starts = sorted({key.split("/")[0] for key in keys})
    if {"opt_state", "step"} & set(starts):
        raise ValueError(
            f"{source.path} is the state of a training run, not a policy; give the {PARAMS} folder beside it"
        )
    if not any(key.startswith(("PaliGemma/", "action_")) for key in keys):
        raise ValueError(
            f"{source.path} holds {', '.join(starts[:MAX_NAMED])}; expected openpi's PaliGemma, action_in_proj"
        )
    if "action_in_proj/kernel" not in keys and not any(re.search(r"/llm/.*_1(/|$)", key) for key in keys):
        raise ValueError(
            f"{source.path} has no action expert: it is a pi0-FAST or a plain PaliGemma; only pi0 and pi0.5 can be read"
        )
