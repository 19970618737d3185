"""The page of an evaluation: success with intervals, a comparison, curves, films, times, what to do next."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from pizero.sim.compare import ALL, Comparison, Pairs
from pizero.sim.count import Count
from pizero.sim.page_style import STYLE, TEMPLATE
from pizero.sim.plot import NUM_COLOURS, Bar, Plot, bar_svg, line_svg
from pizero.sim.result import Command, Film, ReportData, Stage, TaskRow, Throughput, mean_rate

MOST_ERRORS = 50
"""Errors listed on the page; result.json has all."""


def make_page(data: ReportData) -> str:
    """The page of a report: one file, with pictures and films inside it, that a phone shows too."""
    sections = [
        _headline(data),
        _section("Success", _success_table(data) + _success_bars(data) if data.rows else ""),
        _section("Beside another run", _comparison(data.comparison) if data.comparison else ""),
        _section("Errors", _error_list(data.errors)),
        _section("Curves", "".join(map(_plot, data.plots))),
        _section("What it looks like", "".join(map(_strip, data.strips)) + _videos(data.videos)),
        _section("Where the time went", _throughput(data.throughput) + _stages(data.stages)),
        _section("How to go on", "".join(map(_command, data.commands))),
        _section("This run", _settings(data.settings) + (_pre(data.made_by) if data.made_by else "")),
    ]
    return TEMPLATE.format(title=escape(data.title), style=STYLE, body="\n".join(filter(None, sections)))


def _headline(data: ReportData) -> str:
    total = data.total
    parts = [f"<h1>{escape(data.title)}</h1>"]
    if total.rate is not None and total.interval is not None:
        low, high = total.interval
        errors = f"; {_errors(total)}" if total.errors else ""
        mean = f" Mean over the tasks: {100 * data.mean_rate:.1f} %." if data.mean_rate and len(data.rows) > 1 else ""
        parts.append(
            f'<p class="big">{100 * total.rate:.1f} %</p><p>{total.successes} of {total.episodes} episodes solved in '
            f"{len(data.rows)} task{'s' * (len(data.rows) != 1)}{errors}. "
            f"95 % interval: {100 * low:.1f} to {100 * high:.1f} %.{mean}</p>"
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
        baselines = "".join(_cell(row.baselines[name]) for name in names)
        cells = _cell(row.policy, _steps(row)) + baselines
        body.append(f"<tr><th>{escape(row.task)}<small>{escape(row.prompt)}</small></th>{cells}</tr>")
    if len(data.rows) > 1:
        totals = [data.total, *data.baseline_totals.values()]
        body.append(f'<tr class="total"><th>all</th>{"".join(map(_cell, totals))}</tr>')
        columns = [[row.policy for row in data.rows], *([row.baselines[name] for row in data.rows] for name in names)]
        means = "".join(f"<td>{_percent(mean_rate(column))}</td>" for column in columns)
        body.append(f'<tr class="total"><th>mean over tasks</th>{means}</tr>')
    table = f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"
    return (
        f'<div class="wide"><table class="rates">{table}</table></div>'
        "<p><small>Solved of played episodes, with the 95 % interval of the rate (Wilson). "
        "All columns meet the same initial states.</small></p>"
    )


def _steps(row: TaskRow) -> str:
    notes = []
    if row.steps_to_success is not None:
        notes.append(f"solved after {row.steps_to_success:.1f} steps on average")
    if row.repeated:
        notes.append(f"{row.repeated} repeated after a crash")
    return "".join(f"<small>{note}</small>" for note in notes)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"<b>{100 * share:.1f} %</b>"


def _cell(count: Count, notes: str = "") -> str:
    errors = f"<small>{_errors(count)}</small>" if count.errors else ""
    if count.rate is None or count.interval is None:
        return f"<td>no episode{notes}{errors}</td>"
    low, high = count.interval
    return (
        f"<td><b>{100 * count.rate:.0f} %</b> {count.successes}/{count.episodes}"
        f"<small>{100 * low:.0f} to {100 * high:.0f} %</small>{notes}{errors}</td>"
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


def _comparison(comparison: Comparison) -> str:
    first, second = comparison.names
    head = "".join(
        f"<th>{escape(name)}</th>" for name in ("task", first, second, "only first", "only second", "p (McNemar)")
    )
    rows = [*comparison.tasks, *([comparison.total] if len(comparison.tasks) > 1 else [])]
    table = f"<thead><tr>{head}</tr></thead><tbody>{''.join(map(_pairs, rows))}</tbody>"
    said = [
        "Episodes that both runs played to their end, with the same initial state and seed. p: how probable so large a "
        "difference is if both solve equally often (exact, two-sided)."
    ]
    if comparison.left_out:
        said.append(f"{comparison.left_out} left out, since an error ended them in one of the runs.")
    if any(comparison.unpaired):
        said.append(f"{comparison.unpaired[0]} and {comparison.unpaired[1]} have no partner.")
    said += [f"{escape(difference)}." for difference in comparison.differences]
    return f'<div class="wide"><table class="rates">{table}</table></div><p><small>{" ".join(said)}</small></p>'


def _pairs(pairs: Pairs) -> str:
    name = f"{escape(pairs.name)}<small>{pairs.num_episodes} episodes</small>"
    kind = " class=total" if pairs.name == ALL else ""
    return (
        f"<tr{kind}><th>{name}</th>{_cell(pairs.first)}{_cell(pairs.second)}<td>{pairs.only_first}</td>"
        f"<td>{pairs.only_second}</td><td><b>{pairs.p_value:.3g}</b></td></tr>"
    )


def _error_list(errors: Sequence[str]) -> str:
    if not errors:
        return ""
    more = f"<li>and {len(errors) - MOST_ERRORS} more</li>" if len(errors) > MOST_ERRORS else ""
    listed = "".join(f"<li>{escape(error)}</li>" for error in errors[:MOST_ERRORS])
    return f"<p>They say nothing about the policy and count in no rate.</p><ul>{listed}{more}</ul>"


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
    return f'<figure class="strip">{image}{caption}</figure>'


def _videos(videos: Sequence[Film]) -> str:
    films = "".join(
        f'<figure><video controls muted loop playsinline preload="metadata" src="{_inside(video.path, "video/mp4")}">'
        f"</video><figcaption>{escape(video.caption)}</figcaption></figure>"
        for video in videos
    )
    return f'<div class="videos">{films}</div>' if films else ""


def _inside(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _throughput(throughput: Throughput | None) -> str:
    if throughput is None:
        return ""
    policy = throughput.policy_seconds
    return (
        f"<p>{throughput.per_minute:.1f} episodes a minute with {throughput.workers} simulator processes: "
        f"{throughput.episodes} episodes in {_duration(throughput.seconds)}, of which the simulators took "
        f"{_duration(throughput.seconds - policy)} and the policy {_duration(policy)} "
        f"({100 * throughput.policy_share:.0f} %).</p>"
    )


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
    return f"<p>{escape(command.meaning)}</p>{_pre(command.line)}"


def _pre(line: str) -> str:
    return f"<pre>{escape(line)}</pre>"


def _settings(settings: Mapping[str, str]) -> str:
    if not settings:
        return ""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in settings.items())
    return f'<div class="wide"><table><tbody>{rows}</tbody></table></div>'
