"""RUN/report.html: what a run has come to so far, made from its metrics.jsonl and validation.jsonl."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import torch

import pizero
from pizero.train.command_line import command_line, differences, nearest_preset
from pizero.train.config import TrainConfig
from pizero.train.log import METRICS, VALIDATION, clock, read_lines
from pizero.train.page import command, facts, figures, paragraph, section, table, write_page
from pizero.train.plot import Curve, Plot, smooth
from pizero.train.saver import LAST

REPORT = "report.html"
SMOOTHED = 50.0
"""A smooth curve is a mean over about this part of the lines."""
STEP = "optimiser step"
Line = Mapping[str, Any]


def write_report(config: TrainConfig, device: torch.device, num_processes: int = 1, ended: str = "") -> Path:
    """Write the page of the run in `config.output`, and give its path.

    `ended` says how the run ended ("done", "interrupted"); "": it goes on.
    """
    metrics, validations = read_lines(config.output / METRICS), read_lines(config.output / VALIDATION)
    path = config.output / REPORT
    title = f"Training of {config.name}"
    parts = [
        _headline(title, config, metrics, validations, ended),
        section("Validation on held-out episodes", *_validation(validations)),
        section("Training", figures(metric_plots(metrics, validations))),
        section("Error by action dimension", *_dimensions(validations)),
        section("What went wrong", facts(_troubles(metrics))),
        section("Config", *_config(config)),
        section("Go on with it", *_how_to_go_on(config, num_processes)),
        section("Machine", facts(machine_facts(config, metrics, device, num_processes))),
    ]
    write_page(path, title, [part for part in parts if part])
    return path


def metric_plots(metrics: Sequence[Line], validations: Sequence[Line]) -> list[Plot]:
    """What the lines of metrics say over the steps; the loss beside that of the validations."""
    loss = smoothed("training loss", 0, metrics, "loss")
    loss += curves([("validation loss", 1, "loss"), ("of the raw weights", 2, "raw_loss")], validations)
    return [
        Plot("Flow matching loss", STEP, tuple(loss), log_y=True),
        Plot("Learning rate", STEP, curves([("expert, heads", 0, "lr"), ("vision, vlm", 1, "vlm_lr")], metrics)),
        Plot("Gradient norm, before clipping", STEP, smoothed("", 0, metrics, "grad_norm"), log_y=True),
        Plot("Samples per second", STEP, curves([("", 0, "samples_per_s")], metrics), from_zero=True),
        Plot("MFU: useful part of the peak arithmetic", STEP, curves([("", 0, "mfu")], metrics), from_zero=True),
        Plot("Part of the time that waits for data", STEP, curves([("", 0, "data_wait")], metrics), from_zero=True),
        Plot("Memory, GiB", STEP, curves([("", 0, "memory_gib")], metrics), from_zero=True),
    ]


def curves(named: Sequence[tuple[str, int, str]], lines: Sequence[Line]) -> tuple[Curve, ...]:
    """One curve for each (name, colour, field) that some line has a number for."""
    found = []
    for name, colour, field in named:
        points = [(line["step"], line[field]) for line in lines if line.get(field) is not None]
        if points:
            steps, values = zip(*points, strict=True)
            found.append(Curve(name, steps, values, colour))
    return tuple(found)


def smoothed(name: str, colour: int, lines: Sequence[Line], field: str) -> tuple[Curve, ...]:
    """A curve as it is, faint, and smooth."""
    found = curves([(name, colour, field)], lines)
    if not found or len(found[0].x) < 2:
        return found
    raw = found[0]
    return replace(raw, name="", faint=True), replace(raw, y=smooth(raw.y, len(raw.y) / SMOOTHED))


def _headline(title: str, config: TrainConfig, metrics: Sequence[Line], validations: Sequence[Line], ended: str) -> str:
    if not metrics:
        return f"<header><h1>{escape(title)}</h1>{paragraph('No line of metrics yet.')}</header>"
    last = metrics[-1]
    parts = [f"step {last['step']} of {config.steps}", f"loss {last['loss']:.4f}"]
    if validations:
        parts.append(f"validation loss {validations[-1]['loss']:.4f}")
    state = f"The run is {ended}." if ended else "The run goes on."
    speed = f"{clock(last['seconds'])} of training, {last['samples_per_s']:.1f} samples/s."
    return (
        f"<header><h1>{escape(title)}</h1>{paragraph(', '.join(parts), 'big')}{paragraph(f'{state} {speed}')}</header>"
    )


def _validation(validations: Sequence[Line]) -> list[str]:
    if not validations:
        return []
    last, best = validations[-1], min(validations, key=lambda line: line["loss"])
    shares = [
        [f"below {threshold}", f"{share:.1%}", f"{last['element_accuracy'][threshold]:.1%}"]
        for threshold, share in last["accuracy"].items()
    ]
    steps = [line["step"] for line in validations]
    accuracies = tuple(
        Curve(f"below {threshold}", steps, [line["accuracy"][threshold] for line in validations], colour)
        for colour, threshold in enumerate(last["accuracy"])
    )
    plots = [
        Plot("Timesteps in which every dimension is near enough", STEP, accuracies, from_zero=True),
        Plot("Mean action error, model units", STEP, curves([("", 0, "error")], validations), log_y=True),
    ]
    said = (
        f"Newest: step {last['step']}, loss {last['loss']:.4f}, action error {last['error']:.4f} in model units, "
        f"{last['num_frames']} frames in {clock(last['seconds'])}. Lowest loss: {best['loss']:.4f} at step "
        f"{best['step']}. Chunks are sampled from the recorded frames and compared with the recorded actions."
    )
    return [paragraph(said), figures(plots), table(["action error", "timesteps", "single numbers"], shares)]


def _dimensions(validations: Sequence[Line]) -> list[str]:
    if not validations:
        return []
    first, last = validations[0], validations[-1]
    parts = []
    for robot in last["robots"]:
        rows = zip(robot["actions"], robot["error"], robot["model_error"], strict=True)
        cells = [[name, f"{error:.4g}", f"{model:.4f}"] for name, error, model in rows]
        parts.append(table([robot["robot"], "mean error, robot's units", "model units"], cells))
    shown = [(f"step {last['step']}", 0, last)]
    if first["step"] != last["step"]:
        shown.append((f"step {first['step']}", 5, first))
    found = []
    for name, colour, line in shown:
        points = [(i + 1, error) for i, error in enumerate(line["error_by_timestep"]) if error is not None]
        found.append(Curve(name, [x for x, _ in points], [y for _, y in points], colour))
    plot = Plot("Mean error over the chunk, model units", "timestep of the chunk", tuple(found), from_zero=True)
    return [*parts, figures([plot])]


def _troubles(metrics: Sequence[Line]) -> dict[str, str]:
    counted = {
        "corrupt frames skipped": sum(line["skipped"] for line in metrics),
        "loader processes restarted": sum(line["restarts"] for line in metrics),
    }
    return {name: str(count) for name, count in counted.items() if count}


def _config(config: TrainConfig) -> list[str]:
    name, preset = nearest_preset(config)
    rows = [[path, str(value), str(other)] for path, (value, other) in differences(config, preset).items()]
    if not rows:
        return [paragraph(f"That of the preset {name}.")]
    return [paragraph(f"That of the preset {name}, but for"), table(["field", "here", "preset"], rows)]


def _how_to_go_on(config: TrainConfig, num_processes: int) -> list[str]:
    if config.max_seconds is None:
        said = "Resumes from the newest checkpoint; a run whose steps are done needs more --steps."
        return [paragraph(said), command(command_line(replace(config, resume=True), num_processes))]
    if config.tune in ("lora", "qlora"):  # adapters are no weights to start from
        return []
    said = "Its learning rates followed the clock, so it cannot be resumed. A new run from its weights:"
    data = replace(config.data, tokenizer=None)  # the checkpoint has its own
    output = config.output.with_name(config.output.name + "-2")
    new = replace(config, init=config.output / LAST, output=output, data=data)
    return [paragraph(said), command(command_line(new, num_processes))]


def machine_facts(
    config: TrainConfig, metrics: Sequence[Line], device: torch.device, num_processes: int
) -> dict[str, str]:
    """Where and with what the run computes."""
    cuda = device.type == "cuda"
    found = {
        "device": torch.cuda.get_device_name(device) if cuda else f"CPU, {torch.get_num_threads()} threads",
        "processes": f"{num_processes}, {config.parallel}" if num_processes > 1 else "1",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pizero": pizero.__version__,
    }
    starts = [line["first_step_s"] for line in metrics if line["first_step_s"] is not None]
    if starts:
        found["first step after"] = f"{starts[-1]:.1f} s"
    peaks = [line["memory_gib"] for line in metrics if line["memory_gib"] is not None]
    if peaks:
        found["most memory"] = f"{max(peaks):.2f} GiB {'on the card' if cuda else 'resident'}"
    return found
