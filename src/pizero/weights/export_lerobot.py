"""Our checkpoints as lerobot's pi0 and pi0.5 folders: what save_pretrained of policy and processors writes (v0.6)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch

from pizero.data.prompt import Tokenizer
from pizero.data.stats import Stats
from pizero.data.transform import TransformConfig
from pizero.weights.checkpoint import WEIGHTS
from pizero.weights.export import (
    UNUSED_HEAD,
    Ours,
    common_remarks,
    network_limits,
    precision,
    read_ours,
    refuse,
    refuse_existing,
    write_folder,
    write_foreign,
    write_json,
)
from pizero.weights.lerobot_folder import (
    ACTION,
    AFTER,
    ARRAYS,
    BEFORE,
    CONFIG,
    EPS,
    IMAGES,
    NORMALIZATIONS,
    STATE,
    is_excluded,
    neutral_names,
)
from pizero.weights.openpi import PALIGEMMA_TOKENS, TIED, openpi_key
from pizero.weights.writer import Report, write_safetensors

PROMPTS = {"input": ("lerobot-pi0",), "adarms": ("pi05", "pi05-stateless")}
PALIGEMMA = "google/paligemma-3b-pt-224"
"""Whose tokenizer lerobot's processors load by this name, and which every sentencepiece model of 257 152 pieces is."""
TOKENIZER_FOLDER = "tokenizer"
SPECIAL_TOKENS = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
DEVICE = {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}}

Step = dict[str, Any]


def export_lerobot(checkpoint: Path, output: Path, report: Report | None = None) -> tuple[str, ...]:
    """Write the folder `output` for lerobot; what its user has to know comes back, line by line.

    Raises ValueError when `output` exists, and for what lerobot has no place for.
    """
    refuse_existing(output)
    ours = read_ours(checkpoint)
    model, transform = ours.model, ours.transform.config
    refuse(
        "lerobot",
        *network_limits(model),
        ("transform.normalization", transform.normalization, tuple(NORMALIZATIONS.values())),
        ("transform.prompt_format", transform.prompt_format, PROMPTS.get(model.time_conditioning, ())),
        ("transform.resize", transform.resize, ("lerobot",)),
        ("transform.raw_state", transform.raw_state, ((),)),
        ("transform.raw_actions", transform.raw_actions, ((),)),
        ("transform.joint_units", transform.joint_units, ("robot",)),
    )
    excluded = excluded_joints(transform)
    tokenizer = tokenizer_name(ours.transform.tokenizer)
    steps = steps_before(ours, excluded, tokenizer), steps_after(ours)
    statistics = statistics_tensors(ours)

    def write(folder: Path) -> None:
        write_foreign(folder / WEIGHTS, ours, lerobot_tensors(ours), report, {"format": "pt"})
        write_json(folder / CONFIG, policy_config(ours, excluded), indent=4)
        for file, pipeline in zip((BEFORE, AFTER), steps, strict=True):
            write_json(folder / file, {"name": file.removesuffix(".json"), "steps": pipeline}, indent=2)
            for step in pipeline:
                if "state_file" in step:
                    write_statistics(folder / step["state_file"], statistics)
        if tokenizer == TOKENIZER_FOLDER:
            write_tokenizer(folder / TOKENIZER_FOLDER, ours.transform.tokenizer)

    write_folder(output, write)
    return lerobot_remarks(ours, tokenizer)


def lerobot_tensors(ours: Ours) -> dict[str, str | None]:
    """lerobot's keys and our parameters. Its head of words is not tied, is not used, and must be there."""
    keys: dict[str, str | None] = {f"model.{openpi_key(name)}": name for name in ours.source.tensors}
    keys |= {f"model.{TIED}": "embed_tokens.weight", f"model.{UNUSED_HEAD}": None}
    return {key: keys[key] for key in sorted(keys)}


