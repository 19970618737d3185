from dataclasses import replace
from pathlib import Path

import pytest

from pizero.sim.compare import ALL, Pairs, compare, compare_runs
from pizero.sim.interval import wilson
from pizero.sim.journal import Journal
from pizero.sim.outcome import EpisodeResult


def run(task: str, outcomes: str) -> list[EpisodeResult]:
    """One episode per letter: s solved, f failed, e error; in a fourth of them, state 3, and so on."""
    return [
        EpisodeResult(
            task=task,
            episode=i,
            seed=100 + i,
            state=i,
            success=letter == "s",
            steps=9,
            error="it broke" if letter == "e" else None,
            seconds=1.0,
        )
        for i, letter in enumerate(outcomes)
    ]


def test_pairs_are_counted_by_task_and_in_all() -> None:
    first = run("toy/a", "ssssssssff") + run("toy/b", "sf")
    second = run("toy/b", "ff") + list(reversed(run("toy/a", "sfffffffsf")))
    comparison = compare(first, second)
    assert comparison.tasks == (Pairs("toy/a", 1, 7, 1, 1), Pairs("toy/b", 0, 1, 0, 1))
    assert comparison.total == Pairs(ALL, 1, 8, 1, 2)
    a, total = comparison.tasks[0], comparison.total
    assert a.p_value == pytest.approx(18 / 256)
    assert (a.first.rate, a.second.rate, a.num_episodes) == (0.8, 0.2, 10)
    assert (a.first.interval, a.second.interval) == (wilson(8, 10), wilson(2, 10))
    assert total.p_value == pytest.approx(2 * (1 + 9) / 2**9)
    assert (comparison.left_out, comparison.unpaired) == (0, (0, 0))


def test_only_the_same_episode_from_the_same_start_is_a_pair() -> None:
    first = run("toy/a", "sss")
    second = run("toy/a", "sff")
    second[1] = replace(second[1], seed=999)
    second[2] = replace(second[2], state=None)
    comparison = compare(first, second)
    assert comparison.tasks == (Pairs("toy/a", 1, 0, 0, 0),)
    assert comparison.unpaired == (2, 2)


def test_errors_are_left_out_and_counted() -> None:
    comparison = compare(run("toy/a", "ses") + run("toy/b", "e"), run("toy/a", "efs") + run("toy/b", "s"))
    assert comparison.tasks == (Pairs("toy/a", 1, 0, 0, 0),)
    assert comparison.left_out == 3


def test_runs_without_a_common_episode_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one \(2 episodes\) and two \(1\) have no episode in common"):
        compare(run("toy/a", "ss"), run("toy/b", "s"), ("one", "two"))


def test_runs_are_read_from_their_folders_with_what_differs(tmp_path: Path) -> None:
    for name, outcomes, steps in (("one", "ssf", 10), ("two", "sff", 1)):
        journal = Journal(tmp_path / name, {"seed": 0, "num_steps": steps})
        for result in run("toy/a", outcomes):
            journal.add(result)
    comparison = compare_runs(tmp_path / "one", tmp_path / "two")
    assert comparison.tasks == (Pairs("toy/a", 1, 1, 0, 1),)
    assert comparison.differences == ("num_steps: 10 against 1",)
    values = comparison.to_json()
    assert values["total"]["p_value"] == 1.0
    assert values["tasks"][0]["only_first"] == 1
    assert values["first"] == str(tmp_path / "one")
    with pytest.raises(ValueError, match="is no folder of an evaluation"):
        compare_runs(tmp_path / "one", tmp_path / "three")
