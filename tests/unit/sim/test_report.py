import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pizero.sim.compare import compare
from pizero.sim.count import Count
from pizero.sim.interval import wilson
from pizero.sim.outcome import EpisodeResult
from pizero.sim.plot import Curve, Plot
from pizero.sim.report import write_report
from pizero.sim.result import Command, Film, ReportData, Stage, TaskRow, Throughput, task_rows


def episodes(task: str, outcomes: str) -> list[EpisodeResult]:
    """One episode per letter: s solved, f failed, e error."""
    return [
        EpisodeResult(
            task=task,
            episode=i,
            seed=i,
            state=None,
            success=letter == "s",
            steps=10,
            first_success=4 + i if letter == "s" else None,
            error="it broke" if letter == "e" else None,
            seconds=1.0,
            prompt="do " + task,
            attempts=2 if letter == "e" else 1,
        )
        for i, letter in enumerate(outcomes)
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
        throughput=Throughput(8, 120.0, 30.0, 2),
        comparison=compare(results, baseline, ("this", "<that>")),
        errors=("toy/a, episode 3: it <broke>",),
        settings={"machine": "2 cores"},
        made_by="pizero eval 'X' --task toy/a",
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
        TaskRow("toy/b", "do toy/b", Count(1, 1), {"mean": Count(0, 0)}, 4.0),
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


def test_tasks_count_the_same_in_their_mean(data: ReportData, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", data)
    total = json.loads((tmp_path / "result.json").read_text())["total"]
    assert total["mean_rate"] == pytest.approx((3 / 3 + 1 / 4) / 2)
    assert total["rate"] == pytest.approx(4 / 7)
    page = (tmp_path / "report.html").read_text()
    assert "Mean over the tasks: 62.5 %." in page
    assert "<th>mean over tasks</th><td><b>62.5 %</b></td><td><b>12.5 %</b></td>" in page
    assert replace(data, rows=task_rows(episodes("toy/a", "s") + episodes("toy/b", "e"))).mean_rate is None


def test_steps_to_success_are_those_of_solved_episodes(data: ReportData, tmp_path: Path) -> None:
    rows = task_rows(episodes("toy/a", "sfse"))
    assert (rows[0].steps_to_success, rows[0].repeated) == (5.0, 1)
    write_report(tmp_path / "report.html", data)
    assert json.loads((tmp_path / "result.json").read_text())["tasks"][0]["steps_to_success"] == 5.0
    page = (tmp_path / "report.html").read_text()
    assert "<small>solved after 5.0 steps on average</small><small>1 repeated after a crash</small>" in page


def test_the_page_says_how_fast_it_went_what_broke_and_what_made_it(data: ReportData, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", data)
    page = (tmp_path / "report.html").read_text()
    assert "4.0 episodes a minute with 2 simulator processes" in page
    assert "the simulators took 1 min 30 s and the policy 30.0 s (25 %)" in page
    assert "<li>toy/a, episode 3: it &lt;broke&gt;</li>" in page
    assert "<pre>pizero eval &#x27;X&#x27; --task toy/a</pre>" in page
    twin = json.loads((tmp_path / "result.json").read_text())
    assert twin["throughput"]["episodes_per_minute"] == pytest.approx(4.0)
    assert twin["throughput"]["policy_share"] == 0.25
    assert twin["errors"] == ["toy/a, episode 3: it <broke>"]


def test_another_run_is_set_beside_this_one(data: ReportData, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", data)
    page = (tmp_path / "report.html").read_text()
    assert "<th>&lt;that&gt;</th>" in page
    # toy/a: the first three, all solved here only; toy/b: one solved by each
    assert "<td>3</td><td>0</td><td><b>0.25</b></td>" in page
    assert "<td>1</td><td>1</td><td><b>1</b></td>" in page
    assert "1 left out, since an error ended them" in page
    total = json.loads((tmp_path / "result.json").read_text())["comparison"]["total"]
    assert (total["only_first"], total["only_second"], total["p_value"]) == (4, 1, pytest.approx(2 * 6 / 32))


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
    notes = "<small>2 repeated after a crash</small><small>2 more ended in an error</small>"
    assert f"<td>no episode{notes}</td>" in (tmp_path / "report.html").read_text()
