import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pizero.data.prompt import Tokenizer, train_tokenizer
from pizero.data.stats import DatasetStats, Stats
from pizero.data.transform import Transform, TransformConfig
from pizero.embodiment import Embodiment
from pizero.frame import Frame
from pizero.model.config import Pi0Config
from pizero.model.pi0 import Pi0
from pizero.model.summary import summarise
from pizero.weights.checkpoint import (
    check_embodiment,
    is_checkpoint,
    load_checkpoint,
    load_configs,
    save_checkpoint,
    save_tensors,
)

ROBOT = Embodiment(
    name="arm",
    cameras=("front", "wrist"),
    state=("x", "y", "gripper"),
    actions=("dx", "dy"),
    control_rate_hz=10.0,
    action_low=(-1.0, -2.0),
    action_high=(1.0, 2.0),
)


@pytest.fixture(scope="module")
def config(tiny_config: Pi0Config) -> Pi0Config:
    return replace(tiny_config, vocab_size=300)  # a tokenizer needs its 260 special and byte tokens


@pytest.fixture(scope="module")
def transform(config: Pi0Config) -> Transform:
    rng = np.random.default_rng(0)
    stats = DatasetStats(Stats.of(rng.normal(size=(50, 3))), Stats.of(rng.normal(size=(50, 2))))
    sizes = TransformConfig(
        ROBOT,
        image_size=config.vision.image_size,
        prompt_length=12,
        state_dim=config.state_dim,
        action_dim=config.action_dim,
        horizon=config.horizon,
    )
    return Transform(sizes, stats, Tokenizer(train_tokenizer(["open it", "close it"], 300)))


@pytest.fixture(scope="module")
def model(config: Pi0Config, randomise: Callable[..., None]) -> Pi0:
    model = Pi0(config)
    randomise(model)
    return model


@pytest.fixture
def folder(tmp_path: Path, model: Pi0, config: Pi0Config, transform: Transform) -> Path:
    path = tmp_path / "run" / "step-000007"
    save_checkpoint(path, partial(save_tensors, tensors=model.state_dict()), config, transform)
    return path


def edit_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_a_checkpoint_alone_gives_the_same_actions_as_what_was_saved(
    folder: Path, model: Pi0, transform: Transform, tmp_path: Path
) -> None:
    moved = folder.rename(tmp_path / "elsewhere")
    loaded = load_checkpoint(moved)
    rng = np.random.default_rng(1)
    images = {camera: rng.integers(0, 256, (20, 30, 3), dtype=np.uint8) for camera in ROBOT.cameras}
    frame = Frame(images, rng.normal(size=3).astype(np.float32), "open it")
    noise = torch.randn(1, 3, 5, generator=torch.Generator().manual_seed(2))

    def act(network: Pi0, units: Transform) -> np.ndarray:
        actions = network.sample(units.observation([frame]), noise=noise, action_mask=units.action_mask)
        return units.invert_actions(actions, frame.state[None])

    assert np.array_equal(act(loaded.model, loaded.transform), act(model, transform))
    assert loaded.transform.config == transform.config
    assert loaded.model.config == model.config
    assert not loaded.model.training


def test_weights_lie_where_torch_would_put_them(folder: Path) -> None:
    """Otherwise the last bits of a product differ from those of the model that was saved."""
    addresses = [parameter.data_ptr() for parameter in load_checkpoint(folder).model.parameters()]
    assert len(addresses) > 20
    assert all(address % 64 == 0 for address in addresses)


def test_weights_come_in_the_dtype_that_is_asked_for(folder: Path, model: Pi0) -> None:
    loaded = load_checkpoint(folder, dtype=torch.bfloat16)
    rounded = {name.split(".")[0]: p.dtype for name, p in loaded.model.named_parameters()}
    assert rounded.pop("heads") == torch.float32
    assert set(rounded.values()) == {torch.bfloat16}
    assert torch.equal(loaded.model.embed_tokens.weight, model.embed_tokens.weight.to(torch.bfloat16))


def test_nothing_has_the_name_of_a_checkpoint_before_it_is_complete(
    tmp_path: Path, model: Pi0, config: Pi0Config, transform: Transform
) -> None:
    path = tmp_path / "step-000001"

    def die(aside: Path) -> None:
        assert sorted(file.name for file in aside.iterdir()) == [
            "config.json",
            "model.safetensors",
            "stats.json",
            "tokenizer.model",
        ]
        assert not path.exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, partial(save_tensors, tensors=model.state_dict()), config, transform, die)
    assert not any(tmp_path.iterdir())
    (tmp_path / "step-000001.part").mkdir()  # left by a run that was killed
    save_checkpoint(
        path, partial(save_tensors, tensors=model.state_dict()), config, transform
    )  # over what was left aside
    assert load_checkpoint(path)
    assert [file.name for file in tmp_path.iterdir()] == ["step-000001"]


