import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pizero.sim.env import NUM_SEEDS, Task, eval_seed, expand_tasks, find_task, list_tasks, make_env, train_seed

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


def test_every_task_of_a_simulator_has_its_own_instruction() -> None:
    groups: dict[str, list[Task]] = {}
    for name in list_tasks():
        groups.setdefault(name.split("/")[0], []).append(find_task(name))
    sizes = {group: len(tasks) for group, tasks in groups.items()}
    assert sizes.pop("simpler") >= 4
    assert sizes == {"metaworld": 50, "libero-spatial": 10, "libero-object": 10, "libero-goal": 10, "libero-10": 10}
    for tasks in groups.values():
        assert len({task.prompt for task in tasks}) == len(tasks)
        assert all(task.prompt == task.prompt.strip().lower() and 0 < task.max_steps <= 520 for task in tasks)


def test_a_group_stands_for_its_tasks_in_order_and_none_comes_twice() -> None:
    goal = [f"libero-goal/{number}" for number in range(10)]
    assert expand_tasks(["libero-goal"]) == goal
    assert expand_tasks(["libero-goal/7", "libero-goal"]) == [goal[7], *goal[:7], *goal[8:]]
    with pytest.raises(ValueError, match="no task 'libero'; the nearest"):
        expand_tasks(["libero"])


def test_a_mistyped_task_is_answered_with_the_nearest_names() -> None:
    nearest = f"the nearest of {len(list_tasks())} are metaworld/faucet-open"
    with pytest.raises(ValueError, match=f"no task 'metaworld/faucet-opne'; {nearest}"):
        make_env("metaworld/faucet-opne")
    with pytest.raises(ValueError, match="metaworld/window-open"):
        find_task("window-open")
    with pytest.raises(ValueError, match="libero-spatial/3"):
        find_task("libero_spatial/3")
    with pytest.raises(ValueError, match="no task ''"):
        find_task("")


def test_the_list_of_tasks_needs_neither_simulator_nor_torch() -> None:
    program = (
        "import sys; from pizero.sim.env import list_tasks; list_tasks();"
        "assert not {'mujoco', 'metaworld', 'libero', 'sapien', 'torch', 'av'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
