"""What lies beside the weights in lerobot's pi0 and pi0.5 folders: config, and the steps before and after the policy.

Layout of lerobot, src/lerobot/policies/{pi0,pi05}/ and src/lerobot/processor/.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pizero.data.choice import Normalization, PromptFormat
from pizero.data.stats import DatasetStats, Stats
from pizero.embodiment import Embodiment
from pizero.weights.source import SafetensorsSource, read_json

CONFIG, BEFORE, AFTER = "config.json", "policy_preprocessor.json", "policy_postprocessor.json"
IMAGES, STATE, ACTION = "observation.images.", "observation.state", "action"
NORMALIZATIONS: dict[str, Normalization] = {
    "MEAN_STD": "lerobot-z-score",
    "QUANTILES": "lerobot-quantile",
    "IDENTITY": "identity",
}
EPS = 1e-8
"""The only one that lerobot's normalisation has been used with (processor/normalize_processor.py)."""
STEPS = {
    BEFORE: (
        "rename_observations_processor",
        "to_batch_processor",
        "pi0_new_line_processor",
        "pi05_prepare_state_tokenizer_processor_step",
        "tokenizer_processor",
        "device_processor",
        "relative_actions_processor",
        "normalizer_processor",
    ),
    AFTER: ("unnormalizer_processor", "absolute_actions_processor", "device_processor"),
}
"""The steps that are understood here; another one could change anything."""
ARRAYS = ("mean", "std", "min", "max", "q01", "q99")


