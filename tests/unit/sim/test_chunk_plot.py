import numpy as np
import pytest
from PIL import ImageColor

from pizero.sim.chunk_plot import _INK, _NOW, _OLD, TITLE_HEIGHT, ActionLog, draw_chunks

WIDTH, HEIGHT = 320, 256


def log(names: tuple[str, ...] = ("rises", "falls")) -> ActionLog:
    """60 steps, a plan every 4 of 10 actions; the first action rises, the others fall."""
    signs = np.array([1.0, *[-1.0] * (len(names) - 1)], np.float32)
    executed = np.arange(60, dtype=np.float32)[:, None] * signs
    starts = tuple(range(0, 60, 4))
    chunks = tuple(
        (np.arange(s, s + 10, dtype=np.float32)[:, None] + (np.arange(10) > 3)[:, None]) * signs for s in starts
    )
    return ActionLog(names, executed, starts, tuple(chunk.astype(np.float32) for chunk in chunks))


def near(picture: np.ndarray, colour: str, panel: int, panels: int) -> np.ndarray:
    """(n, 2) row and column of the pixels of a panel that have about that colour."""
    height = (HEIGHT - TITLE_HEIGHT) / panels
    top, bottom = round(TITLE_HEIGHT + panel * height) + 1, round(TITLE_HEIGHT + (panel + 1) * height) - 1
    wanted, found = np.array(ImageColor.getrgb(colour)), picture[top:bottom].astype(int)
    tint = found - found.mean(2, keepdims=True) - (wanted - wanted.mean())  # the line at "now" is grey, not pale blue
    return np.argwhere((np.abs(found - wanted).max(2) < 40) & (np.abs(tint).max(2) < 15))


def test_the_plan_of_a_step_is_the_last_one_made() -> None:
    assert [log().plan_at(step) for step in (0, 3, 4, 7, 59, 60)] == [0, 0, 1, 1, 14, 14]


def test_an_axis_holds_everything_planned_and_executed() -> None:
    for (low, high), (smallest, largest) in zip(log().ranges(), ((0, 66), (-66, 0)), strict=True):
        assert low < smallest
        assert largest < high
    still = ActionLog(("still",), np.ones((3, 1), np.float32), (0,), (np.ones((5, 1), np.float32),))
    [(low, high)] = still.ranges()
    assert low < 1 < high


def test_the_past_is_left_of_now_the_chunk_right_and_earlier_plans_pale() -> None:
    picture = draw_chunks(log(), 42, ("do it", "step 42"), WIDTH, HEIGHT)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    step = (WIDTH - 6) / 40
    now = 3 + 30 * step  # 30 steps of the past, 10 of the future
    for panel, slope in ((0, -1), (1, 1)):  # rows count downwards
        past, chunk = near(picture, _INK, panel, 2), near(picture, _NOW, panel, 2)
        past = past[past[:, 0] > 12]  # not the panel's name
        assert past[:, 1].max() <= now
        assert chunk[:, 1].min() == pytest.approx(now - 2 * step, abs=2)  # it was planned two steps ago
        assert chunk[:, 1].max() == pytest.approx(now + 7 * step, abs=2)
        assert np.sign(np.polyfit(chunk[:, 1], chunk[:, 0], 1)[0]) == slope
        assert len(near(picture, _OLD, panel, 2)) > 20


def test_the_first_chunk_stands_alone() -> None:
    picture = draw_chunks(log(), 0, ("do it",), WIDTH, HEIGHT)
    assert len(near(picture, _NOW, 0, 2)) > 20
    assert len(near(picture, _OLD, 0, 2)) == 0


def test_many_actions_go_into_two_columns() -> None:
    picture = draw_chunks(log(tuple(f"joint_{i}" for i in range(14))), 40, ("a very long line " * 20,), WIDTH, HEIGHT)
    columns = [len(near(picture[:, side], _NOW, 0, 7)) for side in (slice(0, 160), slice(160, 320))]
    assert min(columns) > 10
    title = picture[:TITLE_HEIGHT].min(2)
    assert (title[:, -3:] > 200).all()  # the title fits
