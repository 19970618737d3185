import re
from xml.etree import ElementTree

import pytest

from pizero.sim.plot import WIDTH, Bar, Curve, Plot, bar_svg, line_svg


def points(svg: str) -> list[tuple[float, float]]:
    [line] = re.findall(r'points="([^"]+)"', svg)
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())]


def labels(svg: str) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(svg).iter("text")]


def test_a_straight_line_stays_straight_and_rises() -> None:
    drawn = points(line_svg(Plot("p", "step", (Curve("c", [0, 10, 20], [1, 2, 3]),))))
    assert drawn[0][0] < drawn[1][0] < drawn[2][0] < WIDTH
    assert drawn[1] == pytest.approx(((drawn[0][0] + drawn[2][0]) / 2, (drawn[0][1] + drawn[2][1]) / 2), abs=0.11)
    assert drawn[0][1] > drawn[2][1]  # SVG counts downwards


def test_powers_of_ten_are_evenly_spaced_on_a_logarithmic_axis() -> None:
    drawn = points(line_svg(Plot("p", "step", (Curve("c", [0, 1, 2], [1, 0.1, 0.01]),), log_y=True)))
    assert drawn[1][1] - drawn[0][1] == pytest.approx(drawn[2][1] - drawn[1][1], abs=0.11)


def test_ticks_are_round_and_enclose_the_values() -> None:
    assert labels(line_svg(Plot("p", "step", (Curve("c", [0, 2000], [0.03, 1.1]),))))[:-1] == [
        *["0", "0.5", "1", "1.5"],
        *["0", "500", "1k", "1.5k", "2k"],
    ]
    logarithmic = labels(line_svg(Plot("p", "step", (Curve("c", [0, 2000], [0.03, 1.1]),), log_y=True)))
    assert logarithmic[:7] == ["0.02", "0.05", "0.1", "0.2", "0.5", "1", "2"]
    assert labels(line_svg(Plot("p", "step", (Curve("c", [0, 9], [1e-5, 1.0]),), log_y=True)))[:2] == ["1e-5", "1e-4"]


def test_a_long_curve_is_drawn_by_means_of_neighbours() -> None:
    drawn = points(line_svg(Plot("p", "step", (Curve("c", list(range(1000)), [i % 2 for i in range(1000)]),))))
    assert len(drawn) == 250
    assert len({y for _, y in drawn}) == 1


def test_a_single_point_and_a_constant_can_be_drawn() -> None:
    line_svg(Plot("p", "step", (Curve("c", [5], [2.0]),)))
    line_svg(Plot("p", "step", (Curve("c", [5], [2.0]),), log_y=True))
    line_svg(Plot("p", "step", (Curve("c", [5, 6], [0.0, 0.0]),)))


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="logarithmic axis and the value 0"):
        line_svg(Plot("p", "step", (Curve("c", [0, 1], [0, 1]),), log_y=True))
    with pytest.raises(ValueError, match="2 x and 1 y"):
        Curve("c", [0, 1], [0])
    with pytest.raises(ValueError, match="0 x and 0 y"):
        Curve("c", [], [])


def test_bars_are_as_long_as_their_share_and_intervals_lie_around_their_end() -> None:
    svg = bar_svg("t", [("task <a>", [Bar("policy", 0, 0.5, 0.4, 0.6), Bar("other", 1, 1.0, 0.9, 1.0)])])
    root = ElementTree.fromstring(svg)
    half, whole = (float(rect.get("width", "")) for rect in root.iter("rect"))
    assert half == pytest.approx(whole / 2, abs=0.1)
    ends = [
        [float(x) for x in re.findall(r"[MH]([\d.]+)", path.get("d", ""))[:2]]
        for path in root.iter("path")
        if path.get("class") == "interval"
    ]
    assert ends[0] == pytest.approx([4 + 0.4 * whole, 4 + 0.6 * whole], abs=0.1)
    assert next(iter(root.iter("title"))).text == "policy: 50 %, interval 40 to 60 %"
    assert "task <a>" in labels(svg)
