"""Curves as small SVG pictures for a page, in the page's own colours (`--c0` ... `--c5`)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

from pizero import axis

NUM_COLOURS = 6
"""The page defines so many; further curves start again."""
WIDTH, HEIGHT = 480.0, 250.0
"""Units of an SVG; the page scales it to the screen."""
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 10, 34


@dataclass(frozen=True)
class Curve:
    """One line of a plot; a single point is a dot."""

    name: str
    """What the legend calls it; "": it is not in the legend."""
    x: Sequence[int | float]
    """For example training steps, rising."""
    y: Sequence[int | float]
    """One value per x."""
    colour: int
    """Which of the page's colours."""
    faint: bool = False
    """Drawn thin and pale, as what another curve smooths."""

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
    """Whether the vertical axis is logarithmic; it is not where a value is not above 0."""
    from_zero: bool = False
    """Whether the vertical axis has 0 on it, also where no value is near."""


def line_svg(plot: Plot) -> str:
    """The curves with axes and grid; the page adds title and legend."""
    curves = [_thin(curve) for curve in plot.curves]
    xs = [x for curve in curves for x in curve.x]
    ys = [y for curve in curves for y in curve.y]
    log = plot.log_y and min(ys) > 0
    low, high = (min(0.0, *ys), max(0.0, *ys)) if plot.from_zero else (min(ys), max(ys))
    y_ticks = axis.log_ticks(low, high) if log else axis.ticks(low, high)
    x_range, y_range = (min(xs), max(xs)), (min([*ys, *y_ticks]), max([*ys, *y_ticks]))

    def across(x: int | float) -> float:
        return LEFT + axis.share(x, *x_range) * (WIDTH - LEFT - RIGHT)

    def down(y: int | float) -> float:
        share = axis.share(math.log(y), *map(math.log, y_range)) if log else axis.share(y, *y_range)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    parts = []
    for y in y_ticks:
        parts.append(f'<path d="M{LEFT} {down(y):.1f}H{WIDTH - RIGHT:.0f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{down(y) + 4:.1f}" text-anchor="end">{axis.number(y)}</text>')
    for x in axis.ticks(*x_range):
        if x_range[0] <= x <= x_range[1]:
            parts.append(
                f'<text x="{across(x):.1f}" y="{HEIGHT - 18:.0f}" text-anchor="middle">{axis.number(x)}</text>'
            )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 3:.0f}" text-anchor="middle">{escape(plot.x_label)}</text>')
    parts += [_line(curve, [(across(x), down(y)) for x, y in zip(curve.x, curve.y, strict=True)]) for curve in curves]
    box = f'viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}"'
    return f'<svg {box} role="img" aria-label="{escape(plot.title)}">{"".join(parts)}</svg>'


def smooth(values: Sequence[int | float], span: int | float) -> list[float]:
    """The mean of the values up to each, of which those of the last `span` weigh most (exponential, without bias)."""
    keep, total, weight, means = 1 - 1 / max(1.0, span), 0.0, 0.0, []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        means.append(total / weight)
    return means


def _line(curve: Curve, points: Sequence[tuple[float, float]]) -> str:
    colour = f"var(--c{curve.colour % NUM_COLOURS})"
    if len(points) == 1:
        (x, y), *_ = points
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" style="fill:{colour}"/>'
    kind = "curve faint" if curve.faint else "curve"
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" class="{kind}" style="stroke:{colour}"/>'


def _thin(curve: Curve) -> Curve:
    return replace(curve, x=axis.thinned(curve.x), y=axis.thinned(curve.y))
