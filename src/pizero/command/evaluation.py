"""What the report of an evaluation says: results, settings, versions."""

import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np
import torch

import pizero
from pizero.sim.compare import Comparison
from pizero.sim.outcome import EpisodeResult
from pizero.sim.result import Film, ReportData, Throughput, task_rows

PACKAGES = {
    "metaworld": ("metaworld", "mujoco"),
    "simpler": ("mani_skill", "sapien"),
    "libero": ("hf-libero", "robosuite", "mujoco"),
}
"""First word of a task's name -> packages on which its outcomes depend."""


def evaluation_report(
    title: str,
    results: Sequence[EpisodeResult],
    settings: Mapping[str, Any],
    throughput: Throughput | None,
    comparison: Comparison | None,
    made_by: str,
) -> ReportData:
    """The report of results in order; settings are values of JSON."""
    rows = task_rows(results)
    return ReportData(
        title=title,
        rows=rows,
        videos=tuple(Film(result.video, caption(result)) for result in results if result.video),
        throughput=throughput,
        comparison=comparison,
        errors=tuple(f"{_where(result)}: {result.error}" for result in results if result.error),
        settings={name: _text(value) for name, value in settings.items()} | versions(row.task for row in rows),
        made_by=made_by,
    )


def caption(result: EpisodeResult) -> str:
    """What a film shows: task, episode, how it ended."""
    return f"{_where(result)}: {'solved' if result.success else 'not solved'}, {result.steps} steps"


def versions(tasks: Iterable[str]) -> dict[str, str]:
    """The machine and every package whose version may change an outcome of these tasks."""
    words = {task.split("/")[0].split("-")[0] for task in tasks}
    packages = dict.fromkeys(package for word, used in PACKAGES.items() if word in words for package in used)
    found = {
        "pizero": pizero.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        **{package: _version(package) for package in packages},
        "machine": f"{sys.platform} {platform.machine()}, {os.cpu_count()} cores",
    }
    if torch.cuda.is_available():
        found["GPU"] = torch.cuda.get_device_name()
    return found


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # importable, but not installed by a package manager
        return "not known"


def _where(result: EpisodeResult) -> str:
    state = "" if result.state is None else f", state {result.state}"
    return f"{result.task}, episode {result.episode}{state}, seed {result.seed}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "-" if value is None else str(value)
