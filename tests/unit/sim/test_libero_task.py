import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from pizero.sim.env import expand_tasks, find_task
from pizero.sim.libero.assets import package_folder, task_files
from pizero.sim.libero.package import import_libero
from pizero.sim.libero.states import load_states
from pizero.sim.libero.task import NUM_STATES, TASKS, file_stem

SUITES = {"libero-spatial": 220, "libero-object": 280, "libero-goal": 300, "libero-10": 520}
needs_libero = pytest.mark.skipif(importlib.util.find_spec("libero") is None, reason="LIBERO is not installed")


def test_each_suite_has_ten_tasks_with_openpis_step_limits() -> None:
    assert [TASKS[name] for name in expand_tasks(list(SUITES))] == list(TASKS.values())
    for suite, max_steps in SUITES.items():
        tasks = [find_task(f"{suite}/{number}") for number in range(10)]
        assert {(task.max_steps, task.num_states) for task in tasks} == {(max_steps, 50)}
    assert len({task.prompt for task in TASKS.values()}) == len(TASKS) == 40


@needs_libero
def test_the_table_is_the_packages_own_benchmark(tmp_path: Path) -> None:
    import_libero(tmp_path)
    from libero.libero.benchmark import get_benchmark

    for suite in SUITES:
        benchmark = get_benchmark(suite.replace("-", "_"))(0)
        for number in range(benchmark.get_num_tasks()):
            theirs, ours = benchmark.get_task(number), TASKS[f"{suite}/{number}"]
            assert ours.prompt == theirs.language
            assert file_stem(ours) == f"{theirs.problem_folder}/{theirs.name}"
        assert benchmark.get_num_tasks() == 10


@needs_libero
def test_every_task_has_its_files_and_fifty_states() -> None:
    for task in TASKS.values():
        bddl, states = task_files(task)
        assert bddl.is_file()
        table = load_states(states)
        assert table.shape[0] == NUM_STATES
        assert len(np.unique(table, axis=0)) == NUM_STATES


@needs_libero
@pytest.mark.parametrize("suite", SUITES)
def test_states_are_what_torch_reads(suite: str) -> None:
    path = task_files(TASKS[f"{suite}/3"])[1]
    np.testing.assert_array_equal(load_states(path), torch.load(path, weights_only=False))


def test_a_file_with_anything_but_an_array_is_refused(tmp_path: Path) -> None:
    for content, complaint in ((Path("somewhere"), "PosixPath, which no table"), ([1.0], "no table of states")):
        torch.save(content, tmp_path / "archive")  # the folder in the file is named after it
        with pytest.raises(ValueError, match=complaint):
            load_states(tmp_path / "archive")


@needs_libero
def test_the_package_is_found_without_importing_it() -> None:
    assert (package_folder() / "bddl_files" / "libero_spatial").is_dir()
