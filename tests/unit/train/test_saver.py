"""A run is written to a checkpoint and read back so that nothing is lost."""

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from conftest import after_three_steps
from pizero.data.batch import Batch
from pizero.data.stats import DatasetStats
from pizero.data.transform import Transform
from pizero.embodiment import Embodiment
from pizero.train import saver as module
from pizero.train.config import TrainConfig
from pizero.train.optimizer import optimizer_tensors
from pizero.train.recordings import make_transform
from pizero.train.resume import load_state
from pizero.train.saver import Saver, checkpoints
from pizero.train.state import TrainState, make_state
from pizero.train.step import train_step
from pizero.weights.checkpoint import load_checkpoint

CPU = torch.device("cpu")
Make = Callable[[TrainConfig], TrainState]
Save = Callable[[TrainState], Path]


@pytest.mark.parametrize(
    ("tune", "precision"),
    [(tune, precision) for tune in ("full", "expert", "lora") for precision in ("fp32", "bf16", "bf16-pure")][:-1],
)
@pytest.mark.parametrize("ema_decay", [0.9, None])
def test_a_saved_run_comes_back_bit_for_bit(
    config: TrainConfig, make: Make, batch: Batch, save: Save, saved: Path, tune: str, precision: str, ema_decay: float
) -> None:
    optim = replace(config.optim, ema_decay=ema_decay)
    init = None if tune == "full" else saved
    config = replace(
        config, optim=optim, tune=tune, precision=precision, init=init, output=saved.parent.with_name("run2")
    )
    check_that_it_goes_on(after_three_steps(make_as_is(config, make), batch), batch, save)


def test_a_run_with_8_bit_averages_goes_on_bit_for_bit(
    config: TrainConfig, make: Make, batch: Batch, save: Save
) -> None:
    pytest.importorskip("bitsandbytes")
    config = replace(config, optim=replace(config.optim, kind="adamw8bit"))
    check_that_it_goes_on(after_three_steps(make(config), batch), batch, save)


def make_as_is(config: TrainConfig, make: Make) -> TrainState:
    """With random weights, but for those that come from `init`."""
    return make(config) if config.init is None else make_state(config, CPU)


def check_that_it_goes_on(state: TrainState, batch: Batch, save: Save) -> None:
    back, _ = load_state(state.config, save(state), CPU)
    assert (back.step, back.seconds, back.interval) == (3, 12.5, state.interval)
    check_equal(state, back)
    for _ in range(2):
        assert train_step(state, batch) == train_step(back, batch)
    check_equal(state, back)


def check_equal(state: TrainState, back: TrainState) -> None:
    for name, parameter in state.model.named_parameters():
        assert torch.equal(parameter, back.model.get_parameter(name)), name
        assert parameter.dtype == back.model.get_parameter(name).dtype, name
    mine = optimizer_tensors(state.optimizer, state.parameters)
    theirs = optimizer_tensors(back.optimizer, back.parameters)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert any(tensor.any() for tensor in mine.values())
    if state.ema is not None:
        assert back.ema is not None
        assert all(torch.equal(average, back.ema.average[name]) for name, average in state.ema.average.items())