def test_a_checkpoint_is_never_overwritten(folder: Path, model: Pi0, config: Pi0Config, transform: Transform) -> None:
    with pytest.raises(ValueError, match=r"step-000007 exists already; remove it or choose another folder"):
        save_checkpoint(folder, partial(save_tensors, tensors=model.state_dict()), config, transform)


def test_missing_unexpected_and_mis_shaped_keys_are_named(folder: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["vlm.norm.extra"] = tensors.pop("vlm.norm.weight")
        tensors["heads.state_proj.bias"] = torch.zeros(3)

    edit_weights(folder, spoil)
    with pytest.raises(ValueError) as error:
        load_checkpoint(folder)
    text = str(error.value)
    assert "missing: vlm.norm.weight" in text
    assert "unexpected: vlm.norm.extra" in text
    assert "mis-shaped: heads.state_proj.bias is (3,), expected (24,)" in text
    assert "copy the checkpoint again" in text
    assert "\n" not in text


def test_no_more_than_twenty_keys_are_named(folder: Path) -> None:
    edit_weights(folder, lambda tensors: [tensors.pop(key) for key in sorted(tensors)[:33]])
    with pytest.raises(ValueError) as error:
        load_checkpoint(folder)
    assert str(error.value).count("missing: ") == 20
    assert "; and 13 more" in str(error.value)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: (p / "stats.json").unlink(), r"stats\.json does not exist"),
        (lambda p: (p / "tokenizer.model").unlink(), r"tokenizer\.model does not exist"),
        (lambda p: (p / "model.safetensors").unlink(), r"model\.safetensors does not exist; copy the whole"),
        (lambda p: (p / "config.json").unlink(), r"has no config\.json; give a checkpoint folder"),
        (lambda p: (p / "config.json").write_text('{"format": "piz'), r"config\.json is truncated or not JSON"),
        (lambda p: (p / "stats.json").write_text("{"), r"stats\.json does not hold statistics"),
        (lambda p: (p / "tokenizer.model").write_bytes(b"x"), r"tokenizer\.model is not a sentencepiece model"),
        (
            lambda p: (p / "model.safetensors").write_bytes((p / "model.safetensors").read_bytes()[:-1000]),
            r"model\.safetensors is truncated or no safetensors file .*copy the checkpoint again",
        ),
        (
            lambda p: edit_json(p / "config.json", version=1),
            "is a checkpoint of version 1, this pizero reads version 2",
        ),
        (
            lambda p: edit_json(p / "config.json", format="x"),
            "not that of a pizero checkpoint; .*`pizero import SRC DST`",
        ),
        (
            lambda p: (p / "config.json").write_text('{"model_type": "paligemma"}'),
            "it is a PaliGemma, which a run can start from: pizero train PRESET --init",
        ),
        (lambda p: edit_json(p / "config.json", more=1), "more is missing or unknown"),
        (lambda p: edit_json(p / "config.json", model={}), "config.json, model: vision is missing"),
        (lambda p: edit_json(p / "config.json", transform={}), "transform: missing"),
    ],
)
def test_each_thing_that_can_be_wrong_has_a_line_of_its_own(
    folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(folder)
    with pytest.raises(ValueError, match=message) as error:
        load_checkpoint(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_model_and_transform_must_belong_together(folder: Path) -> None:
    saved = json.loads((folder / "config.json").read_text())
    edit_json(folder / "config.json", transform={**saved["transform"], "horizon": 9})
    with pytest.raises(ValueError, match="horizon is 9 in the transform and 3 in the model"):
        load_configs(folder)


def test_the_folder_of_a_run_is_answered_with_the_checkpoints_in_it(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run has no config\.json; give one of the checkpoints in it: step-000007"):
        load_checkpoint(folder.parent)
    with pytest.raises(ValueError, match="nowhere is no folder"):
        load_checkpoint(tmp_path / "nowhere")


def test_a_folder_is_known_by_its_config(folder: Path, tmp_path: Path) -> None:
    assert is_checkpoint(folder)
    assert not is_checkpoint(tmp_path)


def test_another_robot_is_refused_by_what_differs() -> None:
    check_embodiment(ROBOT, replace(ROBOT))
    with pytest.raises(ValueError, match=r"for another robot: control_rate_hz: 10\.0 against 5\.0"):
        check_embodiment(ROBOT, replace(ROBOT, control_rate_hz=5.0))


def test_the_parts_of_the_summary_are_the_whole_model(config: Pi0Config, model: Pi0) -> None:
    parts = summarise(config)
    assert sum(part.num_parameters for part in parts) == sum(p.numel() for p in model.parameters())
    assert {part.name: part.float32_bytes for part in parts}["embed_tokens"] == 4 * 300 * 32


def test_the_released_model_has_3_3_billion_parameters() -> None:
    assert round(sum(part.num_parameters for part in summarise(Pi0Config())) / 1e8) in (32, 33)
