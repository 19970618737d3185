import pytest
from hypothesis import given
from hypothesis import strategies as st

from pizero.sim.env import Task
from pizero.sim.schedule import MAX_EPISODES, Job, Schedule, make_jobs

TASKS = [Task("toy/a", "do a", 30), Task("toy/b", "do b", 40, 3)]


def keys(jobs: list[Job]) -> list[tuple[str, int]]:
    return [(job.task, job.episode) for job in jobs]


def test_the_benchmarks_states_are_gone_through_again_and_again_with_new_noise() -> None:
    jobs = make_jobs(TASKS, 7, 4)
    assert keys(jobs) == [(name, i) for name in ("toy/a", "toy/b") for i in range(7)]
    assert [job.state for job in jobs[:7]] == [None] * 7
    assert [job.state for job in jobs[7:]] == [0, 1, 2, 0, 1, 2, 0]
    assert len({job.seed for job in jobs[7:]}) == 7
    assert [job.state for job in make_jobs(TASKS, 7, 4, states="drawn")] == [None] * 14


def test_runs_with_different_seeds_share_no_episode() -> None:
    one, other = (make_jobs(TASKS[:1], 50, 4, seed) for seed in (0, 1))
    assert not {job.seed for job in one} & {job.seed for job in other}
    assert make_jobs(TASKS[:1], MAX_EPISODES, 4)[-1].seed + 1 == other[0].seed


def test_limits_and_instructions_are_the_tasks_own_unless_others_are_given() -> None:
    plain = make_jobs(TASKS, 1, 4)
    assert [(job.max_steps, job.prompt) for job in plain] == [(30, "do a"), (40, "do b")]
    told = make_jobs(TASKS, 1, 4, max_steps=20, prompts={"toy/b": "do c"})
    assert [(job.max_steps, job.prompt) for job in told] == [(20, "do a"), (20, "do c")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"episodes": 0}, "episodes is 0, must be in 1 ... 10000"),
        ({"execute_steps": 0}, "execute_steps is 0"),
        ({"max_steps": 31}, "max_steps is 31, must be in 1 ... 30 for toy/a"),
        ({"tasks": [TASKS[0], TASKS[0]]}, "named twice: toy/a"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_jobs(**({"tasks": TASKS, "episodes": 2, "execute_steps": 4} | arguments))


@given(st.integers(1, 8), st.lists(st.integers(0, 7), max_size=60), st.integers(1, 5))
def test_every_job_is_given_out_once_whoever_asks(num_tasks: int, workers: list[int], episodes: int) -> None:
    jobs = make_jobs([Task(f"toy/{i}", "", 30) for i in range(num_tasks)], episodes, 4)
    schedule = Schedule(jobs)
    asked = [schedule.next(worker) for worker in [*workers, *[0] * len(jobs)]]
    given_out = [job for job in asked if job is not None]
    assert sorted(keys(given_out)) == sorted(keys(jobs))
    assert schedule.next(3) is None


def test_a_worker_keeps_its_task_and_then_helps_where_most_is_left() -> None:
    schedule = Schedule(make_jobs([Task(f"toy/{name}", "", 30) for name in "abc"], 3, 4))
    first = [schedule.next(worker) for worker in range(4)]
    assert [job.task for job in first if job] == ["toy/a", "toy/b", "toy/c", "toy/a"]
    assert [job.episode for job in first if job] == [0, 0, 0, 1]
    rest = [schedule.next(0) for _ in range(5)]
    assert keys([job for job in rest if job]) == [("toy/a", 2), ("toy/b", 1), ("toy/b", 2), ("toy/c", 1), ("toy/c", 2)]


def test_the_result_of_a_crash_names_the_episode() -> None:
    job = make_jobs(TASKS, 2, 4)[3]
    result = job.failed("it broke")
    assert result.key == (job.task, job.episode, job.seed, job.state) == ("toy/b", 1, job.seed, 1)
    assert (result.success, result.steps, result.error) == (False, 0, "it broke")
