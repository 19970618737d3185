"""Memory and time against numbers worked out by hand for the released sizes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pizero.command.train import main
from pizero.model.config import Pi0Config, SiglipConfig, Stem
from pizero.model.siglip import patch_embedding
from pizero.train.config import LoraConfig, OptimConfig, TrainConfig
from pizero.train.flops import CARDS, Card
from pizero.train.predict import (
    ACTIVATION_COMPILED,
    ADAPTER_SLOWDOWN,
    EFFICIENCY_COMPILED,
    LAUNCH_SECONDS_ADAPTERS,
    RESERVE_BYTES,
    WORKSPACE_BYTES,
    Shape,
    activation_bytes,
    fits,
    observation_shape,
    predict_memory,
    predict_seconds,
    stem_numbers,
)
from pizero.train.preset import pi0
from pizero.train.recipes import RECIPES, first_fit, flags, pieces_of

FULL = TrainConfig(name="x", output=Path("x"), batch_size=16, optim=OptimConfig(ema_decay=None))
BASED = replace(FULL, init=Path("y"))
A, C = Shape(1, 20), Shape(3, 48)
SHORT = Pi0Config(horizon=4)
STEMS: tuple[Stem, Stem] = ("convolutions", "patches")
TRAINED, FROZEN = 3_128_992_528, 109_056_000
"""Numbers of the released model; frozen is what nothing depends on."""
CARD = {card.name: card for card in CARDS}


def test_a_full_fine_tune_has_sixteen_bytes_a_weight() -> None:
    memory = predict_memory(FULL, C)
    assert memory.trained == memory.gradients == 4 * TRAINED
    assert memory.frozen == 2 * (FROZEN - 4096) + 4 * 4096  # of which two norms are float32
    assert memory.optimizer == 8 * TRAINED
    assert memory.average == 0
    assert predict_memory(replace(FULL, optim=OptimConfig()), C).average == 4 * TRAINED


def test_recipes_save_what_they_say() -> None:
    eight = predict_memory(replace(FULL, optim=OptimConfig(kind="adamw8bit")), C)
    assert eight.optimizer == pytest.approx(TRAINED * (2 + 8 / 256))
    pure = predict_memory(replace(FULL, precision="bf16-pure"), C)
    assert pure.trained == pytest.approx(2 * TRAINED, rel=2e-3)  # heads and norms are float32
    assert pure.gradients == pure.trained
    adapters = predict_memory(replace(BASED, tune="lora"), C)
    assert adapters.frozen == pytest.approx(2 * (TRAINED + FROZEN), rel=2e-3)
    assert adapters.trained < 0.3e9
    packed = predict_memory(replace(BASED, tune="qlora", lora=LoraConfig(vision=True)), C)
    assert packed.frozen == pytest.approx(0.516 * 2.70e9 + 2 * 0.53e9, rel=0.02)
    exact = predict_memory(replace(FULL, precision="fp32"), C)
    assert exact.activations == 2 * predict_memory(FULL, C).activations
    assert exact.trained == 4 * TRAINED


@pytest.mark.parametrize(
    ("setup", "gigabytes"), [((SHORT, A), 0.775), ((Pi0Config(), Shape(2, 48)), 1.60), ((Pi0Config(), C), 2.33)]
)
def test_activations_are_those_of_the_roofline(setup: tuple[Pi0Config, Shape], gigabytes: float) -> None:
    config = replace(FULL, model=setup[0])
    one = activation_bytes(config, setup[1], 1)
    assert one / ACTIVATION_COMPILED / 1e9 == pytest.approx(gigabytes, abs=0.006)
    assert activation_bytes(config, setup[1], 7) == pytest.approx(7 * one)


def test_only_what_gradients_go_through_keeps_activations() -> None:
    full = activation_bytes(FULL, C, 1)
    expert = activation_bytes(replace(BASED, tune="expert"), C, 1)
    no_vision = activation_bytes(replace(BASED, tune="lora", lora=LoraConfig()), C, 1)
    factor = 2 * ACTIVATION_COMPILED
    assert expert == pytest.approx(factor * 51 * 18 * (2 * 1024 + 2560 + 2048 + 3 * 4096))
    assert full - no_vision == pytest.approx(factor * 768 * 27 * (7 * 1152 + 2 * 4304))
    assert no_vision > 10 * expert


def test_recomputing_keeps_the_inputs_of_layers_and_one_layer() -> None:
    found = activation_bytes(replace(FULL, recompute=True), C, 1)
    inputs = 768 * 27 * 1152 + 816 * 17 * 2048 + 51 * 18 * 1024
    assert found == 2 * (inputs + 18 * 816 * 512 + 816 * (2 * 2048 + 2560 + 2048 + 3 * 16384))


def test_a_stem_of_convolutions_keeps_what_autograd_keeps_of_it() -> None:
    vision = SiglipConfig(width=32, depth=2, mlp_dim=8, num_heads=2, image_size=32, patch_size=8, stem="convolutions")
    stem, kept = patch_embedding(vision), {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        stem(torch.randn(1, 3, 32, 32))
    weights = {parameter.data_ptr() for parameter in stem.parameters()}
    statistics = 3 * 2  # mean and deviation of each norm's picture
    numbers = sum(tensor.numel() for place, tensor in kept.items() if place not in weights) - statistics
    assert stem_numbers(vision) == numbers
    assert stem_numbers(SiglipConfig()) == 0
    kinds = [replace(FULL, model=Pi0Config(vision=replace(vision, stem=stem))) for stem in STEMS]
    for recompute in (False, True):  # which does not compute the stem again
        with_it, without = (activation_bytes(replace(kind, recompute=recompute), C, 5) for kind in kinds)
        assert with_it - without == pytest.approx(ACTIVATION_COMPILED * 2 * 5 * 3 * numbers)
    assert len({activation_bytes(replace(kind, tune="expert", init=Path("y")), C, 5) for kind in kinds}) == 1


def test_gradients_come_as_activations_go() -> None:
    whole = predict_memory(FULL, C)
    standing = whole.trained + whole.frozen + whole.optimizer + WORKSPACE_BYTES
    assert whole.peak == standing + max(whole.activations, whole.gradients)
    pieces = predict_memory(replace(FULL, accumulate=4), C)
    assert pieces.activations == whole.activations / 4
    assert pieces.peak == standing + pieces.activations + pieces.gradients


def test_processes_share_the_batch_and_with_fsdp_the_weights() -> None:
    one = predict_memory(FULL, C)
    ddp = predict_memory(FULL, C, devices=4)
    fsdp = predict_memory(replace(FULL, parallel="fsdp"), C, devices=4)
    assert ddp.activations == fsdp.activations == one.activations / 4
    assert (ddp.trained, ddp.optimizer) == (one.trained, one.optimizer)
    assert (4 * fsdp.trained, 4 * fsdp.optimizer, 4 * fsdp.gradients) == (one.trained, one.optimizer, one.gradients)
    assert fsdp.copies > ddp.copies == 0  # whole layers at work
    assert predict_memory(replace(FULL, parallel="fsdp"), C) == one


def test_time_is_arithmetic_at_the_assumed_efficiency_and_the_optimiser() -> None:
    card = CARD["H200 141 GB"]
    arithmetic = 16 * 11.544e12 / (EFFICIENCY_COMPILED * 790e12)
    moved = (2 * 12 + 3 * 4) * TRAINED / 4.3e12
    assert predict_seconds(FULL, C, card) == pytest.approx(arithmetic + moved, rel=1e-4)
    again = predict_seconds(replace(FULL, recompute=True), C, card)
    assert again == pytest.approx(4 / 3 * arithmetic + moved, rel=1e-4)
    adapters = predict_seconds(replace(BASED, tune="lora", lora=LoraConfig(vision=True), batch_size=64), C, card)
    assert adapters == pytest.approx(4 * 2 / 3 * arithmetic * ADAPTER_SLOWDOWN, rel=0.02)
    few = predict_seconds(replace(BASED, tune="lora", batch_size=1), C, card)
    assert few == pytest.approx(63 * LAUNCH_SECONDS_ADAPTERS, rel=0.01)
    half = predict_seconds(FULL, C, card, devices=2)
    assert half == pytest.approx(arithmetic / 2 + moved, rel=1e-4)
    assert predict_seconds(replace(FULL, precision="fp32"), C, card) is None


def test_each_card_gets_the_first_recipe_that_it_has_room_for() -> None:
    for card in CARDS:
        fit = first_fit(FULL, C, card)
        assert fit is not None
        assert fit.memory.peak + RESERVE_BYTES <= card.memory_bytes
        for recipe in RECIPES[: RECIPES.index(fit.recipe)]:
            for pieces in pieces_of(FULL):
                assert not fits(predict_memory(replace(recipe.apply(FULL), accumulate=pieces), C), card)
        fewer = [pieces for pieces in pieces_of(FULL) if pieces < fit.config.accumulate]
        for pieces in fewer:
            assert not fits(predict_memory(replace(fit.config, accumulate=pieces), C), card)
    names = [fit.recipe.name for card in CARDS if (fit := first_fit(FULL, C, card)) is not None]
    assert names[:2] == ["LoRA", "full in bf16, 8-bit AdamW"]
    assert names[-1] == "full"
    assert first_fit(FULL, C, Card("small", (), 2e9, 1e12, 1e12)) is None


def test_a_batch_can_be_cut_into_equal_pieces() -> None:
    assert pieces_of(replace(FULL, batch_size=12)) == [1, 2, 3, 4, 6, 12]


def test_flags_are_what_a_recipe_changes() -> None:
    qlora = replace(RECIPES[8].apply(replace(FULL, parallel="fsdp")), accumulate=8)
    assert flags(qlora, replace(FULL, parallel="fsdp")) == (
        "--tune qlora --init CHECKPOINT --accumulate 8 --parallel ddp --recompute"
    )
    given = replace(BASED, tune="lora", lora=LoraConfig(rank=8), recompute=True)
    assert RECIPES[5].apply(given).lora.rank == 8
    assert flags(RECIPES[1].apply(given), given) == "--tune full --optim.kind adamw8bit --no-recompute"


def test_views_are_counted_where_there_is_a_data_set(tmp_path: Path) -> None:
    config = pi0()
    assert observation_shape(config)[0] == Shape(3, 48)
    info = tmp_path / "meta" / "info.json"
    info.parent.mkdir()
    types = {"observation.images.a": "video", "observation.images.b": "image", "action": "float32"}
    info.write_text(json.dumps({"features": {name: {"dtype": dtype} for name, dtype in types.items()}}))
    given = replace(config, data=replace(config.data, root=tmp_path))
    assert observation_shape(given) == (Shape(2, 48), f"from {info}")
    info.write_text("{")
    with pytest.raises(ValueError, match=r"info\.json is damaged"):
        observation_shape(given)


def test_a_dry_run_prints_tables_and_json_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert main(["pi0", "--dry-run", "--optim.kind", "adamw8bit"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert not list(tmp_path.iterdir())
    found = json.loads(last)
    assert found["memory_bytes"]["1 device"]["trained"] == 4 * TRAINED
    assert set(found["memory_bytes"]) == {"1 device", "4 x ddp", "4 x fsdp"}
    assert set(found["fits"]) == set(CARD)
    assert any(line.startswith("trained weights") and "12.5" in line for line in lines)
    assert any(line.startswith("RTX 4090 24 GB") and "--tune lora" in line for line in lines)
    monkeypatch.setenv("RANK", "1")
    assert main(["pi0", "--dry-run"]) == 0
    assert not capsys.readouterr().out
