import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from test_collect import content
from toy_env import ToyEnv, make_toy

from pizero.data.lerobot import LeRobotDataset
from pizero.sim.attempt import Attempts, Outcome
from pizero.sim.collect import collect

TASKS = ["toy/a", "toy/hard"]


def make_logged(name: str) -> ToyEnv:
    """Writes each reset to the file TOY_LOG."""
    env = make_toy(name)
    reset = env.reset

    def logged(seed: int, state: int | None = None) -> None:
        with open(os.environ["TOY_LOG"], "a") as log:
            log.write(f"{name} {seed}\n")
        reset(seed, state)

    env.reset = logged
    return env


def stop_after(number: int) -> Callable[[int, int, str], None]:
    """A progress that interrupts the collection after so many attempts."""
    calls = 0

    def progress(done: int, total: int, note: str) -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            raise KeyboardInterrupt

    return progress


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "set"
    collect(TASKS, root, 5, workers=2, noise=0.5, disturbances=0.5, make_env=make_toy)
    return root


def test_a_collection_that_was_stopped_goes_on_and_records_nothing_twice(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, log = tmp_path / "set", tmp_path / "log"
    monkeypatch.setenv("TOY_LOG", str(log))
    arguments = {"noise": 0.5, "disturbances": 0.5, "make_env": make_logged}
    for number, workers in ((3, 1), (4, 1)):
        with pytest.raises(KeyboardInterrupt):
            collect(TASKS, root, 5, workers=workers, progress=stop_after(number), **arguments)
        assert not root.exists()
    result = collect(TASKS, root, 5, workers=2, **arguments)
    assert content(root) == content(whole)
    assert [(task.kept, task.failed) for task in result.tasks] == [(5, 0), (5, 3)]
    # an attempt that was being made when the collection was stopped is made again: two, with one worker
    resets = log.read_text().splitlines()
    assert len(set(resets)) == 13
    assert len(resets) <= 13 + 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "set"]


def test_a_collection_that_was_killed_goes_on_to_the_same_data_set(whole: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from pathlib import Path\n"
        "from toy_env import make_toy\n"
        "from pizero.sim.collect import collect\n"
        "if __name__ == '__main__':\n"
        f"    collect({TASKS}, Path({str(tmp_path / 'set')!r}), 5, workers=2, noise=0.5, disturbances=0.5,\n"
        "            make_env=make_toy, progress=lambda *n: print(n[0], flush=True))\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        start_new_session=True,
    )
    assert process.stdout is not None
    for _ in range(4):
        assert process.stdout.readline()
    os.killpg(process.pid, signal.SIGKILL)  # the workers too, in whatever they are at
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "set").exists()
    assert len(list((tmp_path / "set.part").rglob("outcome.json"))) >= 4
    collect(TASKS, tmp_path / "set", 5, workers=1, noise=0.5, disturbances=0.5, make_env=make_toy)
    assert content(tmp_path / "set") == content(whole)
    assert not (tmp_path / "set.part").exists()


def test_what_a_killed_worker_was_writing_is_not_counted_and_is_written_anew(whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    with pytest.raises(KeyboardInterrupt):
        collect(TASKS, root, 5, noise=0.5, disturbances=0.5, workers=1, progress=stop_after(3), make_env=make_toy)
    attempts = tmp_path / "set.part/attempts/toy/a"
    os.replace(attempts / "000001", attempts / "000001.part")
    (attempts / "000001.part" / "above.mp4").write_bytes(b"half a video")
    (attempts / "000000.part").mkdir()
    collect(TASKS, root, 5, noise=0.5, disturbances=0.5, workers=1, make_env=make_toy)
    assert content(root) == content(whole)


def test_other_settings_are_refused_by_name_and_overwriting_starts_anew(tmp_path: Path) -> None:
    root = tmp_path / "set"
    with pytest.raises(KeyboardInterrupt):
        collect(["toy/a"], root, 3, noise=0.5, workers=1, progress=stop_after(2), make_env=make_toy)
    with pytest.raises(ValueError, match=r"set.part holds .* settings: seed 0, now 1, noise 0.5, now 0.2; give its"):
        collect(["toy/a"], root, 3, seed=1, noise=0.2, workers=1, make_env=make_toy)
    assert len(list((tmp_path / "set.part").rglob("outcome.json"))) >= 2
    collect(["toy/a"], root, 3, seed=1, noise=0.2, workers=1, make_env=make_toy, overwrite=True)
    collect(["toy/a"], tmp_path / "other", 3, seed=1, noise=0.2, workers=1, make_env=make_toy)
    assert content(root) == content(tmp_path / "other")


def test_tasks_and_episodes_may_be_added_to_what_is_left_over(whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    with pytest.raises(KeyboardInterrupt):
        collect(
            ["toy/hard"], root, 2, noise=0.5, disturbances=0.5, workers=1, progress=stop_after(3), make_env=make_toy
        )
    collect(TASKS, root, 5, noise=0.5, disturbances=0.5, workers=2, make_env=make_toy)
    assert content(root) == content(whole)


def test_an_existing_data_set_is_replaced_only_when_asked_and_only_by_a_complete_one(tmp_path: Path) -> None:
    root = tmp_path / "set"
    collect(["toy/a"], root, 1, workers=1, make_env=make_toy)
    with pytest.raises(ValueError, match="set exists already; choose another folder, or --overwrite"):
        collect(["toy/a"], root, 2, workers=1, make_env=make_toy)
    with pytest.raises(KeyboardInterrupt):
        collect(["toy/a"], root, 2, workers=1, make_env=make_toy, overwrite=True, progress=stop_after(1))
    assert len(LeRobotDataset(root).episodes) == 1
    collect(["toy/a"], root, 2, workers=1, make_env=make_toy, overwrite=True)
    assert len(LeRobotDataset(root).episodes) == 2
    (tmp_path / "photos").mkdir()
    with pytest.raises(ValueError, match="photos is no data set, and is not replaced"):
        collect(["toy/a"], tmp_path / "photos", 2, workers=1, make_env=make_toy, overwrite=True)


def test_attempts_are_the_same_in_whatever_order_they_end() -> None:
    from toy_env import TOY

    failing = {1, 2, 5, 8}

    def outcome(attempt: int) -> Outcome:
        return Outcome(attempt not in failing, 7 * (attempt not in failing), TOY)

    for made in ([], [0, 1], [1, 2, 5], [2, 5, 6], list(range(9)), [8, 20]):
        for backwards in (False, True):
            attempts = Attempts(4, {i: outcome(i) for i in made})
            while attempts.todo:
                attempt = attempts.todo.pop() if backwards else attempts.todo.popleft()
                assert attempt not in made
                attempts.add(attempt, outcome(attempt))
            assert sorted(attempts.outcomes) == [0, 1, 2, 3, 4, 5, 6]
            assert attempts.solved == [0, 3, 4, 6]
            assert (attempts.num_failed, attempts.num_frames, attempts.planned) == (3, 28, 7)