def policy_config(ours: Ours, excluded: list[str]) -> dict[str, Any]:
    """config.json: PI0Config or PI05Config; what is about training has lerobot's defaults.

    Only fields of 0.6.1, which refuses others: those that came later (memory, rtc_training_max_delay) have defaults.
    """
    model, transform = ours.model, ours.transform.config
    pi05, side = model.time_conditioning == "adarms", model.vision.image_size
    return {
        "type": "pi05" if pi05 else "pi0",
        "n_obs_steps": 1,
        "input_features": input_features(ours),
        "output_features": output_features(ours),
        "device": "cpu",
        "use_amp": False,
        "use_peft": False,
        "push_to_hub": False,
        "repo_id": None,
        "private": None,
        "tags": None,
        "license": None,
        "pretrained_path": None,
        "pretrained_revision": None,
        "paligemma_variant": "gemma_2b",
        "action_expert_variant": "gemma_300m",
        "dtype": precision(ours),
        "chunk_size": model.horizon,
        "n_action_steps": model.horizon,
        "max_state_dim": model.state_dim,
        "max_action_dim": model.action_dim,
        "num_inference_steps": 10,
        "time_sampling_beta_alpha": 1.5,
        "time_sampling_beta_beta": 1.0,
        "time_sampling_scale": 0.999,
        "time_sampling_offset": 0.001,
        "min_period": model.time_min_period,
        "max_period": model.time_max_period,
        "use_relative_actions": bool(transform.delta_actions),
        "relative_exclude_joints": excluded,
        "action_feature_names": action_names(transform),
        "rtc_config": None,
        "image_resolution": [side, side],
        "empty_cameras": 0,
        "tokenizer_max_length": transform.prompt_length,
        "normalization_mapping": norm_map(transform),
        "gradient_checkpointing": False,
        "compile_model": False,
        "compile_mode": "max-autotune",
        "freeze_vision_encoder": False,
        "train_expert_only": False,
        "optimizer_lr": 2.5e-05,
        "optimizer_betas": [0.9, 0.95],
        "optimizer_eps": 1e-08,
        "optimizer_weight_decay": 0.01,
        "optimizer_grad_clip_norm": 1.0,
        "scheduler_warmup_steps": 1000,
        "scheduler_decay_steps": 30000,
        "scheduler_decay_lr": 2.5e-06,
    }


def steps_before(ours: Ours, excluded: list[str], tokenizer: str) -> list[Step]:
    """The steps of policy_preprocessor.json, in the order of lerobot's make_pi0(5)_pre_post_processors."""
    transform = ours.transform.config
    features = input_features(ours) | output_features(ours)
    rename = _step("rename_observations_processor", rename_map={})
    batch = _step("to_batch_processor")
    relative = _step(
        "relative_actions_processor",
        enabled=bool(transform.delta_actions),
        exclude_joints=excluded,
        action_names=action_names(transform),
    )
    normalize = _step("normalizer_processor", eps=EPS, features=features, norm_map=norm_map(transform))
    tokenize = _step(
        "tokenizer_processor",
        max_length=transform.prompt_length,
        task_key="task",
        padding_side="right",
        padding="max_length",
        truncation=True,
        tokenizer_name=tokenizer,
    )
    if tokenizer == TOKENIZER_FOLDER:
        tokenize["artifacts"] = {"tokenizer_name": TOKENIZER_FOLDER}
    if ours.model.time_conditioning == "adarms":
        stateless = {"include_state_in_prompt": False} if transform.prompt_format == "pi05-stateless" else {}
        prepare = _step("pi05_prepare_state_tokenizer_processor_step", **stateless)
        steps = [rename, batch, relative, normalize, prepare, tokenize, DEVICE]
    else:
        steps = [rename, batch, _step("pi0_new_line_processor"), tokenize, DEVICE, relative, normalize]
    normalize["state_file"] = f"policy_preprocessor_step_{steps.index(normalize)}_normalizer_processor.safetensors"
    return steps


def steps_after(ours: Ours) -> list[Step]:
    """The steps of policy_postprocessor.json."""
    transform = ours.transform.config
    unnormalize = _step("unnormalizer_processor", eps=EPS, features=output_features(ours), norm_map=norm_map(transform))
    unnormalize["state_file"] = "policy_postprocessor_step_0_unnormalizer_processor.safetensors"
    return [unnormalize, _step("absolute_actions_processor", enabled=bool(transform.delta_actions)), DEVICE]


def input_features(ours: Ours) -> dict[str, Any]:
    """Cameras and state; lerobot resizes pictures of any size, so that of the model stands here."""
    robot, side = ours.transform.config.embodiment, ours.model.vision.image_size
    cameras = {f"{IMAGES}{name}": {"type": "VISUAL", "shape": [3, side, side]} for name in robot.cameras}
    return cameras | {STATE: {"type": "STATE", "shape": [len(robot.state)]}}


def output_features(ours: Ours) -> dict[str, Any]:
    """The actions."""
    return {ACTION: {"type": "ACTION", "shape": [len(ours.transform.config.embodiment.actions)]}}


