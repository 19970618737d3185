import json
from dataclasses import asdict
from pathlib import Path

import pytest

from pizero.train.log import Interval, Metrics, Progress, clock, drop_lines_after, open_log, print_progress


def metrics(step: int) -> Metrics:
    return Metrics(step, loss=0.5, lr=1e-4, grad_norm=2.0, samples_per_s=30.0, data_wait=0.25, seconds=step * 2.0)


def test_a_line_holds_the_means_of_its_steps() -> None:
    interval = Interval().add(1.0, 4.0, 0.5, 0.125).add(2.0, 2.0, 1.5, 0.375)
    assert interval.metrics(step=7, lr=0.1, batch_size=8, seconds=90.0) == Metrics(
        step=7, loss=1.5, lr=0.1, grad_norm=3.0, samples_per_s=8.0, data_wait=0.25, seconds=90.0
    )


def test_lines_are_appended_and_those_beyond_the_step_dropped(tmp_path: Path) -> None:
    with open_log(tmp_path, 0, tensorboard=False) as write:
        for step in (2, 4, 6):
            write(metrics(step))
    with open_log(tmp_path, 4, tensorboard=False) as write:
        write(metrics(5))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [asdict(metrics(step)) for step in (2, 4, 5)]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_line_that_a_kill_cut_off_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    drop_lines_after(file, 5)
    assert file.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    with open_log(tmp_path, 0, tensorboard=True) as write:
        write(metrics(3))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert "train/loss" in events.Tags()["scalars"]
    (loss,) = events.Scalars("train/loss")
    assert (loss.step, loss.value) == (3, 0.5)


def test_progress_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    print_progress(Progress(metrics(50), steps=200, fraction=0.25, seconds_left=3725.0))
    assert capsys.readouterr().err == (
        "step 50/200  loss 0.5000  lr 1.00e-04  grad norm 2.000  30.0 samples/s  data wait 25%  1:02:05 left\n"
    )


def test_a_clock_shows_hours_only_when_there_are_any() -> None:
    assert [clock(s) for s in (0.0, 59.6, 3599.0, 3600.0)] == ["0:00", "1:00", "59:59", "1:00:00"]
