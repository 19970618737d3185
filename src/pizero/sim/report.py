"""One page that says what came out: success with intervals against baselines, curves, films, times, what to do next.

The page is a single file (pictures and films inside it) that a phone shows too; `result.json` beside it says the same
to programs.
"""

import base64
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from pizero.sim.interval import wilson
from pizero.sim.plot import NUM_COLOURS, Bar, Plot, bar_svg, line_svg
from pizero.sim.rollout import EpisodeResult

RESULT_FILE = "result.json"


@dataclass(frozen=True)
class Count:
    """Successes among the episodes that count."""

    successes: int
    """Episodes solved."""
    episodes: int
    """Episodes played to their end."""
    errors: int = 0
    """Episodes that a crash of the simulator ended; not among `episodes`."""

    @classmethod
    def of(cls, results: Iterable[EpisodeResult]) -> "Count":
        """Counts results of one policy."""
        results = list(results)
        played = [result for result in results if result.error is None]
        return cls(sum(result.success for result in played), len(played), len(results) - len(played))

    @property
    def rate(self) -> float | None:
        """Share of successes, None without episodes."""
        return self.successes / self.episodes if self.episodes else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % confidence interval of the rate (Wilson), None without episodes."""
        return wilson(self.successes, self.episodes) if self.episodes else None

    def __add__(self, other: "Count") -> "Count":
        return Count(self.successes + other.successes, self.episodes + other.episodes, self.errors + other.errors)


@dataclass(frozen=True)
class TaskRow:
    """One task: the policy and what it is compared with."""

    task: str
    """Name of the task."""
    prompt: str
    """Its instruction."""
    policy: Count
    """How the policy did."""
    baselines: Mapping[str, Count] = field(default_factory=dict)
    """Name of a baseline -> how it did, in the same episodes. Every row has the same names."""


@dataclass(frozen=True)
class Film:
    """A video or picture file with what it shows. The page holds a copy of it."""

    path: Path
    """An .mp4 or .png file."""
    caption: str
    """Said under it."""


@dataclass(frozen=True)
class Stage:
    """Something that took time."""

    name: str
    """What was done."""
    seconds: float
    """Wall time."""
    note: str = ""
    """For example a rate."""


@dataclass(frozen=True)
class Command:
    """What a reader may want to type."""

    line: str
    """The command."""
    meaning: str
    """What it does."""


@dataclass(frozen=True)
class ReportData:
    """Everything that a report shows. What is empty is left out of the page."""

    title: str
    """Heading of the page."""
    summary: str = ""
    """A sentence or two under the headline."""
    policy_name: str = "policy"
    """What tables and charts call the policy."""
    rows: tuple[TaskRow, ...] = ()
    """Success per task."""
    plots: tuple[Plot, ...] = ()
    """Curves, such as the loss."""
    strips: tuple[Film, ...] = ()
    """Rows of stills."""
    videos: tuple[Film, ...] = ()
    """Films of episodes."""
    stages: tuple[Stage, ...] = ()
    """Where the time went."""
    commands: tuple[Command, ...] = ()
    """How to go on."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Facts about the run: sizes, steps, machine."""


def task_rows(
    policy: Sequence[EpisodeResult], baselines: Mapping[str, Sequence[EpisodeResult]] | None = None
) -> tuple[TaskRow, ...]:
    """One row per task, in the order in which the policy's results name them."""

    def count(results: Sequence[EpisodeResult], task: str) -> Count:
        return Count.of(result for result in results if result.task == task)

    return tuple(
        TaskRow(
            task,
            next((result.prompt for result in policy if result.task == task and result.prompt), ""),
            count(policy, task),
            {name: count(results, task) for name, results in (baselines or {}).items()},
        )
        for task in dict.fromkeys(result.task for result in policy)
    )


