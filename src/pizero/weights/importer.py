"""Checkpoints of other programs into ours: recognised, checked as a whole, then converted tensor by tensor."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from pizero.data.prompt import Tokenizer
from pizero.data.stats import DatasetStats, Stats
from pizero.data.transform import Transform, TransformConfig
from pizero.embodiment import Embodiment
from pizero.model.pi0 import Pi0, precision
from pizero.weights import lerobot, open_pi_zero, openpi, orbax, paligemma, transformers_pi0
from pizero.weights.checkpoint import check_fit, is_checkpoint, save_checkpoint
from pizero.weights.facts import Facts, merge, require
from pizero.weights.peft import adapt
from pizero.weights.recipe import Plan, check, nearest_layout, result_dtype
from pizero.weights.source import MAX_NAMED, SafetensorsSource, Source, find_files
from pizero.weights.writer import Report, write_safetensors

FAMILIES: tuple[ModuleType, ...] = (lerobot, transformers_pi0, openpi, orbax, open_pi_zero, paligemma)
"""Each has NAME, open_source(path), facts(path, source), needs(source, facts) and plan(source, facts)."""
DATA_NEEDS = {
    "robot": "the cameras, the state and the actions by name",
    "stats": "the numbers by which state and actions are scaled",
    "normalization": "how they are scaled",
    "prompt_format": "what the model reads as text",
    "prompt_length": "most tokens of a prompt",
    "resize": "how pictures get the model's size",
    "delta_actions": "which actions are relative to the state; give it without a value when none are",
    "raw_state": "which state dimensions are not scaled; give it without a value when all are",
    "raw_actions": "which action dimensions are not scaled; give it without a value when all are",
    "joint_units": "whether joints pass openpi's conversion for ALOHA",
    "tokenizer": "the file that turns text into tokens, for example paligemma_tokenizer.model",
}
"""What a policy needs beside its network, and what for."""


@dataclass(frozen=True)
class Foreign:
    """A checkpoint of another program that fits a model of ours; no weight has been read."""

    family: str
    """What it is."""
    source: Source
    """Its tensors."""
    facts: Facts
    """All that is known of its policy."""
    plan: Plan
    """How our tensors are made of its."""


def recognise(path: Path) -> tuple[ModuleType, Source]:
    """The family of the checkpoint at `path`, and its tensors. Raises ValueError when it is of none, or broken."""
    if not path.exists():
        raise ValueError(f"{path} does not exist; give the folder or file of a checkpoint")
    if path.is_dir() and is_checkpoint(path):
        raise ValueError(f"{path} is a checkpoint of pizero already; nothing to import")
    for family in FAMILIES:
        if (source := family.open_source(path)) is not None:
            return family, source
    raise ValueError(f"{path} is no checkpoint known here: {_what(path)}")


def read_foreign(path: Path, said: Mapping[str, Facts], with_data: bool = False) -> Foreign:
    """The checkpoint at `path`, with what `said` (by whom -> facts) adds to what its files say.

    Raises ValueError when a tensor is missing, left over or mis-shaped, when two say different things, or when nobody
    says what is needed to build the network, and, `with_data`, what a policy needs of its data.
    """
    family, source = recognise(path)
    theirs = family.facts(path, source)
    for facts in said.values():
        theirs = fit_robot(theirs, facts.robot)
    facts = merge({family.NAME: theirs} | dict(said))
    source = adapt(source, facts, lambda base: recognise(base)[1])
    require(facts, (data_needs(facts) if with_data else {}) | family.needs(source, facts), str(path))
    plan = family.plan(source, facts)
    check(source, plan.recipes, plan.unused)
    return Foreign(family.NAME, source, facts, plan)


def load_foreign(foreign: Foreign, dtype: torch.dtype = torch.float32) -> Pi0:
    """Its network in memory, in evaluation mode."""
    with torch.device("meta"):
        model = Pi0(foreign.plan.model)
    recipes, source = foreign.plan.recipes, foreign.source
    weights = {name: recipe.make(source).to(precision(name, dtype)).clone() for name, recipe in recipes.items()}
    model.load_state_dict(weights, assign=True)
    return model.eval()


def import_checkpoint(path: Path, output: Path, said: Mapping[str, Facts], report: Report | None = None) -> Foreign:
    """Convert the checkpoint at `path` into the folder `output`, tensor by tensor.

    Raises ValueError as `read_foreign` does, and when nobody says what the policy needs of its data; then nothing is
    written. `output` is complete whenever it exists.
    """
    if output.exists():
        raise ValueError(f"{output} exists already; remove it or choose another folder")
    foreign = read_foreign(path, said, with_data=True)
    transform = make_transform(foreign, path)
    recipes, source = foreign.plan.recipes, foreign.source
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in Pi0(foreign.plan.model).state_dict().items()}
    # in the order of the recipes, in which one stacked array of JAX is read once for all its layers
    tensors = {name: (result_dtype(recipe, source), shapes[name]) for name, recipe in recipes.items()}

    def write(file: Path) -> None:
        write_safetensors(file, tensors, lambda name: recipes[name].make(source), report)

    save_checkpoint(output, write, foreign.plan.model, transform)
    return foreign


def make_transform(foreign: Foreign, path: Path) -> Transform:
    """How frames become observations of an imported model. Raises ValueError that lists what nobody says."""
    facts, model = foreign.facts, foreign.plan.model
    require(facts, data_needs(facts), str(path))
    robot = facts.robot
    assert robot is not None
    assert facts.tokenizer is not None
    given = {name: getattr(facts, name) for name in DATA_NEEDS if name not in ("robot", "stats", "tokenizer")}
    config = TransformConfig(
        embodiment=robot,
        image_size=model.vision.image_size,
        state_dim=model.state_dim,
        action_dim=model.action_dim,
        horizon=model.horizon,
        **given,
    )
    transform = Transform(config, own_dimensions(facts.stats, robot), Tokenizer(facts.tokenizer))
    check_fit(model, transform, str(path))
    return transform


def data_needs(facts: Facts) -> dict[str, str]:
    """What a policy needs beside its network, and what for."""
    return {name: why for name, why in DATA_NEEDS.items() if name != "stats" or facts.normalization != "identity"}


def own_dimensions(stats: DatasetStats | None, robot: Embodiment) -> DatasetStats:
    """The statistics of the robot's own dimensions; openpi's files may have more, for the padding of the model."""
    if stats is None:  # nothing is normalised
        return DatasetStats(_unit(len(robot.state)), _unit(len(robot.actions)))
    return DatasetStats(
        _first(stats.state, len(robot.state), f"state of {robot.name}"),
        _first(stats.actions, len(robot.actions), f"actions of {robot.name}"),
    )


def fit_robot(theirs: Facts, robot: Embodiment | None) -> Facts:
    """What a folder says, with the robot that the user gives in place of the neutral one that the folder describes.

    Raises ValueError when they have other numbers of cameras or dimensions.
    """
    if robot is None or theirs.robot is None:
        return theirs
    for what in ("cameras", "state", "actions"):
        mine, its = getattr(robot, what), getattr(theirs.robot, what)
        if len(mine) != len(its):
            raise ValueError(
                f"--robot: {robot.name} has {len(mine)} {what} {mine}, the checkpoint has {len(its)}: {its}; "
                "give the robot that it was trained for"
            )
    names = dict(zip(theirs.robot.actions, robot.actions, strict=True))
    delta = None if theirs.delta_actions is None else tuple(names[name] for name in theirs.delta_actions)
    return replace(theirs, robot=robot, delta_actions=delta)


def _first(stats: Stats, width: int, whose: str) -> Stats:
    if len(stats.mean) < width:
        raise ValueError(f"--stats has {len(stats.mean)} dimensions, the {whose} has {width}; give the robot's own")

    def first(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else array[:width]

    rest = {name: first(getattr(stats, name)) for name in ("min", "max", "q01", "q99")}
    return Stats(stats.mean[:width], stats.std[:width], **rest, count=stats.count)


def _unit(width: int) -> Stats:
    return Stats(np.zeros(width), np.ones(width), None, None, None, None, None)


def _what(path: Path) -> str:
    """What lies at a path of no known family, in the words that help most."""
    if path.is_file():
        if path.suffix == ".safetensors":
            return f"its keys look like {nearest_layout(SafetensorsSource(path, [path]).tensors)}"
        return "known files are .safetensors and open-pi-zero's .pt"
    if (path / "model.safetensors").is_file() or (path / "model.safetensors.index.json").is_file():
        return f"its keys look like {nearest_layout(SafetensorsSource(path, find_files(path)).tensors)}"
    found = ", ".join(sorted(file.name for file in path.iterdir())[:MAX_NAMED]) or "nothing"
    return f"it holds {found}"
