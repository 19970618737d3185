import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from pizero.model.config import Pi0Config
from pizero.model.lora import Adapted
from pizero.model.norm import RMSNorm
from pizero.model.pi0 import Pi0
from pizero.train.config import LoraConfig, TrainConfig
from pizero.train.tune import (
    adapted_layers,
    adapter_config,
    check_tune,
    prepare,
    seed_dropout,
    trained_parameters,
    unused_parameters,
    vlm_parameters,
)
from pizero.types import Actions, Observation

SMALL = LoraConfig(rank=3, alpha=6.0, vision=True)
FLOAT, HALF = torch.float32, torch.bfloat16


@pytest.fixture
def init(tmp_path: Path) -> Path:
    """All that `prepare` looks at of a checkpoint."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"format": "pizero"}))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def start(tiny_config: Pi0Config, init: Path, randomise: Callable[..., None]) -> Callable[..., tuple[Pi0, TrainConfig]]:
    def build(tune: str, precision: str = "fp32", **changes: object) -> tuple[Pi0, TrainConfig]:
        model = Pi0(tiny_config)
        randomise(model)
        lora = {"lora": SMALL} if tune in ("lora", "qlora") else {}
        config = TrainConfig(
            "test", init.parent / "run", model=tiny_config, tune=tune, precision=precision, init=init, **lora | changes
        )
        return model, config

    return build


def loss(model: Pi0, observation: Observation) -> torch.Tensor:
    config, generator = model.config, torch.Generator().manual_seed(3)
    values = torch.randn(3, config.horizon, config.action_dim, generator=generator)
    noise = torch.randn(values.shape, generator=generator)
    mask = torch.ones_like(values, dtype=torch.bool)
    return model.loss(observation, Actions(values, mask), torch.tensor([0.2, 0.5, 0.8]), noise)


def draw_adapters(model: Pi0) -> None:
    """With fresh adapters, A gets no gradient."""
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter, 0, 0.3, generator=torch.Generator().manual_seed(len(name)))


def test_exactly_the_unused_parameters_get_no_gradient(
    tiny_config: Pi0Config, randomise: Callable[..., None], ragged: Observation
) -> None:
    model = Pi0(tiny_config)
    randomise(model)
    loss(model, ragged).backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == unused_parameters(tiny_config)
    assert all(p.grad.any() for name, p in model.named_parameters() if name not in without)


@pytest.mark.parametrize("tune", ["full", "expert", "lora", "qlora"])
def test_exactly_what_is_trained_gets_gradients(
    start: Callable[..., tuple[Pi0, TrainConfig]], ragged: Observation, tune: str
) -> None:
    if tune == "qlora":
        pytest.importorskip("bitsandbytes")
    model, config = start(tune)
    trained = prepare(model, config)
    draw_adapters(model)
    loss(model, ragged).backward()
    names = {
        name for name, parameter in model.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }
    assert names == set(trained)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == names
    assert list(trained) == [name for name, _ in model.named_parameters() if name in names]  # in the model's order
    assert all(trained[name] is parameter for name, parameter in model.named_parameters() if name in trained)


def test_full_trains_all_that_is_used(start: Callable[..., tuple[Pi0, TrainConfig]]) -> None:
    model, config = start("full")
    names = {name for name, _ in model.named_parameters()}
    assert set(prepare(model, config)) == names - unused_parameters(model.config)


def test_expert_trains_the_action_expert_and_the_heads(start: Callable[..., tuple[Pi0, TrainConfig]]) -> None:
    model, config = start("expert")
    trained = prepare(model, config)
    assert trained.keys() == {name for name, _ in model.named_parameters() if name.startswith(("action.", "heads."))}
    assert trained.keys() == trained_parameters(model, "expert").keys()


def test_lora_trains_both_factors_of_every_used_linear_layer_and_the_heads(
    start: Callable[..., tuple[Pi0, TrainConfig]],
) -> None:
    model, config = start("lora")
    plain = [
        n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.startswith(("vision", "vlm", "action"))
    ]
    heads = {name for name, _ in model.named_parameters() if name.startswith("heads.")}
    trained = prepare(model, config)
    unused = {name.removesuffix(".weight") for name in unused_parameters(model.config)}
    adapted = [name for name in plain if name not in unused]
    assert len(plain) - len(adapted) == 5
    assert trained.keys() == heads | {f"{name}.lora_{x}.weight" for name in adapted for x in "AB"}
    assert [name for name, module in model.named_modules() if isinstance(module, Adapted)] == adapted
    layer = model.get_submodule("vlm.layers.0.mlp.up_proj")
    assert isinstance(layer, Adapted)
    assert (layer.scale, layer.lora_A.weight.shape) == (2.0, (3, 32))


@pytest.mark.parametrize("part", ["vision", "vlm", "action"])
def test_each_part_can_do_without_adapters(start: Callable[..., tuple[Pi0, TrainConfig]], part: str) -> None:
    model, config = start("lora", lora=replace(SMALL, **{part: False}))
    adapters = [name for name in prepare(model, config) if ".lora_" in name]
    assert {name.partition(".")[0] for name in adapters} == {"vision", "vlm", "action"} - {part}


def test_targets_are_last_names(start: Callable[..., tuple[Pi0, TrainConfig]]) -> None:
    model, _ = start("full")
    names = adapted_layers(model, LoraConfig(targets=("fc2", "o_proj"), vision=True))
    assert names == [
        *(f"vision.layers.{i}.fc2" for i in (0, 1)),
        "vlm.layers.0.self_attn.o_proj",  # that of the last layer changes nothing
        *(f"action.layers.{i}.self_attn.o_proj" for i in (0, 1)),
    ]


def test_targets_that_no_chosen_part_has_are_refused(start: Callable[..., tuple[Pi0, TrainConfig]]) -> None:
    model, config = start("lora", lora=LoraConfig(targets=("fc1",)))
    with pytest.raises(ValueError, match=r"lora.targets \('fc1',\) names no layer of vlm., action.; choose among"):
        prepare(model, config)


@pytest.mark.parametrize(
    ("tune", "precision", "vlm", "action", "adapter"),
    [
        ("full", "fp32", FLOAT, FLOAT, None),
        ("full", "bf16", FLOAT, FLOAT, None),
        ("full", "bf16-pure", HALF, HALF, None),
        ("expert", "fp32", FLOAT, FLOAT, None),
        ("expert", "bf16", HALF, FLOAT, None),
        ("expert", "bf16-pure", HALF, HALF, None),
        ("lora", "fp32", FLOAT, FLOAT, FLOAT),
        ("lora", "bf16", HALF, HALF, FLOAT),
        ("qlora", "fp32", torch.uint8, torch.uint8, FLOAT),
        ("qlora", "bf16", torch.uint8, torch.uint8, FLOAT),
    ],
)
def test_weights_are_kept_in_the_type_that_the_precision_asks_for(
    start: Callable[..., tuple[Pi0, TrainConfig]],
    tune: str,
    precision: str,
    vlm: torch.dtype,
    action: torch.dtype,
    adapter: torch.dtype | None,
) -> None:
    if tune == "qlora":
        pytest.importorskip("bitsandbytes")
    model, config = start(tune, precision)
    prepare(model, config)
    types = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert types["vlm.layers.0.mlp.up_proj.weight"] is vlm
    assert types["vlm.layers.0.self_attn.k_proj.weight"] is vlm
    assert types["vision.layers.0.fc1.weight"] is vlm
    assert types["embed_tokens.weight"] is (FLOAT if FLOAT in (vlm,) or precision == "fp32" else HALF)
    assert types["action.layers.0.self_attn.o_proj.weight"] is action
    assert types.get("action.layers.0.self_attn.o_proj.lora_A.weight") is adapter
    assert types["vlm.layers.1.mlp.up_proj.weight"] is not (FLOAT if precision != "fp32" else HALF)  # unused
    norms = [n for n, m in model.named_modules() if isinstance(m, RMSNorm | nn.LayerNorm)]
    exact = [name for name in types if name.startswith("heads.") or name.rpartition(".")[0] in norms]
    assert {types[name] for name in exact} == {FLOAT}


@pytest.mark.parametrize(
    ("tune", "precision"),
    [("full", "bf16"), ("full", "bf16-pure"), ("expert", "bf16-pure"), ("lora", "bf16"), ("qlora", "bf16")],
)
def test_the_loss_in_bfloat16_is_near_that_in_float32(
    start: Callable[..., tuple[Pi0, TrainConfig]], ragged: Observation, tune: str, precision: str
) -> None:
    if tune == "qlora":
        pytest.importorskip("bitsandbytes")
    losses = []
    for kind in ("fp32", precision):
        model, config = start(tune, kind)
        trained = prepare(model, config)
        draw_adapters(model)
        with torch.autocast("cpu", torch.bfloat16, enabled=kind != "fp32"):
            value = loss(model, ragged)
        value.backward()
        losses.append(value.item())
        assert all(parameter.grad is not None for parameter in trained.values())
        assert all(parameter.grad.dtype is parameter.dtype for parameter in trained.values())
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_adaptive_norms_are_frozen_in_bfloat16_with_the_rest(
    tiny_config: Pi0Config,
    start: Callable[..., tuple[Pi0, TrainConfig]],
    randomise: Callable[..., None],
    ragged: Observation,
) -> None:
    model = Pi0(replace(tiny_config, time_conditioning="adarms"))  # their linear layers are a third of the expert
    randomise(model)
    expected = loss(model, ragged).item()
    trained = prepare(model, replace(start("lora", "bf16")[1], model=model.config))
    dense = model.get_parameter("action.layers.0.input_layernorm.dense.weight")
    assert dense.dtype is HALF
    assert not any("norm" in name for name in trained)
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(model, ragged).item() == pytest.approx(expected, rel=0.05)


def test_adapters_follow_the_seed_alone(start: Callable[..., tuple[Pi0, TrainConfig]]) -> None:
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed + len(drawn))  # has no say
        model, config = start("lora", seed=seed)
        drawn.append(torch.cat([p.flatten() for name, p in prepare(model, config).items() if ".lora_A." in name]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_dropout_depends_on_seed_step_and_row_alone(start: Callable[..., tuple[Pi0, TrainConfig]]) -> None:
    _, config = start("lora", lora=replace(SMALL, dropout=0.1))

    def draw(config: TrainConfig, step: int, row: int) -> float:
        seed_dropout(config, step, row)
        return torch.rand(()).item()

    assert draw(config, 3, 8) == draw(config, 3, 8)
    others = [draw(config, 4, 8), draw(config, 3, 0), draw(replace(config, seed=1), 3, 8)]
    assert len({draw(config, 3, 8), *others}) == 4
    before = torch.get_rng_state()
    seed_dropout(replace(config, lora=SMALL), 3, 8)  # no dropout: nothing to seed
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("tune", ["lora", "qlora"])
def test_adapters_need_a_checkpoint_of_ours_to_belong_to(
    start: Callable[..., tuple[Pi0, TrainConfig]], init: Path, tune: str
) -> None:
    _, config = start(tune)
    (init / "config.json").write_text(json.dumps({"model_type": "paligemma"}))
    with pytest.raises(ValueError, match=r"init, .*base, is no checkpoint of ours; make one with `pizero import"):
        check_tune(config)


def test_adapters_on_adapters_are_refused(start: Callable[..., tuple[Pi0, TrainConfig]], init: Path) -> None:
    _, config = start("lora")
    (init / "model.safetensors").rename(init / "adapter_model.safetensors")
    (init / "adapter_config.json").write_text(json.dumps({"pizero_base_sha256": "0"}))
    with pytest.raises(ValueError, match=r"holds adapters itself; make a checkpoint of it with `pizero merge"):
        check_tune(config)


def test_the_parameters_of_the_vlm_are_told_by_name(start: Callable[..., tuple[Pi0, TrainConfig]]) -> None:
    model, config = start("lora", lora=replace(SMALL, vision=False))
    trained = prepare(model, config)
    vlm = vlm_parameters(trained)
    assert vlm == {name for name in trained if name.startswith("vlm.") and ".lora_" in name} != set()
    full = {name.partition(".")[0] for name in vlm_parameters(trained_parameters(start("full")[0]))}
    assert full == {"vision", "projector", "embed_tokens", "vlm"}


@pytest.mark.parametrize("tune", ["full", "lora", "qlora"])
def test_what_is_saved_of_adapters_names_their_layers_and_the_hash_of_their_base(
    start: Callable[..., tuple[Pi0, TrainConfig]], init: Path, tune: str
) -> None:
    if tune == "qlora":
        pytest.importorskip("bitsandbytes")
    model, config = start(tune)
    names = adapted_layers(model, SMALL)
    packed = [
        n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.startswith(("vision", "vlm", "action"))
    ]
    prepare(model, config)
    saved = adapter_config(model, config)
    if tune == "full":
        assert saved is None
        return
    assert saved is not None
    assert saved.base_sha256 == hashlib.sha256(b"weights").hexdigest()
    assert saved.base == init.resolve()
    assert (saved.rank, saved.alpha, saved.dropout, list(saved.modules)) == (3, 6.0, 0.0, names)
    assert list(saved.nf4_modules) == (packed if tune == "qlora" else [])