def write_report(path: Path, data: ReportData) -> None:
    """The page at `path` and `result.json` beside it, each written aside and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, _page(data))
    _write(path.with_name(RESULT_FILE), json.dumps(result_json(data), indent=2, ensure_ascii=False) + "\n")


def result_json(data: ReportData) -> dict[str, Any]:
    """The report's numbers for programs."""
    return {
        "title": data.title,
        "summary": data.summary,
        "total": _count_json(_total(data.rows))
        | {"baselines": {name: _count_json(count) for name, count in _baseline_totals(data.rows).items()}},
        "tasks": [
            {"task": row.task, "prompt": row.prompt}
            | _count_json(row.policy)
            | {"baselines": {name: _count_json(count) for name, count in row.baselines.items()}}
            for row in data.rows
        ],
        "stages": [{"name": stage.name, "seconds": stage.seconds, "note": stage.note} for stage in data.stages],
        "seconds": sum(stage.seconds for stage in data.stages),
        "commands": [{"line": command.line, "meaning": command.meaning} for command in data.commands],
        "settings": dict(data.settings),
    }


def _count_json(count: Count) -> dict[str, Any]:
    return {
        "successes": count.successes,
        "episodes": count.episodes,
        "rate": count.rate,
        "interval": count.interval,
        "errors": count.errors,
    }


def _total(rows: Sequence[TaskRow]) -> Count:
    return sum((row.policy for row in rows), Count(0, 0))


def _baseline_totals(rows: Sequence[TaskRow]) -> dict[str, Count]:
    names = rows[0].baselines if rows else {}
    return {name: sum((row.baselines[name] for row in rows), Count(0, 0)) for name in names}


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _page(data: ReportData) -> str:
    sections = [
        _headline(data),
        _section("Success", _success_table(data) + _success_bars(data) if data.rows else ""),
        _section("Curves", "".join(map(_plot, data.plots))),
        _section("What it looks like", "".join(map(_strip, data.strips)) + _videos(data.videos)),
        _section("Where the time went", _stages(data.stages)),
        _section("How to go on", "".join(map(_command, data.commands))),
        _section("This run", _settings(data.settings)),
    ]
    return _TEMPLATE.format(title=escape(data.title), style=_STYLE, body="\n".join(filter(None, sections)))


def _headline(data: ReportData) -> str:
    total = _total(data.rows)
    parts = [f"<h1>{escape(data.title)}</h1>"]
    if total.rate is not None and total.interval is not None:
        low, high = total.interval
        errors = f"; {_errors(total)}" if total.errors else ""
        parts.append(
            f'<p class="big">{100 * total.rate:.1f} %</p><p>{total.successes} of {total.episodes} episodes solved in '
            f"{len(data.rows)} task{'s' * (len(data.rows) != 1)}{errors}. "
            f"95 % interval: {100 * low:.1f} to {100 * high:.1f} %.</p>"
        )
    if data.summary:
        parts.append(f"<p>{escape(data.summary)}</p>")
    return "<header>" + "".join(parts) + "</header>"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _success_table(data: ReportData) -> str:
    names = list(data.rows[0].baselines)
    head = "".join(f"<th>{escape(name)}</th>" for name in ["task", data.policy_name, *names])
    body = []
    for row in data.rows:
        cells = "".join(_cell(count) for count in [row.policy, *(row.baselines[name] for name in names)])
        body.append(f"<tr><th>{escape(row.task)}<small>{escape(row.prompt)}</small></th>{cells}</tr>")
    if len(data.rows) > 1:
        totals = [_total(data.rows), *_baseline_totals(data.rows).values()]
        body.append(f'<tr class="total"><th>all</th>{"".join(map(_cell, totals))}</tr>')
    table = f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"
    return (
        f'<div class="wide"><table class="rates">{table}</table></div>'
        "<p><small>Solved of played episodes, with the 95 % interval of the rate (Wilson). "
        "All columns meet the same initial states.</small></p>"
    )


def _cell(count: Count) -> str:
    errors = f"<small>{_errors(count)}</small>" if count.errors else ""
    if count.rate is None or count.interval is None:
        return f"<td>no episode{errors}</td>"
    low, high = count.interval
    return (
        f"<td><b>{100 * count.rate:.0f} %</b> {count.successes}/{count.episodes}"
        f"<small>{100 * low:.0f} to {100 * high:.0f} %</small>{errors}</td>"
    )


def _errors(count: Count) -> str:
    return f"{count.errors} more ended in an error"


def _success_bars(data: ReportData) -> str:
    names = list(data.rows[0].baselines)
    groups = []
    for row in data.rows:
        counts = {data.policy_name: row.policy, **row.baselines}
        bars = [
            Bar(name, colour, count.rate, *count.interval)
            for colour, (name, count) in enumerate(counts.items())
            if count.rate is not None and count.interval is not None
        ]
        groups.append((row.task, bars))
    return _figure("Success rate with its 95 % interval", [data.policy_name, *names], bar_svg("Success rate", groups))


