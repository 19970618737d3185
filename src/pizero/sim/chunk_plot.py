"""Planned and executed actions against time, as a picture that stands beside a film's view."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageDraw, ImageFont

OVERSAMPLING = 2
"""Drawn so many times larger, then made smaller: PIL draws no smooth lines."""
MOST_PANELS = 8
"""Under each other; more actions go into further columns."""
LEAST_PAST = 24
"""Control steps of the past that are shown at least; three chunks, where those are longer."""
LEAST_SPAN = 1e-3
"""Of a panel's vertical axis, in the action's unit, so that a constant does not fill it with rounding."""
TEXT_SIZE = 11
"""Pixels; a line that would be too long is written smaller."""
TITLE_HEIGHT = 28
"""Pixels for two lines of text above the panels."""
_MARGIN = 0.08  # of a panel's height, above and below the curves
_PAPER, _PANEL, _INK, _FAINT, _OLD, _NOW = "#fdfdfc", "#f3f3f1", "#1c1d20", "#6b6f76", "#9db8d6", "#d97a1a"

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the large drawing."""


@dataclass(frozen=True)
class ActionLog:
    """What a policy planned in an episode, and what of it was executed."""

    names: tuple[str, ...]
    """Name of each action."""
    executed: Float32[np.ndarray, "n a"]
    """The action of every control step, in real units."""
    starts: tuple[int, ...]
    """For each plan the control step at which it was made, rising."""
    chunks: tuple[Float32[np.ndarray, "t a"], ...]
    """For each plan its actions, the first for the step at which it was made."""

    def plan_at(self, step: int) -> int:
        """Number of the plan that is being executed at a control step."""
        return int(np.searchsorted(self.starts, step, side="right")) - 1

    def ranges(self) -> list[tuple[float, float]]:
        """For each action the smallest and the largest value, planned or executed, with a margin."""
        every = np.concatenate([self.executed, *self.chunks])
        lows, highs = every.min(0).astype(float), every.max(0).astype(float)
        spans = np.maximum(highs - lows, LEAST_SPAN) * (1 + 2 * _MARGIN)
        return [(float(m - s / 2), float(m + s / 2)) for m, s in zip((lows + highs) / 2, spans, strict=True)]


def draw_chunks(
    log: ActionLog, now: int, title: Sequence[str], width: int, height: int
) -> UInt8[np.ndarray, "height width 3"]:
    """One small panel per action, time to the right: the actions executed before control step `now` as a dark line,
    what earlier plans had in mind as pale ones, and the chunk that is being executed at `now` in orange.

    title: at most two lines above the panels.
    """
    scale = OVERSAMPLING
    image = Image.new("RGB", (width * scale, height * scale), _PAPER)
    draw = ImageDraw.Draw(image)
    for line, text in enumerate(title):
        font = ImageFont.load_default(TEXT_SIZE * scale)
        room = (width - 8) * scale / max(1.0, draw.textlength(text, font))
        if room < 1:
            font = ImageFont.load_default(TEXT_SIZE * scale * room)
        draw.text((4 * scale, (1 + 13 * line) * scale), text, _INK, font)
    columns = math.ceil(len(log.names) / MOST_PANELS)
    rows = math.ceil(len(log.names) / columns)
    across, down = width * scale / columns, (height - TITLE_HEIGHT) * scale / rows
    for number, limits in enumerate(log.ranges()):
        left = number // rows * across
        top = TITLE_HEIGHT * scale + number % rows * down
        box = (left + 3 * scale, top + scale, left + across - 3 * scale, top + down - scale)
        _panel(draw, box, log, number, limits, now)
    return np.asarray(image.resize((width, height), Image.Resampling.BOX))


def _panel(
    draw: ImageDraw.ImageDraw, box: Box, log: ActionLog, number: int, limits: tuple[float, float], now: int
) -> None:
    left, top, right, bottom = box
    current = log.plan_at(now)
    horizon = len(log.chunks[0])
    past = max(LEAST_PAST, 3 * horizon)
    first, last = now - past, now + horizon

    def line(start: int, values: Sequence[float], colour: str, thick: float) -> None:
        steps = [(start + i, value) for i, value in enumerate(values) if first <= start + i <= last]
        points = [
            (
                left + (step - first) / (last - first) * (right - left),
                bottom - (value - limits[0]) / (limits[1] - limits[0]) * (bottom - top),
            )
            for step, value in steps
        ]
        if len(points) > 1:
            draw.line(points, colour, round(thick * OVERSAMPLING), joint="curve")

    draw.rectangle(box, _PANEL)
    at_now = left + past / (last - first) * (right - left)
    draw.line([(at_now, top), (at_now, bottom)], _FAINT, OVERSAMPLING // 2)
    for plan in range(current):
        if log.starts[plan] + len(log.chunks[plan]) > first:
            line(log.starts[plan], log.chunks[plan][:, number].tolist(), _OLD, 1.0)
    line(0, log.executed[:now, number].tolist(), _INK, 1.4)
    line(log.starts[current], log.chunks[current][:, number].tolist(), _NOW, 1.8)
    draw.text((left + 2 * OVERSAMPLING, top), log.names[number], _FAINT, ImageFont.load_default(9 * OVERSAMPLING))
