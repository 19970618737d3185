import json
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pizero.train.config import TrainConfig
from pizero.train.log import (
    Interval,
    Metrics,
    Progress,
    clock,
    drop_lines_after,
    memory_gib,
    open_log,
    print_progress,
    print_validation,
    progress_line,
    read_lines,
)
from pizero.train.validation import RobotError, Validation


def metrics(step: int) -> Metrics:
    return Metrics(
        step,
        loss=0.5,
        lr=1e-4,
        grad_norm=2.0,
        samples_per_s=30.0,
        data_wait=0.25,
        seconds=step * 2.0,
        vlm_lr=1e-5,
        memory_gib=1.5,
        skipped=2,
    )


def validation(step: int) -> Validation:
    return Validation(
        step=step,
        loss=0.25,
        raw_loss=0.3,
        error=0.1,
        accuracy={"0.05": 0.125, "0.5": 1.0},
        element_accuracy={"0.05": 0.5, "0.5": 1.0},
        error_by_timestep=(0.05, 0.15, None),
        robots=(RobotError("arm", ("x", "grip"), (0.01, 0.5), (0.1, 0.2)),),
        num_frames=12,
        seconds=3.0,
    )


@pytest.fixture
def run(config: TrainConfig) -> TrainConfig:
    config.output.mkdir()
    return config


def test_a_line_holds_the_means_of_its_steps() -> None:
    interval = Interval().add(1.0, 4.0, 0.5, 0.125, skipped=2).add(2.0, 2.0, 1.5, 0.375, skipped=1, restarts=1)
    assert interval.metrics(step=7, lr=0.1, batch_size=8, seconds=90.0) == Metrics(
        step=7, loss=1.5, lr=0.1, grad_norm=3.0, samples_per_s=8.0, data_wait=0.25, seconds=90.0, skipped=3, restarts=1
    )


def test_mfu_is_useful_arithmetic_over_the_peak() -> None:
    """At 8 samples/s of 3 TFLOP, on two cards of 60 TFLOP/s: 24 of 120."""
    found = Interval().add(1.0, 1.0, 2.0, 0.0).metrics(1, 0.1, 16, 2.0, ideal_s=3e12 / (2 * 60e12))
    assert found.mfu == pytest.approx(0.2)


def test_lines_are_appended_and_those_beyond_the_step_dropped(run: TrainConfig) -> None:
    with open_log(run, 0) as log:
        for step in (2, 4, 6):
            log(metrics(step))
            log.validation(validation(step))
    with open_log(run, 4) as log:
        log(metrics(5))
    assert read_lines(run.output / "metrics.jsonl") == [asdict(metrics(step)) for step in (2, 4, 5)]
    assert [line["step"] for line in read_lines(run.output / "validation.jsonl")] == [2, 4]
    assert read_lines(run.output / "validation.jsonl")[0] == json.loads(json.dumps(asdict(validation(2))))
    assert {file.name for file in run.output.iterdir()} == {"metrics.jsonl", "validation.jsonl"}
    assert read_lines(run.output / "other.jsonl") == []


def test_a_line_that_a_kill_cut_off_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    assert [line["step"] for line in read_lines(file)] == [1, 2]
    drop_lines_after(file, 5)
    assert file.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_tensorboard_gets_the_same_numbers(run: TrainConfig) -> None:
    with open_log(replace(run, tensorboard=True), 0) as log:
        log(metrics(3))
        log.validation(validation(4))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.output / "tensorboard")).Reload()
    expected = {"train/loss": (3, 0.5), "val/loss": (4, 0.25), "val/accuracy_0.05": (4, 0.125)}
    expected |= {"val/error_arm/grip": (4, 0.5), "train/skipped": (3, 2.0), "val/raw_loss": (4, 0.3)}
    for name, (step, value) in expected.items():
        (event,) = events.Scalars(name)
        assert event.step == step, name
        assert event.value == pytest.approx(value), name
    assert "train/mfu" not in events.Tags()["scalars"]  # not known


