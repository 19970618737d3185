import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pizero.data.prompt import train_tokenizer
from pizero.data.stats import DatasetStats
from pizero.data.transform import Transform
from pizero.embodiment import Embodiment
from pizero.model.pi0 import Pi0
from pizero.train.config import DataConfig, TrainConfig
from pizero.train.log import Interval
from pizero.train.loop import train_step
from pizero.train.state import (
    TrainState,
    check_same_data,
    checkpoints,
    find_tokenizer,
    load_state,
    make_model,
    make_state,
    make_transform,
    save_state,
)
from pizero.types import Actions, Observation
from pizero.weights.checkpoint import load_checkpoint

CPU = torch.device("cpu")
CASE = Path(__file__).parents[2] / "parity" / "golden" / "lerobot_pi0_base" / "tokenizer"
Make = Callable[[TrainConfig], TrainState]
Batch = tuple[Observation, Actions]


@pytest.fixture
def trained(config: TrainConfig, make: Make, batch: Batch) -> TrainState:
    """After three steps, with sums of an interval that is not over."""
    state = make(config)
    for _ in range(3):
        train_step(state, *batch)
    state.seconds, state.interval = 12.5, Interval(1, 0.1, 0.2, 0.3, 0.4)
    return state


@pytest.fixture
def saved(trained: TrainState, transform: Transform) -> Path:
    return save_state(trained, transform)


@pytest.mark.parametrize("ema_decay", [0.9, None])
def test_a_saved_state_comes_back_bit_for_bit(
    config: TrainConfig, make: Make, batch: Batch, transform: Transform, ema_decay: float | None
) -> None:
    config = replace(config, optim=replace(config.optim, ema_decay=ema_decay))
    state = make(config)
    for _ in range(3):
        train_step(state, *batch)
    state.seconds, state.interval = 12.5, Interval(1, 0.1, 0.2, 0.3, 0.4)
    back, _ = load_state(config, save_state(state, transform), CPU)
    assert (back.step, back.seconds, back.interval) == (3, 12.5, state.interval)
    for name, parameter in state.model.named_parameters():
        assert torch.equal(parameter, back.model.get_parameter(name)), name
    for name, parameter in state.parameters.items():
        mine, theirs = state.optimizer.state[parameter], back.optimizer.state[back.parameters[name]]
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine), name
    if state.ema is not None:
        assert back.ema is not None
        assert all(torch.equal(average, back.ema.average[name]) for name, average in state.ema.average.items())
    for _ in range(2):
        assert train_step(state, *batch) == train_step(back, *batch)
    for name, parameter in state.model.named_parameters():
        assert torch.equal(parameter, back.model.get_parameter(name)), name


def test_a_policy_gets_the_average_and_training_the_weights(saved: Path, trained: TrainState) -> None:
    policy = load_checkpoint(saved).model
    assert trained.ema is not None
    for name, parameter in trained.parameters.items():
        assert torch.equal(policy.get_parameter(name), trained.ema.average[name]), name
        assert not torch.equal(policy.get_parameter(name), parameter), name


def test_a_policy_needs_no_train_state(saved: Path) -> None:
    shutil.rmtree(saved / "train_state")
    (saved / "train.json").unlink()
    assert load_checkpoint(saved)


def test_the_newest_are_kept_and_last_names_the_newest(trained: TrainState, transform: Transform) -> None:
    output = trained.config.output
    trained.config = replace(trained.config, keep=2)
    for step in (3, 999_998, 1_000_002):
        trained.step = step
        path = save_state(trained, transform)
        assert (output / "last").resolve() == path.resolve()
    assert [path.name for path in checkpoints(output)] == ["step-999998", "step-1000002"]
    assert sorted(path.name for path in output.iterdir()) == ["last", "step-1000002", "step-999998"]
    assert (output / "last").readlink() == Path("step-1000002")  # relative: the run's folder may move


def test_a_folder_that_is_not_complete_is_no_checkpoint(saved: Path) -> None:
    shutil.copytree(saved, saved.with_name("step-000009.part"))
    assert checkpoints(saved.parent) == [saved]


