"""Parts of a page about training: one file, without scripts and without anything from elsewhere."""

import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from pizero.train.plot import NUM_COLOURS, Plot, line_svg


def write_page(path: Path, title: str, parts: Iterable[str]) -> None:
    """The page at `path`, written aside and renamed."""
    aside = path.with_name(path.name + ".part")
    aside.write_text(_TEMPLATE.format(title=escape(title), style=_STYLE, body="\n".join(parts)), encoding="utf-8")
    os.replace(aside, path)


def section(title: str, *bodies: str) -> str:
    """A heading and what is under it; nothing where that is empty."""
    body = "".join(bodies)
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def figure(plot: Plot) -> str:
    """A plot with its title and legend; nothing where it has no curve."""
    if not plot.curves:
        return ""
    legend = "".join(
        f'<span><i style="background:var(--c{curve.colour % NUM_COLOURS})"></i>{escape(curve.name)}</span>'
        for curve in plot.curves
        if curve.name
    )
    title = f"{escape(plot.title)}<span class='legend'>{legend}</span>"
    return f"<figure><figcaption>{title}</figcaption>{line_svg(plot)}</figure>"


def figures(plots: Iterable[Plot]) -> str:
    """Plots beside each other where there is room."""
    drawn = "".join(map(figure, plots))
    return f'<div class="plots">{drawn}</div>' if drawn else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of text under their headings; the first cell names the row."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr><th>{escape(first)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    heading = f"<thead><tr>{top}</tr></thead>" if head else ""
    return f'<div class="wide"><table>{heading}<tbody>{body}</tbody></table></div>' if body else ""


def facts(values: Mapping[str, str]) -> str:
    """A table of names and values."""
    return table((), values.items())


def paragraph(text: str, kind: str = "") -> str:
    """Text; `kind` is a class of the page's style."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def command(line: str) -> str:
    """Something to type."""
    return f"<pre>{escape(line)}</pre>"


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
  --c0: #2f6fb4; --c1: #c98a2b; --c2: #5f9a6b; --c3: #a8547c; --c4: #6f6ac0; --c5: #8d8f94; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e3; --faint: #9b9ea4; --line: #36383c; --paper: #17181a;
  --panel: #212326; --c0: #6aa5e3; --c1: #dba850; --c2: #7fbf8c; --c3: #d583ab; --c4: #9c97e6; --c5: #7d8086; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 64rem; padding: 1.2rem 1rem 3rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.3rem; margin: 0; } h2 { font-size: 1.05rem; margin: 2rem 0 .4rem; } p { margin: .4rem 0; }
.big { font-size: 1.5rem; line-height: 1.3; font-weight: 600; color: var(--c0); } .note { color: var(--faint); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .3rem 1.4rem .3rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 550; } thead th { color: var(--faint); font-size: .8rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: .6rem 1.6rem; }
figure { margin: .6rem 0; max-width: 34rem; } figcaption { font-size: .85rem; color: var(--ink); }
.legend { display: block; color: var(--faint); } .legend span { margin-right: 1rem; white-space: nowrap; }
.legend i { display: inline-block; width: .7rem; height: .7rem; border-radius: 2px; margin-right: .35rem; }
svg { display: block; width: 100%; margin-top: .3rem; font: 12px system-ui, sans-serif; }
svg text { fill: var(--faint); } .grid { stroke: var(--line); } .curve { fill: none; stroke-width: 2; }
.faint { stroke-width: 1; opacity: .35; }
pre { background: var(--panel); padding: .6rem .8rem; border-radius: 4px; overflow-x: auto; font-size: .85rem;
  white-space: pre-wrap; }
"""
