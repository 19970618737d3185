import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from pizero import flow
from pizero.data import images, normalize, prompt
from pizero.train import config as module
from pizero.train.config import (
    AugmentConfig,
    DataConfig,
    LoraConfig,
    OptimConfig,
    TrainConfig,
    config_from_json,
    config_to_json,
)

RUN = TrainConfig(name="run", output=Path("out"))


def test_json_gives_the_equal_config_back() -> None:
    config = replace(
        RUN,
        data=DataConfig(
            root=Path("data"),
            raw_actions=("grip",),
            augment=AugmentConfig(crop=0.9, shift_pixels=3),
            delta_actions=("x", "y"),
        ),
        optim=OptimConfig(clip_norm=None, ema_decay=None, betas=(0.8, 0.9)),
        tune="lora",
        lora=LoraConfig(rank=4, targets=("q_proj",), vision=True),
        init=Path("weights"),
        max_seconds=30.0,
    )
    assert config_from_json(json.loads(json.dumps(config_to_json(config))), "here") == config


def test_missing_and_unknown_keys_are_named() -> None:
    data = json.loads(json.dumps(config_to_json(RUN)))
    del data["optim"]["lr"], data["model"]["vision"]["width"]
    data["optim"]["learning_rate"] = 1
    with pytest.raises(ValueError, match=r"train\.json: model\.vision\.width is missing"):
        config_from_json(data, "train.json")
    data["model"]["vision"]["width"] = 1152
    with pytest.raises(ValueError, match=r"optim\.lr is missing, optim\.learning_rate is unknown"):
        config_from_json(data, "train.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0, must be at least 1"),
        ({"keep": 0}, "keep is 0, must be at least 1"),
        ({"batch_size": 6, "accumulate": 4}, "accumulate is 4, must divide batch_size = 6"),
        ({"steps": 1000}, r"optim\.warmup_steps is 1000, must be below steps = 1000"),
        ({"sigma_min": 1.0}, "sigma_min is 1.0, must be from 0 to below 1"),
        ({"graph": True, "batch_size": 8, "accumulate": 2}, "graph works with accumulate 1, .*; accumulate is 2"),
        ({"max_seconds": 0.0}, "max_seconds is 0.0, must be above 0"),
        ({"max_seconds": 9.0, "resume": True}, "resume continues bit for bit, which max_seconds makes impossible"),
        ({"tune": "expert"}, "tune expert without init would keep random weights"),
        ({"lora": LoraConfig(rank=8)}, "lora has no effect with tune full"),
        ({"tune": "qlora", "init": Path("x"), "parallel": "fsdp"}, "tune qlora does not work with parallel fsdp"),
        ({"tune": "lora", "init": Path("x"), "precision": "bf16-pure"}, "bf16-pure has no effect with tune lora"),
        ({"validate_every": 0}, "validate_every is 0, must be at least 1"),
        ({"device": "gpu"}, "device is 'gpu', must be auto, cpu, cuda"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RUN, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.0}, r"optim\.lr is 0\.0, must be above 0"),
        ({"min_lr": 1.0}, r"optim\.min_lr is 1\.0, must be from 0 to optim\.lr"),
        ({"betas": (0.9, 1.0)}, r"optim\.betas"),
        ({"ema_decay": 1.0}, r"optim\.ema_decay is 1\.0, must be between 0 and 1, or None"),
        ({"clip_norm": 0.0}, r"optim\.clip_norm"),
        ({"vlm_lr": 0.0}, r"optim\.vlm_lr is 0\.0, must be above 0, or None"),
    ],
)
def test_an_optimiser_that_makes_no_sense_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": 1.0}, r"data\.held_out is 1\.0, must be from 0 to below 1"),
        ({"workers": 2, "preload": True}, r"data\.workers has no effect with data\.preload"),
        ({"root": Path("a"), "mix": ("b=1",)}, r"data\.root and data\.mix are both given"),
        ({"mix": ("b",)}, r"data\.mix has 'b', must be FOLDER=WEIGHT"),
        ({"mix": ("b=-1",)}, r"data\.mix has 'b=-1'"),
        ({"mix": ("b=1", "b=2")}, r"data\.mix names a folder twice"),
    ],
)
def test_data_that_make_no_sense_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**changes)


def test_the_weights_of_a_mix_add_up_to_one() -> None:
    assert DataConfig(mix=("a=1", "dir/b=3")).sources() == [(Path("a"), 0.25), (Path("dir/b"), 0.75)]
    assert DataConfig(root=Path("a")).sources() == [(Path("a"), 1.0)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ("q_pro",)}, "lora.targets has 'q_pro', did you mean 'q_proj'"),
        ({"rank": 0}, r"lora\.rank is 0, must be at least 1"),
        ({"vision": False, "vlm": False, "action": False}, "lora adapts nothing"),
    ],
)
def test_adapters_that_make_no_sense_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoraConfig(**changes)


def test_what_is_repeated_here_to_keep_torch_out_is_the_same_there() -> None:
    assert get_args(module.TimeDistribution) == get_args(flow.TimeDistribution)
    assert get_args(module.Normalization) == get_args(normalize.Normalization)
    assert get_args(module.PromptFormat) == get_args(prompt.PromptFormat)
    assert get_args(module.Resize) == get_args(images.Resize)
    assert RUN.sigma_min == flow.SIGMA_MIN


def test_configs_and_presets_import_neither_torch_nor_numpy() -> None:
    code = "import sys, pizero.train.preset; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