def test_a_config_that_changes_the_run_is_refused_by_field(config: TrainConfig, saved: Path) -> None:
    other = replace(config, seed=3, optim=replace(config.optim, lr=0.5), steps=40)
    with pytest.raises(ValueError) as error:
        load_state(other, saved, CPU)
    text = str(error.value)
    assert "optim.lr is 0.5 now and 0.01 there; seed is 3 now and 0 there" in text
    assert "steps" not in text
    assert f"--init {saved}" in text


def test_a_config_may_differ_in_what_does_not_change_the_run(config: TrainConfig, saved: Path, tmp_path: Path) -> None:
    data = replace(config.data, root=tmp_path / "moved", preload=True)
    load_state(
        replace(config, steps=40, save_every=3, keep=9, log_every=7, output=tmp_path, resume=True, data=data),
        saved,
        CPU,
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: (p / "train_state/optimizer.safetensors").unlink(), r"optimizer\.safetensors does not exist"),
        (lambda p: (p / "train_state/state.json").write_text('{"step": 3}'), r"state\.json: seconds is missing"),
        (lambda p: (p / "train.json").unlink(), r"train\.json does not exist; copy the whole folder"),
        (
            lambda p: save_file({"x": torch.zeros(1)}, p / "train_state/weights.safetensors"),
            r"weights\.safetensors does not hold the expected tensors: missing: vision",
        ),
    ],
)
def test_a_damaged_train_state_is_refused(
    config: TrainConfig, saved: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(saved)
    with pytest.raises(ValueError, match=message):
        load_state(config, saved, CPU)


def test_other_data_are_refused(saved: Path, transform: Transform, robot: Embodiment, stats: DatasetStats) -> None:
    check_same_data(transform, robot, stats, saved)
    with pytest.raises(ValueError, match=r"the data set has other statistics than that of .*step-000003"):
        check_same_data(transform, robot, replace(stats, state=replace(stats.state, count=51)), saved)
    with pytest.raises(ValueError, match=r"another robot .*: name: arm against leg"):
        check_same_data(transform, replace(robot, name="leg"), stats, saved)


def test_fresh_weights_come_from_the_seed(config: TrainConfig) -> None:
    first, again, other = (make_model(replace(config, seed=seed), CPU).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embed_tokens.weight"], other["embed_tokens.weight"])


def test_a_run_starts_from_the_weights_of_a_checkpoint(config: TrainConfig, saved: Path, trained: TrainState) -> None:
    longer = replace(config.model, horizon=9)  # which no weight depends on
    state = make_state(replace(config, init=saved, model=longer), CPU)
    policy = load_checkpoint(saved).model
    for name, parameter in state.model.named_parameters():
        assert torch.equal(parameter, policy.get_parameter(name)), name
    assert state.ema is not None
    assert torch.equal(state.ema.average["heads.state_proj.bias"], policy.get_parameter("heads.state_proj.bias"))
    assert (state.step, len(state.optimizer.state)) == (0, 0)


def test_a_checkpoint_of_other_sizes_is_refused_by_field(config: TrainConfig, saved: Path) -> None:
    other = replace(config.model, state_dim=8, action=replace(config.model.action, mlp_dim=9))
    with pytest.raises(ValueError) as error:
        make_state(replace(config, init=saved, model=other), CPU)
    assert "action.mlp_dim is 9 now and 28 there; state_dim is 8 now and 6 there" in str(error.value)


def test_init_must_be_a_folder(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"init: .*nowhere is no folder; give a checkpoint, or google/paligemma"):
        make_state(replace(config, init=tmp_path / "nowhere"), CPU)
    with pytest.raises(ValueError, match=r"init: .*nowhere is no folder"):
        find_tokenizer(replace(config, init=tmp_path / "nowhere"), ("open it",))


@pytest.fixture
def paligemma(tmp_path: Path, config: TrainConfig, randomise: Callable[..., None]) -> Path:
    """The vision tower, projector, embedding and vlm of a random model under the names that the hub has."""
    model = Pi0(config.model)
    randomise(model, seed=9)
    tensors = {}
    for name, tensor in model.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "vision":
            head, _, tail = rest.partition(".")
            if head == "layers":
                number, _, tail = tail.partition(".")
                inside = tail.split(".")[0]
                group = "self_attn." if inside.endswith("_proj") else "mlp." if inside.startswith("fc") else ""
                rest = f"encoder.layers.{number}.{group}{tail}"
            elif head != "post_layernorm":
                rest = f"embeddings.{rest}"
            tensors[f"vision_tower.vision_model.{rest}"] = tensor
        elif part == "projector":
            tensors[f"multi_modal_projector.linear.{rest}"] = tensor
        elif part == "embed_tokens":
            tensors[f"language_model.model.{name}"] = tensor
        elif part == "vlm":
            tensors[f"language_model.model.{rest}"] = tensor
    folder = tmp_path / "paligemma"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "paligemma"}')
    return folder


def test_a_run_starts_from_a_paligemma_and_may_freeze_it(
    config: TrainConfig, paligemma: Path, batch: Batch, randomise: Callable[..., None]
) -> None:
    expected = Pi0(config.model)
    randomise(expected, seed=9)
    state = make_state(replace(config, init=paligemma, tune="expert"), CPU)
    for _ in range(3):
        train_step(state, *batch)
    fresh = make_model(config, CPU)
    for name, parameter in state.model.named_parameters():
        if name.startswith(("action.", "heads.")):
            if parameter.ndim > 1:
                assert not torch.equal(parameter, fresh.get_parameter(name)), name
        else:
            assert torch.equal(parameter, expected.get_parameter(name)), name


def test_the_tokenizer_belongs_to_the_embeddings(config: TrainConfig, saved: Path, paligemma: Path) -> None:
    tiny, other = train_tokenizer(["open it", "close it"], 300), train_tokenizer(["something else"], 300)
    prompts = ("something else",)
    assert find_tokenizer(config, prompts).model_bytes == other  # trained on the data set's own prompts
    assert find_tokenizer(replace(config, init=saved), prompts).model_bytes == tiny  # the checkpoint's
    with pytest.raises(ValueError, match=r"paligemma/tokenizer\.model does not exist; .* --data\.tokenizer"):
        find_tokenizer(replace(config, init=paligemma), prompts)
    (paligemma / "tokenizer.model").write_bytes(tiny)
    assert find_tokenizer(replace(config, init=paligemma), prompts).model_bytes == tiny
    given = DataConfig(tokenizer=paligemma / "tokenizer.model")
    assert find_tokenizer(replace(config, data=given), prompts).model_bytes == tiny
    json_file = CASE / "tokenizer.json"
    (paligemma / "tokenizer.model").unlink()
    (paligemma / "tokenizer.json").write_bytes(json_file.read_bytes())
    assert find_tokenizer(replace(config, init=paligemma), prompts).file_name == "tokenizer.json"
    given = DataConfig(tokenizer=json_file)
    assert find_tokenizer(replace(config, data=given), prompts).file_name == "tokenizer.json"
    with pytest.raises(ValueError, match=r"data\.tokenizer has no effect: the checkpoint .* brings its own"):
        find_tokenizer(replace(config, data=given, init=saved), prompts)


def test_the_config_of_the_run_is_written_beside_the_checkpoint(config: TrainConfig, saved: Path) -> None:
    assert json.loads((saved / "train.json").read_text())["optim"]["lr"] == config.optim.lr


def test_the_transform_of_a_run_is_that_of_its_config(
    config: TrainConfig, robot: Embodiment, stats: DatasetStats
) -> None:
    data = DataConfig(
        normalization="quantile", delta_actions=("dy",), prompt_format="pi05", prompt_length=60, resize="lerobot"
    )
    made = make_transform(replace(config, data=data), robot, stats, ("open it",)).config
    assert (made.delta_actions, made.prompt_format, made.resize) == (("dy",), "pi05", "lerobot")
    with pytest.raises(ValueError, match=r"State: 255 255 255;.* prompt_length is 30"):
        make_transform(replace(config, data=replace(data, prompt_length=30)), robot, stats, ("open it",))


def test_a_dimension_without_spread_is_not_trained(config: TrainConfig, robot: Embodiment, stats: DatasetStats) -> None:
    q99 = stats.actions.q99.copy()
    q99[3] = stats.actions.q01[3]
    constant = DatasetStats(stats.state, replace(stats.actions, q99=q99))
    with pytest.raises(ValueError, match="'grip' has no spread"):
        make_transform(config, robot, constant, ("open it",))
    data = replace(config.data, raw_actions=("grip",))
    make_transform(replace(config, data=data), robot, constant, ("open it",))
