import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from pizero.sim.workers import Died, Workers


def serve(pipe: Connection) -> None:
    """Answers with its process and the message; dies at -1; at -2 says whether it is deaf to Ctrl-C."""
    while True:
        try:
            message = pipe.recv()
        except EOFError:
            return
        if message == -1:
            os._exit(7)
        if message == -2:
            message = int(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
        else:
            time.sleep(message)
        pipe.send((os.getpid(), message))


def test_every_worker_answers_from_its_own_process_and_keeps_it() -> None:
    with Workers(2, serve) as pool:
        pids = []
        for _ in range(2):
            for worker in (1, 0):
                pool.send(worker, 0)
            answers = pool.answers()
            assert [worker for worker, _ in answers] == [0, 1]
            pids.append([answer[0] for _, answer in answers])
    assert pids[0] == pids[1]
    assert len({*pids[0], os.getpid()}) == 3


def test_the_first_answer_does_not_wait_for_the_slow() -> None:
    with Workers(2, serve) as pool:
        pool.send(0, 0)
        pool.send(1, 0)
        pool.answers()
        pool.send(0, 2)
        pool.send(1, 0)
        assert [worker for worker, _ in pool.next_answers()] == [1]
        assert [worker for worker, _ in pool.next_answers()] == [0]


def test_a_worker_that_dies_is_reported_and_replaced() -> None:
    with Workers(1, serve) as pool:
        pool.send(0, -1)
        assert pool.answers() == [(0, Died("worker died (exit code 7)"))]
        pool.send(0, 0)
        [(_, (pid, message))] = pool.answers()
        assert message == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)  # ended with the block


def test_a_worker_that_hangs_is_killed_reported_and_replaced_while_the_others_go_on() -> None:
    with Workers(2, serve) as pool:
        for worker in range(2):
            pool.send(worker, 0)
        [(_, (hung, _)), _] = pool.answers()
        pool.send(0, 600)
        pool.send(1, 0)
        started = time.monotonic()
        [(first, (_, message)), second] = pool.answers(patience_s=1.5)[::-1]
        assert (first, message, second) == (1, 0, (0, Died("no answer for 1.5 s")))
        assert 1.4 < time.monotonic() - started < 10
        with pytest.raises(ProcessLookupError):
            os.kill(hung, 0)
        pool.send(0, 0)
        [(_, (pid, message))] = pool.answers()
        assert message == 0
        assert pid != hung


def test_patience_counts_from_the_question_and_spares_who_has_answered() -> None:
    with Workers(2, serve) as pool:
        for worker in range(2):
            pool.send(worker, 0)
        pool.answers()
        pool.send(0, 0)
        pool.send(1, 600)
        time.sleep(1.0)  # the asker was busy
        assert [answer[1] for _, answer in pool.next_answers(patience_s=0.5)] == [0]
        started = time.monotonic()
        assert pool.next_answers(patience_s=0.5) == [(1, Died("no answer for 0.5 s"))]
        assert time.monotonic() - started < 0.4
        assert pool.next_answers(patience_s=0.5) == pool.answers() == []


def test_a_worker_that_hangs_does_not_take_one_along_that_was_asked_later() -> None:
    with Workers(2, serve) as pool:
        for worker in range(2):
            pool.send(worker, 0)
        pool.answers()
        pool.send(0, 600)
        time.sleep(2.0)
        pool.send(1, 1.5)  # answers half a second after the other is given up, and 1.5 s before it would be
        assert pool.next_answers(patience_s=3.0) == [(0, Died("no answer for 3 s"))]
        assert [answer[1] for _, answer in pool.next_answers(patience_s=3.0)] == [1.5]


def test_ctrl_c_ends_workers_without_a_word_from_them(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import time\n"
        "from pizero.sim.workers import Workers\n"
        "from test_workers import serve\n"
        "if __name__ == '__main__':\n"
        "    with Workers(2, serve) as pool:\n"
        "        for message in (-2, 60):\n"
        "            for worker in range(2):\n"
        "                pool.send(worker, message)\n"
        "            if message == -2:\n"
        "                print([deaf for _, (_, deaf) in pool.answers()], flush=True)\n"
        "        pool.answers()\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "[1, 1]\n"
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)  # as soon as nobody holds the pipe: the workers too are gone
    assert errors.count("KeyboardInterrupt") == 1
    assert "SpawnProcess" not in errors


def test_a_worker_whose_answer_nobody_awaits_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with Workers(2, serve) as pool:
        pool.send(0, 0)
        pool.send(1, 0.5)
        assert [worker for worker, _ in pool.next_answers()] == [0]
    assert capfd.readouterr().err == ""


def tell_threads(pipe: Connection) -> None:
    pipe.recv()
    pipe.send([os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")])


def test_workers_compute_with_one_thread_each_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    with Workers(1, tell_threads) as pool:
        pool.send(0, None)
        assert pool.answers() == [(0, ["3", "1"])]
    assert "OPENBLAS_NUM_THREADS" not in os.environ


def test_there_must_be_a_worker() -> None:
    with pytest.raises(ValueError, match="workers is 0"):
        Workers(0, serve)
