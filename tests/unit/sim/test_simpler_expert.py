from dataclasses import replace
from math import pi

import numpy as np
import pytest

from pizero.robot.bridge import TOP_DOWN
from pizero.robot.rotation import euler_to_matrix
from pizero.sim.simpler.expert import HANDLINGS, STEP_METRES, STEP_RADIANS, WITHDRAWN, action, is_done
from pizero.sim.simpler.situation import Pose, Situation
from pizero.sim.simpler.task import TASKS

CARROT = "simpler/carrot-on-plate"


def turned(yaw: float) -> np.ndarray:
    return euler_to_matrix(np.array([0.0, 0.0, yaw]))


def hand_at(x: float, y: float, z: float, yaw: float = 0.0) -> Pose:
    return Pose(np.array([x, y, z]), turned(yaw) @ TOP_DOWN)


def thing_at(x: float, y: float, z: float, yaw: float = 0.0) -> Pose:
    return Pose(np.array([x, y, z]), turned(yaw))


def situation(hand: Pose, source: Pose, openness: float = 1.0, held: bool = False, success: bool = False) -> Situation:
    return Situation(hand, hand, openness, source, thing_at(0.2, 0.1, 0.0), held, success, True)


def test_from_afar_the_hand_comes_over_the_thing_with_an_open_gripper() -> None:
    chosen = action(situation(hand_at(0.3, 0.0, 0.15), thing_at(0.4, -0.05, 0.017)), CARROT)
    assert chosen[0] > 0.01
    assert chosen[1] < -0.005
    assert chosen[6] == 1
    assert np.linalg.norm(chosen[:3]) == pytest.approx(STEP_METRES)


def test_a_low_hand_beside_the_thing_rises_before_it_moves_over() -> None:
    chosen = action(situation(hand_at(0.3, 0.0, 0.02), thing_at(0.4, 0.0, 0.017)), CARROT)
    assert chosen[2] > 0.029
    assert chosen[0] == 0


@pytest.mark.parametrize("yaw", [-0.3, 0.0, 0.8, 1.5, 1.9])
@pytest.mark.parametrize("flip", [0.0, pi, -pi])
def test_the_gap_between_the_fingers_is_turned_along_the_thing_the_same_way_round(yaw: float, flip: float) -> None:
    hand, thing = hand_at(0.3, 0.0, 0.1, 0.6), thing_at(0.3, 0.0, 0.017, yaw + flip)
    for _ in range(20):
        turn = action(situation(hand, thing), CARROT)[3:6]
        assert np.linalg.norm(turn) <= STEP_RADIANS + 1e-6
        hand = replace(hand, rotation=euler_to_matrix(turn.astype(np.float64)) @ hand.rotation)
    np.testing.assert_allclose(hand.rotation, turned(yaw) @ TOP_DOWN, atol=1e-5)


def test_a_hand_askew_is_levelled() -> None:
    hand = hand_at(0.3, 0.0, 0.1, 0.8)
    askew = replace(hand, rotation=euler_to_matrix(np.array([0.1, -0.05, 0.0])) @ hand.rotation)
    turn = action(situation(askew, thing_at(0.3, 0.0, 0.017, 0.8)), CARROT)[3:6]
    assert turn[0] == pytest.approx(-0.1, abs=0.01)
    assert turn[1] == pytest.approx(0.05, abs=0.01)


def test_the_gripper_closes_only_around_the_thing_and_stays_closed_when_it_slips_a_little() -> None:
    thing = thing_at(0.3, 0.0, 0.017, 0.8)
    assert action(situation(hand_at(0.302, 0.0, 0.02, 0.8), thing), CARROT)[6] == 0
    assert action(situation(hand_at(0.32, 0.0, 0.02, 0.8), thing), CARROT)[6] == 1
    assert action(situation(hand_at(0.302, 0.0, 0.04, 0.8), thing), CARROT)[6] == 1
    assert action(situation(hand_at(0.302, 0.0, 0.02, 0.0), thing), CARROT)[6] == 1  # not turned yet
    assert action(situation(hand_at(0.32, 0.0, 0.02, 0.8), thing, openness=0.6), CARROT)[6] == 0


def test_a_hand_that_is_held_up_above_the_thing_rises_though_its_aim_is_right() -> None:
    thing = thing_at(0.3, 0.0, 0.017, 0.8)
    stuck = replace(situation(hand_at(0.33, 0.0, 0.05, 0.8), thing), aim=hand_at(0.3, 0.0, 0.017, 0.8))
    assert action(stuck, CARROT)[2] > 0.02


def test_what_is_held_is_lifted_carried_and_let_go_over_the_target() -> None:
    def carried(x: float, y: float, z: float) -> np.ndarray:
        return action(situation(hand_at(x, y, z, 0.8), thing_at(x, y, z, 0.8), 0.5, held=True), CARROT)

    lift = carried(0.4, -0.05, 0.017)
    assert lift[2] == pytest.approx(STEP_METRES)
    np.testing.assert_array_equal(lift[[0, 1, 6]], 0)
    over = carried(0.4, -0.05, 0.09)
    np.testing.assert_allclose(over[:3], STEP_METRES * np.array([-0.8, 0.6, 0]), atol=1e-6)
    down = carried(0.2, 0.1, 0.09)
    np.testing.assert_allclose(down[:3], [0, 0, -STEP_METRES], atol=1e-6)
    assert down[6] == 0
    release = carried(0.205, 0.1, HANDLINGS[CARROT].release)
    np.testing.assert_array_equal(release, [0, 0, 0, 0, 0, 0, 1])


def test_after_letting_go_the_hand_waits_for_the_gripper_then_rises_and_stands_still() -> None:
    put = thing_at(0.2, 0.1, 0.02)
    opening = situation(hand_at(0.2, 0.1, 0.03), put, openness=0.6, success=True)
    np.testing.assert_array_equal(action(opening, CARROT), [0, 0, 0, 0, 0, 0, 1])
    opened = replace(opening, openness=0.9)
    np.testing.assert_allclose(action(opened, CARROT), [0, 0, STEP_METRES, 0, 0, 0, 1], atol=1e-7)
    assert not is_done(opened)
    away = situation(hand_at(0.2, 0.1, 0.02 + WITHDRAWN - 0.01), put, success=True)
    assert is_done(away)
    np.testing.assert_array_equal(action(away, CARROT), [0, 0, 0, 0, 0, 0, 1])
    for undone in (
        replace(away, success=False),
        replace(away, held=True),
        replace(away, still=False),
        replace(away, openness=0.5),
    ):
        assert not is_done(undone)


@pytest.mark.parametrize("task", TASKS)
def test_similar_situations_have_similar_actions(task: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        x, y, z = rng.uniform((0.2, -0.1, 0.02), (0.4, 0.1, 0.2))
        yaw = rng.uniform(-0.3, 0.3) + HANDLINGS[task].yaw
        thing = thing_at(*rng.uniform((0.2, -0.1, 0.02), (0.4, 0.1, 0.02)), yaw)
        nudge = rng.normal(size=3) * 1e-4
        one = action(situation(hand_at(x, y, z, 0.3), thing), task)
        other = action(situation(hand_at(x + nudge[0], y + nudge[1], z + nudge[2], 0.3), thing), task)
        if one[6] == other[6]:  # a gripper opens or closes
            assert np.abs(one - other)[:3].max() < 0.003
