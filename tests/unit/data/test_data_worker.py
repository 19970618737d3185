import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pizero.data.shared import SharedArray
from pizero.data.worker import WorkerPool


def work(task: tuple) -> object:
    """What the tests ask of a worker."""
    match task:
        case ("raise", error):
            raise error
        case ("die", path, times):  # that many times, then answers
            with open(path, "a") as file:
                file.write("x")
            if len(Path(path).read_text()) <= times:
                os.kill(os.getpid(), signal.SIGKILL)
            return "alive"
        case ("settings",):
            return torch.get_num_threads(), signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        case ("sleep", seconds, name):
            time.sleep(seconds)
            return name
        case _:
            return os.getpid()


class UnpicklableError(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__("two numbers")


def break_it(task: int) -> None:
    raise UnpicklableError(1, 2) if task else KeyError("a mistake")


class Fill:
    """Writes a task's number to its place in shared memory."""

    def __init__(self, array: SharedArray) -> None:
        self.array = array

    def __call__(self, task: int) -> float:
        before = float(self.array.values[task, 0])
        self.array.values[task] = 10 * task
        return before


def answers(pool: WorkerPool, count: int) -> list:
    found: list = []
    deadline = time.monotonic() + 120
    while len(found) < count and time.monotonic() < deadline:
        found += pool.answers(0.5)
    assert len(found) == count
    return found


@pytest.fixture
def pool():
    pool = WorkerPool(2, work, "do something else")
    yield pool
    pool.close()


def test_workers_share_the_tasks_and_are_deaf_to_ctrl_c_and_use_one_thread(pool: WorkerPool) -> None:
    for _ in range(8):
        pool.submit(("sleep", 0.05, "pid"))
        pool.submit(("pid",))
    pids = {answer for task, answer in answers(pool, 16) if task == ("pid",)}
    assert os.getpid() not in pids
    assert 1 <= len(pids) <= 2
    pool.submit(("settings",))
    assert answers(pool, 1) == [(("settings",), (1, True))]
    assert pool.restarts == 0


def test_a_killed_worker_is_replaced_and_its_tasks_are_done(pool: WorkerPool, tmp_path: Path) -> None:
    tasks = [("sleep", 0.01, i) for i in range(3)] + [("die", str(tmp_path / "deaths"), 1)]
    tasks += [("sleep", 0.01, i) for i in range(3, 9)]
    for task in tasks:
        pool.submit(task)
    found = dict(answers(pool, len(tasks)))
    assert found == {task: "alive" if task[0] == "die" else task[2] for task in tasks}
    assert pool.restarts == 1


def test_what_a_killed_worker_had_is_done_again_in_its_order(tmp_path: Path) -> None:
    pool: WorkerPool = WorkerPool(1, work, "do something else")
    pool.submit(("die", str(tmp_path / "deaths"), 1))
    pool.submit(("sleep", 0.0, "next"))
    assert [answer for _, answer in answers(pool, 2)] == ["alive", "next"]
    pool.close()


def test_a_task_that_kills_three_workers_is_given_up_and_the_others_are_done(pool: WorkerPool, tmp_path: Path) -> None:
    deadly = ("die", str(tmp_path / "deaths"), 99)
    pool.submit(deadly)
    pool.submit(("sleep", 0.0, "other"))
    found = dict(answers(pool, 2))
    assert found["sleep", 0.0, "other"] == "other"
    assert isinstance(found[deadly], ValueError)
    assert "3 worker processes died one after another (exit code -9)" in str(found[deadly])
    assert str(found[deadly]).endswith("perhaps for memory: do something else")
    assert (tmp_path / "deaths").read_text() == "xxx"
    assert pool.restarts == 3


def test_errors_travel_those_of_users_as_they_are_others_with_their_traceback() -> None:
    pool: WorkerPool = WorkerPool(1, work, "do something else")
    pool.submit(("raise", ValueError("it is too long")))
    [(_, error)] = answers(pool, 1)
    assert type(error) is ValueError
    assert str(error) == "it is too long"
    assert not hasattr(error, "__notes__")
    pool.close()
    pool = WorkerPool(1, break_it, "do something else")
    pool.submit(0)
    [(_, error)] = answers(pool, 1)
    assert type(error) is KeyError
    assert "break_it" in error.__notes__[0]
    pool.submit(1)
    [(_, error)] = answers(pool, 1)
    assert type(error) is RuntimeError
    assert "UnpicklableError: two numbers" in str(error)
    pool.close()


def test_closing_ends_the_processes() -> None:
    pool: WorkerPool = WorkerPool(2, work, "do something else")
    for i in range(4):
        pool.submit(("sleep", 0.0 if i else 60.0, i))
    answers(pool, 2)  # the other fast one waits behind the slow one
    processes = [worker.process for worker in pool._workers if worker]
    assert all(process.is_alive() for process in processes)
    began = time.monotonic()
    pool.close()
    assert time.monotonic() - began < 30  # it does not wait for the task of a minute
    assert not any(process.is_alive() for process in processes)


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    code = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_data_worker import work, answers
from pizero.data.worker import WorkerPool
if __name__ == "__main__":
    pool = WorkerPool(1, work, "do something else")
    pool.submit(("pid",))
    print(answers(pool, 1)[0][1], flush=True)
    time.sleep(100)
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.kill()
        deadline = time.monotonic() + 20
        while Path(f"/proc/{pid}").exists() and _is_running(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _is_running(pid)
        assert parent.stderr is not None
        assert parent.stderr.read() == b""


def _is_running(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_shared_memory_is_the_same_on_both_sides() -> None:
    array = SharedArray((3, 2), np.float32)
    array.values[2] = 7
    pool: WorkerPool = WorkerPool(1, Fill(array), "do something else")
    for task in range(3):
        pool.submit(task)
    assert dict(answers(pool, 3)) == {0: 0.0, 1: 0.0, 2: 7.0}
    pool.close()
    assert array.values.tolist() == [[0, 0], [10, 10], [20, 20]]
    assert SharedArray((0, 3), np.uint8).values.shape == (0, 3)


def test_there_must_be_a_worker() -> None:
    with pytest.raises(ValueError, match="workers is 0"):
        WorkerPool(0, work, "do something else")