def _plot(plot: Plot) -> str:
    return _figure(plot.title, [curve.name for curve in plot.curves], line_svg(plot))


def _figure(title: str, names: Sequence[str], svg: str) -> str:
    legend = "".join(
        f'<span><i style="background:var(--c{number % NUM_COLOURS})"></i>{escape(name)}</span>'
        for number, name in enumerate(names)
    )
    return f'<figure><figcaption>{escape(title)}<span class="legend">{legend}</span></figcaption>{svg}</figure>'


def _strip(strip: Film) -> str:
    image = f'<img alt="{escape(strip.caption)}" src="{_inside(strip.path, "image/png")}">'
    caption = f"<figcaption>{escape(strip.caption)}</figcaption>"
    return f'<figure class="strip"><div class="wide">{image}</div>{caption}</figure>'


def _videos(videos: Sequence[Film]) -> str:
    films = "".join(
        f'<figure><video controls muted loop playsinline preload="metadata" src="{_inside(video.path, "video/mp4")}">'
        f"</video><figcaption>{escape(video.caption)}</figcaption></figure>"
        for video in videos
    )
    return f'<div class="videos">{films}</div>' if films else ""


def _inside(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _stages(stages: Sequence[Stage]) -> str:
    if not stages:
        return ""
    rows = [(stage.name, stage.seconds, stage.note) for stage in stages]
    rows.append(("all", sum(stage.seconds for stage in stages), ""))
    cells = "".join(
        f"<tr{' class=total' * (number == len(stages))}><th>{escape(name)}</th><td>{_duration(seconds)}</td>"
        f"<td>{escape(note)}</td></tr>"
        for number, (name, seconds, note) in enumerate(rows)
    )
    return f'<div class="wide"><table><tbody>{cells}</tbody></table></div>'


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def _command(command: Command) -> str:
    return f"<p>{escape(command.meaning)}</p><pre>{escape(command.line)}</pre>"


def _settings(settings: Mapping[str, str]) -> str:
    if not settings:
        return ""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in settings.items())
    return f'<div class="wide"><table><tbody>{rows}</tbody></table></div>'


_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1d20; --faint: #6b6f76; --line: #dcdde0; --paper: #fdfdfc; --panel: #f3f3f1;
  --c0: #2f6fb4; --c1: #c98a2b; --c2: #8d8f94; --c3: #5f9a6b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e3; --faint: #9b9ea4; --line: #36383c; --paper: #17181a;
  --panel: #212326; --c0: #6aa5e3; --c1: #dba850; --c2: #7d8086; --c3: #7fbf8c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 46rem; padding: 1.2rem 1rem 3rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.3rem; margin: 0; } h2 { font-size: 1.05rem; margin: 2.2rem 0 .6rem; } p { margin: .4rem 0; }
.big { font-size: 3rem; line-height: 1.15; font-weight: 650; color: var(--c0); margin: .5rem 0 0; }
small { color: var(--faint); font-size: .8rem; } th small, td small { display: block; font-weight: 400; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 550; } thead th { color: var(--faint); font-size: .8rem; } tr.total th, tr.total td { border: 0; }
.rates td { white-space: nowrap; } .rates td small { white-space: normal; }
figure { margin: 1rem 0; } figcaption { font-size: .85rem; color: var(--faint); }
.legend { display: block; } .legend span { margin-right: 1rem; white-space: nowrap; }
.legend i { display: inline-block; width: .7rem; height: .7rem; border-radius: 2px; margin-right: .35rem; }
svg { display: block; width: 100%; max-width: 38rem; margin-top: .4rem; font: 12px system-ui, sans-serif; }
svg text { fill: var(--faint); } .grid { stroke: var(--line); } .curve { fill: none; stroke-width: 2; }
.interval { fill: none; stroke: var(--ink); stroke-width: 1.2; }
.strip img { display: block; height: 8rem; }
.videos { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: .8rem; }
.videos figure { margin: 0; } video { width: 100%; display: block; border-radius: 4px; }
pre { background: var(--panel); padding: .6rem .8rem; border-radius: 4px; overflow-x: auto; font-size: .85rem; }
"""
