import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pizero.sim.interval import wilson
from pizero.sim.plot import Curve, Plot
from pizero.sim.report import Command, Count, Film, ReportData, Stage, TaskRow, task_rows, write_report
from pizero.sim.rollout import EpisodeResult


def episodes(task: str, outcomes: str) -> list[EpisodeResult]:
    """One episode per letter: s solved, f failed, e error."""
    return [
        EpisodeResult(task, seed, letter == "s", 10, "it broke" if letter == "e" else None, 1.0, "do " + task)
        for seed, letter in enumerate(outcomes)
    ]


@pytest.fixture
def data(tmp_path: Path) -> ReportData:
    (tmp_path / "film.mp4").write_bytes(b"film")
    (tmp_path / "strip.png").write_bytes(b"strip")
    results = episodes("toy/a", "ssse") + episodes("toy/b", "sfff")
    baseline = episodes("toy/a", "ffff") + episodes("toy/b", "ffsf")
    return ReportData(
        title="A <run>",
        summary="Trained & tested.",
        policy_name="trained",
        rows=task_rows(results, {"untrained": baseline}),
        plots=(Plot("Loss", "step", (Curve("training", [0, 1], [1.0, 0.1]),), log_y=True),),
        strips=(Film(tmp_path / "strip.png", "a strip"),),
        videos=(Film(tmp_path / "film.mp4", "a film"),),
        stages=(Stage("training", 90.5, "5 steps/s"), Stage("evaluation", 30.0)),
        commands=(Command("pizero eval X --task toy/a", "once more"),),
        settings={"machine": "2 cores"},
    )


def test_errors_are_counted_apart_from_failures() -> None:
    count = Count.of(episodes("toy/a", "ssfe"))
    assert count == Count(successes=2, episodes=3, errors=1)
    assert count.rate == pytest.approx(2 / 3)
    assert count.interval == wilson(2, 3)
    assert Count.of(episodes("toy/a", "ee")) == Count(0, 0, 2)
    assert Count(0, 0, 2).rate is None
    assert Count(0, 0, 2).interval is None


def test_rows_keep_the_order_of_the_results_and_pair_the_baselines() -> None:
    rows = task_rows(episodes("toy/b", "s") + episodes("toy/a", "f"), {"mean": episodes("toy/a", "ss")})
    assert rows == (
        TaskRow("toy/b", "do toy/b", Count(1, 1), {"mean": Count(0, 0)}),
        TaskRow("toy/a", "do toy/a", Count(0, 1), {"mean": Count(2, 2)}),
    )


def test_the_json_twin_says_what_the_page_says(data: ReportData, tmp_path: Path) -> None:
    write_report(tmp_path / "out" / "report.html", data)
    twin = json.loads((tmp_path / "out" / "result.json").read_text())
    total = twin["total"]
    assert (total["successes"], total["episodes"], total["errors"], twin["seconds"]) == (4, 7, 1, 120.5)
    assert total["interval"] == pytest.approx(wilson(4, 7))
    assert total["baselines"]["untrained"]["successes"] == 1
    task = twin["tasks"][0]
    assert (task["task"], task["prompt"], task["successes"], task["episodes"], task["errors"]) == (
        *("toy/a", "do toy/a"),
        *(3, 3, 1),
    )
    assert task["baselines"]["untrained"] == {
        "successes": 0,
        "episodes": 4,
        "rate": 0.0,
        "interval": pytest.approx(wilson(0, 4)),
        "errors": 0,
    }
    assert twin["stages"][0] == {"name": "training", "seconds": 90.5, "note": "5 steps/s"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert '<p class="big">57.1 %</p><p>4 of 7 episodes solved in 2 tasks; 1 more ended in an error.' in page
    assert "<b>100 %</b> 3/3<small>44 to 100 %</small>" in page
    assert "<b>25 %</b> 1/4<small>5 to 70 %</small>" in page
    assert "2 min 00 s" in page
    assert "1 min 30 s" in page
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "result.json"]


def test_the_page_needs_no_other_file_and_no_network(data: ReportData, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", data)
    page = (tmp_path / "report.html").read_text()
    assert set(re.findall(r'src="([^,"]+)', page)) == {"data:video/mp4;base64", "data:image/png;base64"}
    assert not re.search(r"https?://|<link|<script|href=|@import|url\(", page)
    assert "ZmlsbQ==" in page  # "film"


def test_text_is_shown_not_interpreted(data: ReportData, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", data)
    page = (tmp_path / "report.html").read_text()
    assert "<h1>A &lt;run&gt;</h1>" in page
    assert "Trained &amp; tested." in page


def test_what_is_empty_is_left_out(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", ReportData("Nothing"))
    page = (tmp_path / "report.html").read_text()
    assert "<h2>" not in page
    assert "big" not in page.split("</style>")[1]
    assert json.loads((tmp_path / "result.json").read_text())["tasks"] == []


def test_a_task_without_a_counted_episode_still_has_a_page(data: ReportData, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", replace(data, rows=task_rows(episodes("toy/a", "ee"))))
    assert "<td>no episode<small>2 more ended in an error</small></td>" in (tmp_path / "report.html").read_text()