def norm_map(transform: TransformConfig) -> dict[str, str]:
    """How everything is scaled, in lerobot's words."""
    mode = next(theirs for theirs, mine in NORMALIZATIONS.items() if mine == transform.normalization)
    return {"VISUAL": "IDENTITY", "STATE": mode, "ACTION": mode}


def action_names(transform: TransformConfig) -> list[str] | None:
    """Names of the actions; None for those that an import makes up."""
    names = transform.embodiment.actions
    return None if names == neutral_names("action", len(names)) and not transform.delta_actions else list(names)


def excluded_joints(transform: TransformConfig) -> list[str]:
    """The names by which lerobot leaves actions absolute.

    Raises ValueError when its rule, which looks for a name inside the others, would leave out more.
    """
    names = transform.embodiment.actions
    delta = tuple(name for name in names if name in transform.delta_actions)
    if not delta:
        return ["gripper"]  # lerobot's default, and without effect
    excluded = [name.lower() for name in names if name not in delta]
    if tuple(name for name in names if not is_excluded(name, excluded)) != delta:
        raise ValueError(
            f"lerobot cannot say what this policy is: transform.delta_actions is {delta} of {names} (lerobot excludes "
            f"by parts of names, and one of {excluded} is inside another name); rename the actions"
        )
    return excluded


def statistics_tensors(ours: Ours) -> dict[str, torch.Tensor]:
    """What lerobot's steps keep: float32 where it holds the numbers exactly, else float64."""
    stats = ours.transform.stats
    tensors = {}
    for key, each in ((ACTION, stats.actions), (STATE, stats.state)):
        for name, values in _arrays(each).items():
            exact = np.array_equal(values.astype(np.float32).astype(np.float64), values)
            tensors[f"{key}.{name}"] = torch.from_numpy(values.astype(np.float32 if exact else np.float64))
    return {key: tensors[key] for key in sorted(tensors)}


def write_statistics(file: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """The file of a normalising step."""
    write_safetensors(file, {key: (x.dtype, tuple(x.shape)) for key, x in tensors.items()}, tensors.__getitem__)


def tokenizer_name(tokenizer: Tokenizer) -> str:
    """What lerobot loads the tokenizer by: a folder beside the weights, or PaliGemma's on the hub.

    Raises ValueError for one that lerobot would not get the same tokens from.
    """
    if tokenizer.file_name == "tokenizer.json":
        if not tokenizers.Tokenizer.from_buffer(tokenizer.model_bytes).encode("").ids:
            raise ValueError("lerobot takes tokenizer.json as it is, and this one puts no <bos> before a text")
        return TOKENIZER_FOLDER
    if tokenizer.vocab_size != PALIGEMMA_TOKENS:
        raise ValueError(
            f"lerobot cannot say what this policy is: its tokenizer is a sentencepiece model of {tokenizer.vocab_size} "
            f"tokens (lerobot has tokenizer.json, or PaliGemma's of {PALIGEMMA_TOKENS})"
        )
    return PALIGEMMA


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """tokenizer.json, and the roles of its special tokens, without which transformers cannot pad."""
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes(tokenizer.model_bytes)
    known = json.loads(tokenizer.model_bytes)["added_tokens"]
    special = {role: token for role, token in SPECIAL_TOKENS.items() if token in {entry["content"] for entry in known}}
    config = special | {"padding_side": "right", "tokenizer_class": "PreTrainedTokenizerFast"}
    write_json(folder / "tokenizer_config.json", config, indent=2)


def lerobot_remarks(ours: Ours, tokenizer: str) -> tuple[str, ...]:
    """What is good to know."""
    lines = ["lerobot does not name the dimensions of the state, nor the robot"]
    if tokenizer == PALIGEMMA:
        lines.append(f"lerobot will load the tokenizer of {PALIGEMMA} from the hub")
    else:
        lines.append(
            f"lerobot up to 0.6.1 looks for the folder {TOKENIZER_FOLDER!r} where it is started: start it in this "
            "folder, or override tokenizer_name of its tokenizer_processor"
        )
    if ours.transform.config.prompt_format == "pi05-stateless":
        lines.append("a prompt without the state needs a lerobot later than 0.6.1")
    return (*lines, *common_remarks(ours, "lerobot"))


def _step(name: str, **config: Any) -> Step:
    return {"registry_name": name, "config": config}


def _arrays(stats: Stats) -> dict[str, np.ndarray]:
    arrays = {name: getattr(stats, name) for name in ARRAYS}
    if stats.count is not None:
        arrays["count"] = np.array([stats.count], np.float64)
    return {name: array for name, array in arrays.items() if array is not None}
