"""The page of a run, the command line in it, and runs side by side."""

import json
import shlex
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from pizero.command.parse import parse
from pizero.train.command_line import command_line, differences, nearest_preset
from pizero.train.compare import names, summarise, write_comparison
from pizero.train.config import LoraConfig, TrainConfig
from pizero.train.log import Metrics, open_log
from pizero.train.plot import Curve, Plot, line_svg, smooth
from pizero.train.preset import make_preset, presets
from pizero.train.report import metric_plots, write_report
from pizero.train.validation import RobotError, Validation

VOID = {"meta"}
CPU = torch.device("cpu")


class Page(HTMLParser):
    """Reads a page, and refuses one whose elements do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.cells: list[str] = []
        self.curves = 0
        self.links: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        self.curves += tag in ("polyline", "circle")
        if tag in ("th", "td"):
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.curves += tag in ("polyline", "circle")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("th", "td"):
            self.cells[-1] += data
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


def metrics(step: int) -> Metrics:
    return Metrics(
        step,
        loss=2.0 / step,
        lr=1e-4,
        grad_norm=3.0,
        samples_per_s=30.0 + step,
        data_wait=0.25,
        seconds=step * 2.0,
        vlm_lr=1e-5,
        memory_gib=1.5 + step / 100,
        skipped=step // 20,
        first_step_s=12.3 if step == 10 else None,
    )


def validation(step: int, loss: float) -> Validation:
    return Validation(
        step=step,
        loss=loss,
        raw_loss=loss + 0.0311,
        error=0.1234,
        accuracy={"0.1": 0.125, "0.5": 0.875},
        element_accuracy={"0.1": 0.4567, "0.5": 0.9},
        error_by_timestep=(0.05, 0.15, None),
        robots=(RobotError("arm <1>", ("x <m>", "grip"), (0.01234, 0.56), (0.1357, 0.2)),),
        num_frames=12,
        seconds=3.0,
    )


@pytest.fixture
def run(config: TrainConfig) -> TrainConfig:
    config.output.mkdir()
    with open_log(config, 0) as log:
        for step in (10, 20):
            log(metrics(step))
    return config


def page(config: TrainConfig, ended: str = "") -> Page:
    path = write_report(config, CPU, ended=ended)
    assert path == config.output / "report.html"
    return Page(path.read_text())


def test_the_page_has_the_numbers_and_nothing_from_elsewhere(run: TrainConfig) -> None:
    with open_log(run, 20) as log:
        log.validation(validation(10, 0.5))
        log.validation(validation(20, 0.75))
    found = page(run)
    assert found.links == []
    for text in ("step 20 of 20", "loss 0.1000", "validation loss 0.7500", "The run goes on.", "0.5000 at step 10"):
        assert text in found.text
    for cell in (
        "x <m>",
        "0.01234",
        "0.1357",
        "grip",
        "0.56",
        "below 0.1",
        "12.5%",
        "45.7%",
        "arm <1>",
        "1.70 GiB resident",
    ):
        assert cell in found.cells
    assert "12.3 s" in found.cells
    assert found.cells[found.cells.index("corrupt frames skipped") + 1] == "1"
    assert "loader processes restarted" not in found.cells
    # loss raw and smooth, validation, of raw weights; lr, vlm lr; norm raw and smooth; speed; wait; memory; below 0.1,
    # below 0.5; error; over the chunk now and at first
    assert found.curves == 4 + 2 + 2 + 3 + 2 + 1 + 2


def test_the_page_is_renewed(run: TrainConfig) -> None:
    assert "validation loss" not in page(run).text
    with open_log(run, 20) as log:
        log.validation(validation(20, 0.625))
    found = page(run, ended="done")
    assert "validation loss 0.6250" in found.text
    assert "The run is done." in found.text
    assert not list(run.output.glob("*.part"))


def test_a_run_without_a_line_has_a_page_too(config: TrainConfig) -> None:
    config.output.mkdir()
    assert "No line of metrics yet." in page(config).text


def test_the_page_says_what_differs_from_the_nearest_preset(run: TrainConfig) -> None:
    name, preset = nearest_preset(run)
    assert name == "debug"
    cells = page(run).cells
    for path, (value, other) in differences(run, preset).items():
        place = cells.index(path)
        assert cells[place + 1 : place + 3] == [str(value), str(other)]
    assert differences(run, preset)["optim.ema_decay"] == (0.9, 0.99)
    assert "model.vision.width" in differences(run, preset)


@pytest.mark.parametrize("preset", sorted(presets()))
def test_the_command_line_gives_the_config(preset: str, config: TrainConfig, tmp_path: Path) -> None:
    made = make_preset(preset)
    changed = replace(
        made,
        output=tmp_path / "a folder",
        compile=not made.compile,
        resume=made.max_seconds is None,
        optim=replace(made.optim, vlm_lr=1e-5, betas=(0.8, 0.99), min_lr=None, clip_norm=None, ema_decay=0.5),
        data=replace(made.data, mix=("a b=1", "c=2.5"), raw_actions=(), held_out=0.1, preload=not made.data.workers),
    )
    for wanted in (made, changed, replace(config, tune="lora", lora=LoraConfig(rank=4, vlm=False), init=tmp_path)):
        line = command_line(wanted)
        program, train, name, *rest = shlex.split(line)
        assert (program, train) == ("pizero", "train")
        default = make_preset(name)
        assert parse(TrainConfig, f"train {name}", rest, default) == wanted, line
    assert command_line(made, 4) == f"torchrun --nproc-per-node 4 -m pizero train {preset}"


def test_the_page_says_how_to_resume(run: TrainConfig) -> None:
    assert command_line(replace(run, resume=True)) in page(run).text


def test_a_run_against_the_clock_starts_anew_from_its_weights(run: TrainConfig) -> None:
    timed = replace(run, max_seconds=60.0)
    new = replace(timed, init=run.output / "last", output=run.output.with_name("run-2"))
    assert command_line(new) in page(timed).text


def test_unknown_numbers_have_no_curve() -> None:
    plots = metric_plots([asdict(metrics(10))], [])
    assert [plot.title for plot in plots if not plot.curves] == ["MFU: useful part of the peak arithmetic"]


def test_a_curve_is_drawn_where_its_numbers_are() -> None:
    """From the lower left corner of the axes to the upper right one."""
    svg = line_svg(Plot("a & b", "step", (Curve("c", [0, 100], [1.0, 3.0], 0),)))
    assert 'points="54.0,216.0 470.0,10.0"' in svg
    assert "a &amp; b" in svg
    log = line_svg(Plot("", "", (Curve("c", [0, 50, 100], [0.01, 0.1, 1.0], 0),), log_y=True))
    assert 'points="54.0,216.0 262.0,113.0 470.0,10.0"' in log
    zero = line_svg(Plot("", "", (Curve("c", [0, 100], [1.0, 2.0], 0),), from_zero=True))
    assert 'points="54.0,113.0 470.0,10.0"' in zero
    assert "<circle" in line_svg(Plot("", "", (Curve("c", [5], [1.0], 0),), log_y=True))


def test_a_smooth_curve_starts_at_its_first_value_and_forgets() -> None:
    assert smooth([4.0, 2.0, 2.0], 1) == [4.0, 2.0, 2.0]
    assert smooth([4.0, 1.0], 2) == [4.0, pytest.approx((0.5 * 4 + 1) / 1.5)]
    assert smooth([4.0] + [0.0] * 99, 5)[-1] < 1e-8


def test_runs_stand_side_by_side(config: TrainConfig, tmp_path: Path) -> None:
    runs = [tmp_path / "fp32", tmp_path / "lora"]
    for number, folder in enumerate(runs):
        folder.mkdir()
        with open_log(replace(config, output=folder), 0) as log:
            for step in range(1, 21):
                log(replace(metrics(step), loss=step / 10 + number))
            if number == 0:
                log.validation(validation(10, 0.25))
                log.validation(validation(20, 0.5))
    result = runs[1] / "eval-last" / "result.json"
    result.parent.mkdir()
    result.write_text(json.dumps({"total": {"rate": 0.75, "episodes": 40}}))
    first, second = map(summarise, runs)
    assert first["training loss"] == pytest.approx(1.95)
    assert second["training loss"] == pytest.approx(2.95)
    assert (first["validation loss"], first["lowest validation loss"], first["success rate"]) == (0.5, 0.25, None)
    assert (first["action error"], first["timesteps below 0.1"], first["step"]) == (0.1234, 0.125, 20)
    assert (second["validation loss"], second["success rate"], second["episodes"]) == (None, 0.75, 40)
    write_comparison(runs, tmp_path / "page.html")
    found = Page((tmp_path / "page.html").read_text())
    for cell in ("fp32", "lora", "1.9500", "0.2500", "75.0%", "12.5%", "-"):
        assert cell in found.cells
    assert found.curves == 2 + 1 + 1 + 2


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no metrics\.jsonl with a line in it; give the folder of a run"):
        write_comparison([tmp_path], tmp_path / "page.html")
    with pytest.raises(ValueError, match="no run to compare"):
        write_comparison([], tmp_path / "page.html")


def test_runs_of_one_name_keep_their_paths() -> None:
    assert names([Path("a/train"), Path("b/train")]) == ["a/train", "b/train"]
    assert names([Path("a/x"), Path("b/y")]) == ["x", "y"]
