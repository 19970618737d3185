from math import pi, radians

import numpy as np
import pytest

from pizero.sim.simpler import layout
from pizero.sim.simpler.layout import REGIONS, SAME_METRES, SAME_RADIANS, Layout, Region, draw, prescribed
from pizero.sim.simpler.task import TASKS


def test_prescribed_states_are_simplerenvs_episodes() -> None:
    # worked out by hand from ManiSkill2_real2sim, put_on_in_scene.py: places change slowest, turns fastest
    approximately = pytest.approx
    carrot = prescribed("simpler/carrot-on-plate", 5)
    assert carrot.source == approximately((-0.235, -0.075))
    assert carrot.target == approximately((-0.085, 0.075))
    assert carrot.source_yaw == approximately(-pi / 2)
    spoon = prescribed("simpler/spoon-on-towel", 22)
    assert spoon.source == approximately((-0.085, 0.075))
    assert spoon.target == approximately((-0.085, -0.075))
    assert spoon.source_yaw == 0
    cubes = prescribed("simpler/stack-cube", 12)
    assert cubes.source == approximately((-0.26, -0.1))
    assert cubes.target == approximately((-0.26, 0.1))
    eggplant = prescribed("simpler/eggplant-in-basket", 14)
    assert eggplant.source == approximately((-0.095, 0.191))
    assert eggplant.target == approximately((-0.125, 0.025))
    assert eggplant.source_yaw == approximately(-pi / 4)


@pytest.mark.parametrize("task", TASKS)
def test_a_task_prescribes_as_many_different_states_as_it_says(task: str) -> None:
    assert len({prescribed(task, state) for state in range(TASKS[task].num_states)}) == 24
    with pytest.raises(IndexError):
        prescribed(task, TASKS[task].num_states)


@pytest.mark.parametrize("task", TASKS)
def test_drawn_states_are_none_of_the_prescribed_ones(task: str) -> None:
    states = [prescribed(task, state) for state in range(TASKS[task].num_states)]
    for seed in range(500):
        drawn = draw(task, seed)
        for state in states:
            far = np.hypot(*np.subtract(drawn.source, state.source)) > SAME_METRES
            far |= np.hypot(*np.subtract(drawn.target, state.target)) > SAME_METRES
            turned = abs((drawn.source_yaw - state.source_yaw + pi) % (2 * pi) - pi) > SAME_RADIANS
            turned |= abs(drawn.target_yaw - state.target_yaw) > SAME_RADIANS
            assert far or turned


@pytest.mark.parametrize("task", TASKS)
def test_a_draw_that_hits_a_prescribed_state_is_drawn_again(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # a region that is hardly larger than what is not allowed: without redrawing 8 of 10 draws are too close
    state = prescribed(task, 7)
    x, y = state.source
    region = Region(
        (x - 0.0015, y - 0.0015), (x + 0.0015, y + 0.0015), (state.source_yaw - 0.02, state.source_yaw + 0.06),
        state.target, state.target, (0.0, 0.0), 0.0,
    )  # fmt: skip
    monkeypatch.setitem(layout.REGIONS, task, region)
    drawn = [draw(task, seed) for seed in range(50)]
    assert not any(each.is_close_to(state) for each in drawn)
    assert max(each.source_yaw for each in drawn) <= state.source_yaw + 0.06


@pytest.mark.parametrize("task", TASKS)
def test_drawn_states_surround_the_prescribed_ones_and_keep_their_distance(task: str) -> None:
    def numbers(each: Layout) -> list[float]:
        return [*each.source, each.source_yaw, *each.target, each.target_yaw]

    drawn = np.array([numbers(draw(task, seed)) for seed in range(1000)])
    states = np.array([numbers(prescribed(task, state)) for state in range(24)])
    middle = np.mean(REGIONS[task].source_yaw)
    states[:, 2] = (states[:, 2] - middle + pi) % (2 * pi) - pi + middle  # a turn by pi is one by -pi
    fixed = drawn.min(0) == drawn.max(0)
    assert (drawn.min(0) < states.min(0))[~fixed].all()
    assert (drawn.max(0) > states.max(0))[~fixed].all()
    np.testing.assert_array_equal(drawn[:, fixed], states[:1, fixed].repeat(1000, 0))
    assert fixed.sum() == {"simpler/carrot-on-plate": 1, "simpler/eggplant-in-basket": 3}.get(task, 0)
    assert np.hypot(*(drawn[:, :2] - drawn[:, 3:5]).T).min() >= REGIONS[task].least_distance


def test_a_seed_names_one_layout() -> None:
    assert draw("simpler/stack-cube", 8) == draw("simpler/stack-cube", 8)
    assert draw("simpler/stack-cube", 8) != draw("simpler/stack-cube", 9)


def test_closeness_counts_places_in_metres_and_turns_around_the_circle() -> None:
    state = Layout((0.0, 0.0), pi, (0.1, 0.0))
    assert state.is_close_to(Layout((0.0019, 0.0), -pi + radians(1.9), (0.1, 0.0019)))
    assert not state.is_close_to(Layout((0.0021, 0.0), pi, (0.1, 0.0)))
    assert not state.is_close_to(Layout((0.0, 0.0), pi, (0.1, 0.0021)))
    assert not state.is_close_to(Layout((0.0, 0.0), -pi + radians(2.1), (0.1, 0.0)))
    assert not state.is_close_to(Layout((0.0, 0.0), pi, (0.1, 0.0), radians(2.1)))