@dataclass(frozen=True)
class Folder:
    """What the files beside the weights say."""

    path: Path
    config: Mapping[str, Any]
    """config.json; empty when it is absent."""
    before: Mapping[str, Mapping[str, Any]]
    """Steps before the policy by name; empty when the file is absent."""
    after: Mapping[str, Mapping[str, Any]]
    """Steps after it."""

    def value(self, field: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """A field of config.json. Raises ValueError when it is of another type than `kind`."""
        value = self.config.get(field, default)
        if value is not None and not (isinstance(value, kind) and isinstance(value, bool) <= (kind is bool)):
            raise ValueError(f"{self.path / CONFIG}: {field} is {value!r}, expected {getattr(kind, '__name__', kind)}")
        return value

    def count(self, field: str) -> int | None:
        """A field that is a whole number above 0."""
        value: int | None = self.value(field, int)
        if value is not None and value < 1:
            raise ValueError(f"{self.path / CONFIG}: {field} is {value}, must be above 0")
        return value


def read_folder(path: Path) -> Folder:
    """The files beside the weights. Raises ValueError when one is broken or has a step that is not understood."""
    folder = path if path.is_dir() else path.parent
    return Folder(folder, read_config(folder), _read_steps(folder / BEFORE), _read_steps(folder / AFTER))


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a pi0 or pi0.5 of lerobot; empty when it is absent or of something else."""
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    return config if config.get("type") in ("pi0", "pi05") else {}


def read_robot(folder: Folder) -> Embodiment | None:
    """Cameras, state and actions with neutral names where lerobot has none; None when the config has no action."""
    inputs, outputs = (folder.value(field, dict, {}) or {} for field in ("input_features", "output_features"))
    if ACTION not in outputs:
        return None
    state, actions = (_width(features, key, folder) for features, key in ((inputs, STATE), (outputs, ACTION)))
    names = folder.value("action_feature_names", list) or _config(folder.before, "relative_actions_processor").get(
        "action_names"
    )
    if names is not None and len(names) != actions:
        raise ValueError(f"{folder.path}: action_feature_names has {len(names)} names for {actions} actions: {names}")
    return Embodiment(
        name="lerobot",
        cameras=_cameras(folder, inputs),
        state=neutral_names("state", state),
        actions=tuple(map(str, names)) if names else neutral_names("action", actions),
        control_rate_hz=None,
        action_low=(),
        action_high=(),
        gripper_action="unknown",
    )


def neutral_names(what: str, count: int) -> tuple[str, ...]:
    """Names of dimensions that nobody has named."""
    return tuple(f"{what}_{i}" for i in range(count))


def read_normalization(folder: Folder) -> Normalization | None:
    """How state and actions are scaled, the same for both; None when it is not said."""
    said = folder.value("normalization_mapping", dict)
    done = _config(folder.before, "normalizer_processor").get("norm_map")
    undone = _config(folder.after, "unnormalizer_processor").get("norm_map")
    maps = [each for each in (done, undone, said) if each is not None]
    if not maps:
        return None
    modes = {key: {each.get(key, "IDENTITY") for each in maps} for key in ("VISUAL", "STATE", "ACTION")}
    for key, found in modes.items():
        if len(found) > 1:
            raise ValueError(f"{folder.path}: its files say different normalisations of {key}: {sorted(found)}")
    visual, state, action = (found.pop() for found in modes.values())
    if visual != "IDENTITY":
        raise ValueError(f"{folder.path}: pictures are normalised by {visual}, only IDENTITY is supported")
    if state != action:
        raise ValueError(
            f"{folder.path}: the state is normalised by {state}, actions by {action}; they must be normalised alike"
        )
    if state not in NORMALIZATIONS:
        raise ValueError(
            f"{folder.path}: normalisation {state} is not supported; supported are {', '.join(NORMALIZATIONS)}"
        )
    return NORMALIZATIONS[state]


def read_stats(folder: Folder, normalization: Normalization | None, robot: Embodiment) -> DatasetStats | None:
    """The statistics of the normalising step; None when it has none.

    Raises ValueError when those of the inverse step are others, or when they do not fit the robot.
    """
    before, after = folder.before.get("normalizer_processor"), folder.after.get("unnormalizer_processor")
    for step in (before, after):
        eps = _config({"": step or {}}, "").get("eps", EPS)
        if eps != EPS:
            raise ValueError(f"{folder.path}: eps of the normalisation is {eps!r}, only {EPS} is supported")
    if before is None:
        return None
    _check_normalized(folder, before["config"])
    tensors, inverse = _read_state(folder, before), _read_state(folder, after or {})
    if not tensors or normalization == "identity":
        return None
    theirs, undone = (
        {key: value.tolist() for key, value in each.items() if key.startswith(f"{ACTION}.")}
        for each in (tensors, inverse)
    )
    if theirs != undone:
        raise ValueError(
            f"{folder.path}: actions are normalised with other statistics before the policy than after it; "
            "copy both steps from the same training run"
        )
    state, actions = (_stats(folder, tensors, key) for key in (STATE, ACTION))
    for key, stats, names in ((STATE, state, robot.state), (ACTION, actions, robot.actions)):
        if len(stats.mean) != len(names):
            raise ValueError(f"{folder.path}: {key} has {len(names)} dimensions, its statistics {len(stats.mean)}")
    return DatasetStats(state, actions)


def read_prompt_format(folder: Folder, pi05: bool) -> PromptFormat:
    """What the model reads as text."""
    wanted = "pi05_prepare_state_tokenizer_processor_step" if pi05 else "pi0_new_line_processor"
    if folder.before and wanted not in folder.before:
        raise ValueError(f"{folder.path / BEFORE} has no step {wanted}, with which lerobot writes the prompt")
    if not pi05:
        return "lerobot-pi0"
    has_state = _config(folder.before, wanted).get("include_state_in_prompt", True)
    return "pi05" if has_state else "pi05-stateless"


def read_prompt_length(folder: Folder) -> int | None:
    """Most tokens of a prompt."""
    step = _config(folder.before, "tokenizer_processor")
    for field, value in (("padding_side", "right"), ("task_key", "task")):
        if step.get(field, value) != value:
            raise ValueError(f"{folder.path / BEFORE}: {field} is {step[field]!r}, only {value!r} is supported")
    said = folder.count("tokenizer_max_length")
    if step.get("max_length", said) != said:
        raise ValueError(
            f"{folder.path}: prompts have at most {step['max_length']} tokens in {BEFORE} and {said} in {CONFIG}"
        )
    return said


def read_delta_actions(folder: Folder, robot: Embodiment) -> tuple[str, ...] | None:
    """The actions that are relative to the state: all but those whose name holds that of an excluded joint.

    None when joints are excluded and the actions have no names (processor/relative_action_processor.py).
    """
    step = relative_step(folder)
    if not step.get("enabled"):
        return ()
    excluded = [str(name).lower() for name in step.get("exclude_joints") or () if name]
    if excluded and not step.get("action_names"):
        return None
    return tuple(name for name in robot.actions if not is_excluded(name, excluded))


def is_excluded(name: str, excluded: list[str]) -> bool:
    """Whether lerobot leaves an action absolute: its name holds one of those, in small letters."""
    return any(part in name.lower() for part in excluded)


def find_tokenizer(folder: Folder) -> Path | None:
    """The file of the tokenizer beside the weights; None when it is elsewhere."""
    step = folder.before.get("tokenizer_processor", {})
    saved = step.get("artifacts", {}).get("tokenizer_name") or _config(folder.before, "tokenizer_processor").get(
        "tokenizer_name"
    )
    files = (folder.path / str(name) / "tokenizer.json" for name in (saved, "tokenizer") if name)
    return next((file for file in files if file.is_file()), None)


def refuse_memory(folder: Folder) -> None:
    """Raises ValueError for a policy that sees more than the present frame."""
    for field in ("use_visual_memory", "use_proprioceptive_memory"):
        if folder.value(field, bool):
            raise ValueError(f"{folder.path / CONFIG}: {field} is true; a policy with a memory is not supported")
    if folder.value("n_obs_steps", int, 1) != 1:
        raise ValueError(f"{folder.path / CONFIG}: n_obs_steps is {folder.config['n_obs_steps']}, only 1 is supported")


def _read_steps(file: Path) -> dict[str, Mapping[str, Any]]:
    """The steps of a pipeline by name; an absent file has none."""
    if not file.is_file():
        return {}
    steps: dict[str, Mapping[str, Any]] = {}
    entries = read_json(file).get("steps")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{file}: steps is {str(entries)[:60]}, expected a list of steps")
    for entry in entries:
        name = str(entry.get("registry_name", entry.get("class")))
        if name not in STEPS[file.name] or name in steps:
            why = "comes twice" if name in steps else "is not supported"
            raise ValueError(f"{file}: step {name} {why}; supported are {', '.join(STEPS[file.name])}")
        steps[name] = {"config": {}} | entry
    return steps


def _config(steps: Mapping[str, Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    return steps.get(name, {}).get("config", {})


def relative_step(folder: Folder) -> Mapping[str, Any]:
    """Config of the step that makes actions relative. Raises ValueError when it is not undone as it is done."""
    step = _config(folder.before, "relative_actions_processor")
    done = bool(step.get("enabled"))
    undone = bool(_config(folder.after, "absolute_actions_processor").get("enabled"))
    said = bool(folder.value("use_relative_actions", bool, False))
    if done != undone or (said != done and folder.before):
        raise ValueError(
            f"{folder.path}: actions are relative: {done} in {BEFORE}, {undone} in {AFTER}, {said} in {CONFIG}; "
            "they must agree"
        )
    if said and not folder.before:
        return {
            "enabled": True,
            "exclude_joints": folder.config.get("relative_exclude_joints"),
            "action_names": folder.config.get("action_feature_names"),
        }
    return step


def _cameras(folder: Folder, inputs: Mapping[str, Any]) -> tuple[str, ...]:
    """The robot's names of the cameras, in the policy's order; those that are always absent are left out."""
    renames = _config(folder.before, "rename_observations_processor").get("rename_map") or {}
    own: dict[str, str] = {}
    for key, theirs in renames.items():
        if theirs in own:
            raise ValueError(f"{folder.path / BEFORE}: {own[theirs]} and {key} are both renamed to {theirs}")
        own[theirs] = key
    empty = {f"{IMAGES}empty_camera_{i}" for i in range(folder.value("empty_cameras", int, 0) or 0)}
    cameras = []
    for key, feature in inputs.items():
        if isinstance(feature, dict) and feature.get("type") == "VISUAL" and (key not in empty or key in own):
            cameras.append(own.get(key, key).removeprefix(IMAGES))
    return tuple(cameras)


def _width(features: Mapping[str, Any], key: str, folder: Folder) -> int:
    """Dimensions of the state or the action; lerobot takes those of the model where the config names none."""
    if key not in features:
        width = folder.count("max_state_dim")
        if width is None:
            raise ValueError(f"{folder.path / CONFIG} names neither {key} nor max_state_dim; copy the folder again")
        return width
    shape = features[key].get("shape") if isinstance(features[key], dict) else None
    if not isinstance(shape, list) or len(shape) != 1 or not isinstance(shape[0], int) or shape[0] < 1:
        raise ValueError(f"{folder.path / CONFIG}: the shape of {key} is {shape!r}, expected one number above 0")
    return shape[0]


def _check_normalized(folder: Folder, config: Mapping[str, Any]) -> None:
    chosen = config.get("normalize_observation_keys")
    if STATE not in config.get("features", {}) or (chosen is not None and STATE not in chosen):
        raise ValueError(f"{folder.path / BEFORE}: the normalising step leaves {STATE} out, which is not supported")


def _read_state(folder: Folder, step: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a step's own file; none when it has no file."""
    if "state_file" not in step:
        return {}
    file = folder.path / str(step["state_file"])
    if not file.is_file():
        raise ValueError(f"{file} does not exist; copy the whole folder again")
    source = SafetensorsSource(folder.path, [file])
    return {key: source.read(key) for key in source.tensors}


def _stats(folder: Folder, tensors: Mapping[str, torch.Tensor], key: str) -> Stats:
    arrays = {
        name: tensors[f"{key}.{name}"].double().numpy().reshape(-1) for name in ARRAYS if f"{key}.{name}" in tensors
    }
    if absent := {"mean", "std"} - set(arrays):
        raise ValueError(f"{folder.path}: the statistics of {key} have no {' and no '.join(sorted(absent))}")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1 or not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError(f"{folder.path}: the statistics of {key} are not finite or of different lengths: {lengths}")
    count = tensors.get(f"{key}.count")
    return Stats(
        mean=arrays["mean"],
        std=arrays["std"],
        min=arrays.get("min"),
        max=arrays.get("max"),
        q01=arrays.get("q01"),
        q99=arrays.get("q99"),
        count=None if count is None else int(count.reshape(-1)[0]),
    )
