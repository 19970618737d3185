"""Curves and bars as small SVG pictures for a page, in the page's own colours (`--c0` ... `--c3`, `--faint`)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

from pizero import axis

NUM_COLOURS = 4
"""The page defines so many; further curves start again."""
WIDTH = 480.0
"""Units of an SVG; the page scales it to the screen."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 10, 34
_HEIGHT = 260.0


@dataclass(frozen=True)
class Curve:
    """One line of a plot."""

    name: str
    """What the legend calls it."""
    x: Sequence[int | float]
    """For example training steps, rising."""
    y: Sequence[int | float]
    """One value per x."""

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y) or not self.x:
            raise ValueError(f"curve {self.name!r} has {len(self.x)} x and {len(self.y)} y; it needs as many, and one")


@dataclass(frozen=True)
class Plot:
    """Curves over one pair of axes."""

    title: str
    """Said above the plot."""
    x_label: str
    """What the horizontal axis counts."""
    curves: tuple[Curve, ...]
    """The lines."""
    log_y: bool = False
    """Whether the vertical axis is logarithmic; all values must then be above 0."""


@dataclass(frozen=True)
class Bar:
    """A share with its interval, all in [0, 1]."""

    label: str
    """What the hint on the bar says before its numbers."""
    colour: int
    """Which of the page's colours."""
    share: float
    """Length of the bar."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""


def line_svg(plot: Plot) -> str:
    """The curves with axes and grid; the page adds title and legend."""
    curves = [_thin(curve) for curve in plot.curves]
    xs = [x for curve in curves for x in curve.x]
    ys = [y for curve in curves for y in curve.y]
    if plot.log_y and min(ys) <= 0:
        raise ValueError(f"plot {plot.title!r} has a logarithmic axis and the value {min(ys)}")
    x_ticks = axis.ticks(min(xs), max(xs))
    y_ticks = axis.log_ticks(min(ys), max(ys)) if plot.log_y else axis.ticks(min(ys), max(ys))
    x_range = min(xs), max(max(xs), x_ticks[-1] if len(set(xs)) == 1 else max(xs))
    y_range = min([*ys, *y_ticks]), max([*ys, *y_ticks])

    def across(x: int | float) -> float:
        return _LEFT + axis.share(x, *x_range) * (WIDTH - _LEFT - _RIGHT)

    def down(y: int | float) -> float:
        share = axis.share(math.log(y), *map(math.log, y_range)) if plot.log_y else axis.share(y, *y_range)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for y in y_ticks:
        parts.append(f'<path d="M{_LEFT} {down(y):.1f}H{WIDTH - _RIGHT:.0f}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{down(y) + 4:.1f}" text-anchor="end">{axis.number(y)}</text>')
    for x in x_ticks:
        if x_range[0] <= x <= x_range[1]:
            parts.append(
                f'<text x="{across(x):.1f}" y="{_HEIGHT - 18:.0f}" text-anchor="middle">{axis.number(x)}</text>'
            )
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 3:.0f}" text-anchor="middle">{escape(plot.x_label)}</text>')
    for number, curve in enumerate(curves):
        points = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in zip(curve.x, curve.y, strict=True))
        parts.append(f'<polyline points="{points}" class="curve" style="stroke:var(--c{number % NUM_COLOURS})"/>')
    return _svg(plot.title, _HEIGHT, parts)


def bar_svg(title: str, groups: Sequence[tuple[str, Sequence[Bar]]]) -> str:
    """Horizontal bars from 0 to 100 %, grouped under a heading each, with the interval as a thin line."""
    bar, gap, heading, left = 11, 3, 20, 4
    width = WIDTH - left - 20

    def across(share: float) -> float:
        return left + share * width

    parts: list[str] = []
    y = 2.0
    body: list[str] = []
    for name, bars in groups:
        body.append(f'<text x="{left}" y="{y + 13:.1f}">{escape(name)}</text>')
        y += heading
        for each in bars:
            hint = f"{each.label}: {100 * each.share:.0f} %, interval {100 * each.low:.0f} to {100 * each.high:.0f} %"
            middle = y + bar / 2
            body.append(
                f'<g><title>{escape(hint)}</title><rect x="{left}" y="{y:.1f}" height="{bar}" rx="2" '
                f'width="{max(1.5, each.share * width):.1f}" style="fill:var(--c{each.colour % NUM_COLOURS})"/>'
                f'<path d="M{across(each.low):.1f} {middle:.1f}H{across(each.high):.1f}'
                f'M{across(each.low):.1f} {middle - 3.5:.1f}v7M{across(each.high):.1f} {middle - 3.5:.1f}v7" '
                'class="interval"/></g>'
            )
            y += bar + gap
        y += 6
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<path d="M{across(share):.1f} 2V{y:.1f}" class="grid"/>')
        anchor = "start" if share == 0 else "middle"
        parts.append(
            f'<text x="{across(share):.1f}" y="{y + 14:.1f}" text-anchor="{anchor}">{100 * share:.0f} %</text>'
        )
    return _svg(title, y + 20, parts + body)


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    box = f'viewBox="0 0 {WIDTH:.0f} {height:.0f}"'
    return f'<svg {box} role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'


def _thin(curve: Curve) -> Curve:
    return replace(curve, x=axis.thinned(curve.x), y=axis.thinned(curve.y))
