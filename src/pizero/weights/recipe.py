"""How each tensor of ours is made from tensors of another program, checked as a whole before the first is read."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pizero.model.config import Pi0Config
from pizero.weights.source import Source, listed

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
    "a pi0 policy of openpi": ("paligemma_with_expert.", "action_in_proj.", "action_out_proj.", "action_time_mlp_"),
    "a pi0 policy of lerobot": ("model.paligemma_with_expert.", "model.action_", "model.time_mlp_"),
    "a pi0 policy of openpi in JAX": ("PaliGemma/", "action_in_proj/", "action_out_proj/", "action_time_mlp_"),
    "a pi0 policy of open-pi-zero": ("joint_model.", "vision_tower.vision_model.", "action_encoder."),
    "a pi0 policy of transformers": ("model.vlm.", "model.dit.", "embed_action_time.", "model.embed_action_time."),
    "a checkpoint of pizero": ("vision.layers.", "vlm.layers.", "action.layers.", "heads."),
    "Gemma without a vision tower": ("model.layers.", "model.embed_tokens.", "model.norm."),
    "SigLIP without a language model": ("vision_model.", "text_model."),
}
"""Layouts that a file may have, by how its keys start; only to say what a file looks like."""


@dataclass(frozen=True)
class Recipe:
    """How one tensor of ours is made."""

    expects: Mapping[str, tuple[int, ...]]
    """The keys that it is made from, and the shapes they must have."""
    make: Callable[[Source], Tensor]
    """Makes it; called once `check` has found every key and shape right."""
    dtype: torch.dtype | None = None
    """Of the result; None: that of the first key it is made from, float32 in place of other types than bfloat16."""


@dataclass(frozen=True)
class Plan:
    """How a whole model of ours is made from a source."""

    model: Pi0Config
    """Its sizes and switches."""
    recipes: Mapping[str, Recipe]
    """For every parameter of `Pi0`, by its name."""
    unused: tuple[str, ...] = ()
    """Patterns of whole keys that may be in the source and say nothing."""


def copy(key: str, shape: tuple[int, ...]) -> Recipe:
    """The tensor as it is."""
    return Recipe({key: shape}, lambda source: source.read(key))


def change(recipe: Recipe, function: Callable[[Tensor], Tensor], dtype: torch.dtype | None = None) -> Recipe:
    """The tensor of another recipe after a function that keeps its shape."""
    return Recipe(recipe.expects, lambda source: function(recipe.make(source)), dtype or recipe.dtype)


def result_dtype(recipe: Recipe, source: Source) -> torch.dtype:
    """The type in which our file holds the tensor: every number of the source's is exact in it."""
    if recipe.dtype is not None:
        return recipe.dtype
    given = source.tensors[next(iter(recipe.expects))].dtype
    return torch.bfloat16 if given is torch.bfloat16 else torch.float32


def check(
    source: Source,
    recipes: Mapping[str, Recipe],
    unused: Collection[str] = (),
) -> None:
    """Raises ValueError that names up to 20 tensors which are missing, unexpected, mis-shaped or no floating point.

    `unused` are patterns of whole keys that may be there and say nothing.
    """
    expected: dict[str, tuple[int, ...]] = {}
    for recipe in recipes.values():
        expected.update(recipe.expects)
    problems = [f"missing: {key}" for key in expected if key not in source.tensors]
    for key, info in source.tensors.items():
        if key not in expected:
            if not any(re.fullmatch(pattern, key) for pattern in unused):
                problems.append(f"unexpected: {key}")
        elif info.shape != expected[key]:
            problems.append(f"mis-shaped: {key} is {info.shape}, the model needs {expected[key]}")
        elif not isinstance(info.dtype, torch.dtype):
            problems.append(f"not floating point: {key} is {info.dtype}")
    if problems:
        raise ValueError(
            f"{source.path} does not fit the model: {listed(problems)}. "
            f"Its keys look like {nearest_layout(source.tensors)}"
        )


def nearest_layout(keys: Collection[str]) -> str:
    """The known layout to which most keys belong."""
    scores = {layout: sum(key.startswith(starts) for key in keys) for layout, starts in LAYOUTS.items()}
    best = max(scores, key=lambda layout: scores[layout])
    return best if scores[best] else f"no layout known here; known are: {', '.join(LAYOUTS)}"
