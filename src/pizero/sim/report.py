"""The report of an evaluation: a page for people, and `result.json` beside it, which says the same to programs."""

import json
import os
from pathlib import Path
from typing import Any

from pizero.sim.count import Count
from pizero.sim.page import make_page
from pizero.sim.result import ReportData, Throughput

RESULT_FILE = "result.json"


def write_report(path: Path, data: ReportData) -> None:
    """The page at `path` and `result.json` beside it, each written aside and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, make_page(data))
    _write(path.with_name(RESULT_FILE), json.dumps(result_json(data), indent=2, ensure_ascii=False) + "\n")


def result_json(data: ReportData) -> dict[str, Any]:
    """The report's numbers for programs."""
    return {
        "title": data.title,
        "summary": data.summary,
        "total": _count_json(data.total)
        | {"mean_rate": data.mean_rate}
        | {"baselines": {name: _count_json(count) for name, count in data.baseline_totals.items()}},
        "tasks": [
            {"task": row.task, "prompt": row.prompt}
            | _count_json(row.policy)
            | {"steps_to_success": row.steps_to_success, "repeated": row.repeated}
            | {"baselines": {name: _count_json(count) for name, count in row.baselines.items()}}
            for row in data.rows
        ],
        "errors": list(data.errors),
        "comparison": None if data.comparison is None else data.comparison.to_json(),
        "throughput": None if data.throughput is None else _throughput_json(data.throughput),
        "stages": [{"name": stage.name, "seconds": stage.seconds, "note": stage.note} for stage in data.stages],
        "seconds": sum(stage.seconds for stage in data.stages),
        "commands": [{"line": command.line, "meaning": command.meaning} for command in data.commands],
        "settings": dict(data.settings),
        "made_by": data.made_by,
    }


def _count_json(count: Count) -> dict[str, Any]:
    return {
        "successes": count.successes,
        "episodes": count.episodes,
        "rate": count.rate,
        "interval": count.interval,
        "errors": count.errors,
    }


def _throughput_json(throughput: Throughput) -> dict[str, Any]:
    return {
        "episodes": throughput.episodes,
        "seconds": throughput.seconds,
        "policy_seconds": throughput.policy_seconds,
        "policy_share": throughput.policy_share,
        "workers": throughput.workers,
        "episodes_per_minute": throughput.per_minute,
    }


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