class FakeWandb(SimpleNamespace):
    """What the package is asked to do; nothing leaves the machine."""

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.logged: list[dict[str, float]] = []
        self.exit_codes: list[int] = []
        self.metrics: list[tuple[str, str]] = []
        self.id = "abc123"

    def init(self, **arguments: Any) -> "FakeWandb":
        self.started.append(arguments)
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        self.metrics.append((name, step_metric))

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)

    def finish(self, exit_code: int) -> None:
        self.exit_codes.append(exit_code)


@pytest.fixture
def fake_wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_a_resumed_run_goes_on_in_the_same_wandb_run(run: TrainConfig, fake_wandb: FakeWandb) -> None:
    watched = replace(run, wandb="robots")
    with open_log(watched, 0) as log:
        log(metrics(3))
    with suppress(KeyError), open_log(watched, 3) as log:
        log.validation(validation(4))
        raise KeyError
    first, second = fake_wandb.started
    assert (first["project"], first["name"], first["id"], first["resume"]) == ("robots", "test", None, None)
    assert (second["id"], second["resume"]) == ("abc123", "allow")
    assert first["config"]["optim"]["lr"] == run.optim.lr
    assert fake_wandb.metrics[0] == ("*", "step")
    assert (fake_wandb.logged[0]["step"], fake_wandb.logged[0]["train/loss"]) == (3, 0.5)
    assert (fake_wandb.logged[1]["step"], fake_wandb.logged[1]["val/loss"]) == (4, 0.25)
    assert fake_wandb.exit_codes == [0, 1]


def test_wandb_that_is_not_installed_is_one_line(run: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"wandb cannot be imported .*; pip install wandb"):
        open_log(replace(run, wandb="robots"), 0).__enter__()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.mark.usefixtures("offline")
def test_wandb_works_offline(run: TrainConfig) -> None:
    watched = replace(run, wandb="robots")
    for step in (0, 3):
        with open_log(watched, step) as log:
            log(metrics(step + 3))
    name = (run.output / "wandb_id").read_text().strip()
    folders = {path.name.split("-")[-1] for path in (run.output / "wandb").glob("offline-run-*")}
    assert folders == {name}


def test_progress_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    plain = Metrics(50, loss=0.5, lr=1e-4, grad_norm=2.0, samples_per_s=30.0, data_wait=0.25, seconds=100.0)
    print_progress(Progress(plain, steps=200, fraction=0.25, seconds_left=3725.0))
    assert capsys.readouterr().err == (
        "step 50/200  loss 0.5000  lr 1.00e-04  grad norm 2.000  30.0 samples/s  data wait 25%  1:02:05 left\n"
    )


def test_progress_tells_more_where_there_is_more() -> None:
    known = replace(metrics(50), mfu=0.523, restarts=1, first_step_s=12.34)
    assert progress_line(Progress(known, 200, 0.25, 5.0)) == (
        "step 50/200  loss 0.5000  lr 1.00e-04  vlm lr 1.00e-05  grad norm 2.000  30.0 samples/s  mfu 52.3%  "
        "data wait 25%  1.5 GiB  2 corrupt frames skipped  1 loader processes restarted  "
        "first step after 12.3 s  0:05 left"
    )
    equal = replace(known, vlm_lr=known.lr)
    assert "vlm lr" not in progress_line(Progress(equal, 200, 0.25, 5.0))


def test_a_validation_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    print_validation(validation(100))
    assert capsys.readouterr().err == (
        "step 100  validation loss 0.2500  action error 0.1000  within <0.05 12%  <0.5 100%  (12 frames, 0:03)\n"
    )


def test_resident_memory_is_in_gib() -> None:
    """This process has torch in it, and fits any machine."""
    assert 0.05 < memory_gib(torch.device("cpu")) < 200


def test_a_clock_shows_hours_only_when_there_are_any() -> None:
    assert [clock(s) for s in (0.0, 59.6, 3599.0, 3600.0)] == ["0:00", "1:00", "59:59", "1:00:00"]
