import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pizero.sim.env import NUM_SEEDS, eval_seed, find_task, list_tasks, make_env, train_seed

INDEX = st.integers(0, NUM_SEEDS - 1)


@given(INDEX, INDEX)
def test_no_training_episode_is_an_evaluation_episode(train: int, evaluation: int) -> None:
    assert train_seed(train) != eval_seed(evaluation)
    assert max(train_seed(train), eval_seed(evaluation)) < 2**32


@given(INDEX, INDEX)
def test_different_episodes_have_different_seeds(one: int, other: int) -> None:
    assert (train_seed(one) == train_seed(other)) == (one == other)
    assert (eval_seed(one) == eval_seed(other)) == (one == other)


@pytest.mark.parametrize("seed", [train_seed, eval_seed])
@pytest.mark.parametrize("index", [-1, NUM_SEEDS])
def test_an_episode_outside_its_range_is_refused(seed, index: int) -> None:
    with pytest.raises(ValueError, match=f"{index} is outside 0 ... {NUM_SEEDS - 1}"):
        seed(index)


def test_every_task_has_its_own_instruction() -> None:
    tasks = [find_task(name) for name in list_tasks()]
    assert len(tasks) == 50
    assert len({task.prompt for task in tasks}) == 50
    assert all(task.prompt == task.prompt.strip().lower() and 0 < task.max_steps <= 500 for task in tasks)


def test_a_mistyped_task_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(
        ValueError, match="no task 'metaworld/faucet-opne'; the nearest of 50 are metaworld/faucet-open"
    ):
        make_env("metaworld/faucet-opne")
    with pytest.raises(ValueError, match="metaworld/window-open"):
        find_task("window-open")
    with pytest.raises(ValueError, match="no task ''"):
        find_task("")


def test_the_list_of_tasks_needs_neither_simulator_nor_torch() -> None:
    program = (
        "import sys; from pizero.sim.env import list_tasks; list_tasks();"
        "assert not {'mujoco', 'metaworld', 'torch', 'av', 'PIL', 'pyarrow'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
