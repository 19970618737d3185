"""Against the network that `tune.prepare` makes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pizero.model.config import Pi0Config
from pizero.model.pi0 import Pi0
from pizero.model.summary import summarise
from pizero.train import tune
from pizero.train.config import LoraConfig, TrainConfig
from pizero.train.sizes import NF4_BYTES, linears, rests, sizes


@pytest.mark.parametrize("conditioning", ["input", "adarms", "adaln", "adaln-zero"])
@pytest.mark.parametrize("state_token", [True, False])
@pytest.mark.parametrize("vision", [{}, {"stem": "convolutions", "patch_size": 4}])
def test_all_weights_are_counted(
    tiny_config: Pi0Config, conditioning: str, state_token: bool, vision: dict[str, Any]
) -> None:
    config = replace(tiny_config, time_conditioning=conditioning, state_token=state_token)  # type: ignore[arg-type]
    config = replace(config, vision=replace(config.vision, **vision))
    found = {part.name: 0 for part in summarise(config)}
    for weights in (*linears(config), *rests(config)):
        found[weights.part] += weights.numbers
    assert found == {part.name: part.num_parameters for part in summarise(config)}


def test_the_released_model_has_3_2_billion() -> None:
    config = TrainConfig(name="x", output=Path("x"))
    counted = sizes(config)
    assert counted.trained + counted.frozen == sum(part.num_parameters for part in summarise(config.model))
    assert counted.trained + counted.frozen == pytest.approx(3.238e9, rel=1e-3)


@pytest.mark.parametrize(
    ("kind", "precision"),
    [(kind, precision) for kind in ("full", "expert", "lora") for precision in ("fp32", "bf16", "bf16-pure")][:-1],
)
def test_a_run_keeps_what_prepare_keeps(tiny_config: Pi0Config, kind: str, precision: str) -> None:
    lora = LoraConfig(rank=3, targets=("q_proj", "v_proj", "down_proj")) if kind == "lora" else LoraConfig()
    config = TrainConfig(
        name="x",
        output=Path("x"),
        model=tiny_config,
        tune=kind,
        init=Path("y"),
        precision=precision,
        lora=lora,  # type: ignore[arg-type]
    )
    model = Pi0(config.model)
    trained = tune.prepare(model, config)
    found: dict[tuple[bool, torch.dtype], int] = {}
    for name, parameter in model.named_parameters():
        key = name in trained, parameter.dtype
        found[key] = found.get(key, 0) + parameter.numel()
    counted = sizes(config)
    assert counted.trained_float32 == found.get((True, torch.float32), 0)
    assert counted.trained_bfloat16 == found.get((True, torch.bfloat16), 0)
    assert counted.frozen_float32 == found.get((False, torch.float32), 0)
    assert counted.frozen_bfloat16 == found.get((False, torch.bfloat16), 0)
    assert counted.frozen_nf4 == 0


def test_qlora_packs_all_matrices_of_the_adapted_parts() -> None:
    config = TrainConfig(
        name="x", output=Path("x"), tune="qlora", init=Path("y"), lora=LoraConfig(vision=True, action=False)
    )
    packed = dict.fromkeys(("vision", "vlm", "action"), 0)
    for linear in linears(config.model):
        packed[linear.part] += linear.numbers
    assert sizes(config).frozen_nf4 == packed["vision"] + packed["vlm"]
    assert pytest.approx(4.127, abs=1e-3) == 8 * NF4_BYTES
