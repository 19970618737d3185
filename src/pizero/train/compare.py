"""Several runs side by side: their losses on one plot, what they came to in one table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pizero.train.log import METRICS, VALIDATION, read_lines
from pizero.train.page import figures, paragraph, section, table, write_page
from pizero.train.plot import Curve, Plot
from pizero.train.report import STEP, curves, smoothed

RESULT = "eval-*/result.json"
"""Where `pizero eval RUN/CHECKPOINT` writes the success rate, seen from the run's folder."""
NEAR = "0.1"
"""The threshold of action error whose share the table has."""
COLUMNS = {
    "step": "{}",
    "training loss": "{:.4f}",
    "validation loss": "{:.4f}",
    "lowest validation loss": "{:.4f}",
    "action error": "{:.4f}",
    f"timesteps below {NEAR}": "{:.1%}",
    "success rate": "{:.1%}",
    "episodes": "{}",
    "samples/s": "{:.1f}",
    "memory GiB": "{:.2f}",
}
"""Headings of the table, which are the keys of a summary, and how their numbers are written."""


def summarise(run: Path) -> dict[str, Any]:
    """What a run came to, by the headings of the table; None where it has no such number.

    The training loss is a mean over the last tenth of its lines. Raises ValueError where `run` has no metrics.
    """
    metrics, validations = read_lines(run / METRICS), read_lines(run / VALIDATION)
    if not metrics:
        raise ValueError(f"{run} has no {METRICS} with a line in it; give the folder of a run")
    tail = metrics[-max(1, len(metrics) // 10) :]
    last = validations[-1] if validations else None
    result = _result(run)
    rates = sorted(line["samples_per_s"] for line in metrics)
    values = (
        metrics[-1]["step"],
        sum(line["loss"] for line in tail) / len(tail),
        last and last["loss"],
        min((line["loss"] for line in validations), default=None),
        last and last["error"],
        last and last["accuracy"][NEAR],
        result and result["total"]["rate"],
        result and result["total"]["episodes"],
        rates[len(rates) // 2],
        max((line["memory_gib"] for line in metrics if line["memory_gib"] is not None), default=None),
    )
    return dict(zip(COLUMNS, values, strict=True))


def names(runs: Sequence[Path]) -> list[str]:
    """Of the folders; whole paths where two are called alike."""
    short = [run.name for run in runs]
    return short if len(set(short)) == len(short) else [str(run) for run in runs]


def rows(runs: Sequence[Path]) -> list[list[str]]:
    """The table's cells: the run's name, then its numbers as text."""
    found = []
    for name, run in zip(names(runs), runs, strict=True):
        values = summarise(run)
        cells = ["-" if values[column] is None else form.format(values[column]) for column, form in COLUMNS.items()]
        found.append([name, *cells])
    return found


def comparison_plots(runs: Sequence[Path]) -> list[Plot]:
    """Losses, action error, accuracy and speed of all runs, a colour each."""
    loss: list[Curve] = []
    validation: list[Curve] = []
    error: list[Curve] = []
    speed: list[Curve] = []
    for colour, (name, run) in enumerate(zip(names(runs), runs, strict=True)):
        metrics, validations = read_lines(run / METRICS), read_lines(run / VALIDATION)
        loss += smoothed(name, colour, metrics, "loss")[-1:]
        validation += curves([(name, colour, "loss")], validations)
        error += curves([(name, colour, "error")], validations)
        speed += curves([(name, colour, "samples_per_s")], metrics)
    return [
        Plot("Training loss, smooth", STEP, tuple(loss), log_y=True),
        Plot("Validation loss", STEP, tuple(validation), log_y=True),
        Plot("Action error on held-out episodes, model units", STEP, tuple(error), log_y=True),
        Plot("Samples per second", STEP, tuple(speed), from_zero=True),
    ]


def write_comparison(runs: Sequence[Path], path: Path) -> None:
    """The page at `path`. Raises ValueError where a folder is no run, or none is given."""
    if not runs:
        raise ValueError("there is no run to compare; give the folders of two or more")
    title = f"{len(runs)} runs side by side"
    said = f"{', '.join(names(runs))}. The success rate is that of the newest evaluation of each run."
    cells = table(["run", *COLUMNS], rows(runs))
    body = [f"<header><h1>{title}</h1>{paragraph(said)}</header>", section("Results", cells)]
    write_page(path, title, [*body, section("Curves", figures(comparison_plots(runs)))])


def _result(run: Path) -> dict[str, Any] | None:
    """The newest evaluation's."""
    found = sorted(run.glob(RESULT), key=lambda file: file.stat().st_mtime)
    return json.loads(found[-1].read_text()) if found else None