def test_training_goes_on_while_a_checkpoint_is_written(
    trained: TrainState, batch: Batch, transform: Transform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written is the run as it was when `save` was called, and it shows only when all of it is there."""
    may_write, save_shards = threading.Event(), module.save_shards

    def slow(*args: object) -> None:
        assert may_write.wait(60)
        save_shards(*args)

    monkeypatch.setattr(module, "save_shards", slow)
    assert trained.ema is not None
    before = {name: average.clone() for name, average in trained.ema.average.items()}
    raw = {name: parameter.detach().clone() for name, parameter in trained.parameters.items()}
    with Saver(trained, (transform,)) as saver:
        path = saver.save()
        for _ in range(2):
            train_step(trained, batch)
        assert not path.exists()
        assert [file.name for file in trained.config.output.iterdir()] == ["step-000003.part"]
        may_write.set()
    weights = load_file(path / "model.safetensors")
    assert all(torch.equal(weights[name], average) for name, average in before.items())
    back, _ = load_state(trained.config, path, CPU)
    assert back.step == 3
    assert all(torch.equal(parameter, raw[name]) for name, parameter in back.parameters.items())


def test_what_goes_wrong_while_writing_ends_the_run(
    trained: TrainState, transform: Transform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(module, "save_shards", full)
    saver = Saver(trained, (transform,))
    saver.save()
    with pytest.raises(OSError, match="no space left"):
        saver.wait()
    saver.check()  # it is told once
    assert list(trained.config.output.iterdir()) == []


def test_a_run_that_fails_leaves_the_checkpoint_that_was_being_written(
    trained: TrainState, transform: Transform
) -> None:
    saver = Saver(trained, (transform,))
    path = saver.save()
    saver.__exit__(FloatingPointError, FloatingPointError(), None)
    assert load_checkpoint(path)


def test_a_checkpoint_has_the_transforms_of_all_robots(
    config: TrainConfig, trained: TrainState, transform: Transform, robot: Embodiment, stats: DatasetStats
) -> None:
    other = make_transform(config, replace(robot, name="leg", cameras=("left",)), stats, ("open it", "close it"))
    with Saver(trained, (transform, other)) as saver:
        path = saver.save()
    _, transforms = load_state(config, path, CPU)
    assert [found.config for found in transforms] == [transform.config, other.config]
    assert transforms[1].stats.to_json() == stats.to_json()
    assert transforms[1].tokenizer.model_bytes == transform.tokenizer.model_bytes
    assert load_checkpoint(path).transform.config == transform.config
    assert load_checkpoint(path, robot="leg").transform.config == other.config
    with pytest.raises(
        ValueError, match=f"has no robot 'legs', did you mean 'leg'\\?; it was trained on {robot.name}, leg"
    ):
        load_checkpoint(path, robot="legs")


def test_the_policy_of_a_bfloat16_run_is_bfloat16(config: TrainConfig, make: Make, save: Save) -> None:
    path = save(make(replace(config, precision="bf16-pure")))
    assert {tensor.dtype for tensor in load_file(path / "model.safetensors").values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in load_file(save_mixed(config, make, save)).values()} == {torch.float32}


def save_mixed(config: TrainConfig, make: Make, save: Save) -> Path:
    """Weights of a run with float32 masters."""
    mixed = replace(config, precision="bf16", output=config.output.with_name("mixed"))
    return save(make(mixed)) / "model.safetensors"


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


def test_the_newest_are_kept_and_last_names_the_newest(trained: TrainState, save: Save) -> None:
    output = trained.config.output
    trained.config = replace(trained.config, keep=2)
    for step in (3, 999_998, 1_000_002):
        trained.step = step
        path = save(trained)
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
        replace(
            config,
            steps=40,
            save_every=3,
            keep=9,
            log_every=7,
            output=tmp_path,
            resume=True,
            data=data,
            accumulate=2,
            recompute=True,
            parallel="fsdp",
            validate_every=2,
        ),
        saved,
        CPU,
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: (p / "train_state/.metadata").unlink(), r"train_state is no folder of saved tensors"),
        (lambda p: (p / "train_state/.metadata").write_bytes(b"x"), r"train_state is no folder of saved tensors"),
        (lambda p: (p / "train_state/__0_0.distcp").unlink(), r"train_state is damaged \(.*__0_0\.distcp"),
        (lambda p: cut(p / "train_state/__0_0.distcp"), r"train_state is damaged \("),
        (lambda p: (p / "model.safetensors").unlink(), r"model\.safetensors does not exist"),
        (lambda p: (p / "train_state/state.json").write_text('{"step": 3}'), r"state\.json: seconds is missing"),
        (lambda p: (p / "train.json").unlink(), r"train\.json does not exist; copy the whole folder"),
    ],
)
def test_a_damaged_train_state_is_refused(
    config: TrainConfig, saved: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(saved)
    with pytest.raises(ValueError, match=message):
        load_state(config, saved, CPU)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:1000])


def test_the_config_of_the_run_is_written_beside_the_checkpoint(config: TrainConfig, saved: Path) -> None:
    assert json.loads((saved / "train.json").read_text())["optim"]["lr"] == config.optim.lr
