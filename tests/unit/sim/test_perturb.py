from dataclasses import replace

import numpy as np
import pytest
from toy_env import TOY

from pizero.robot.bridge import BRIDGE
from pizero.sim.perturb import OPEN_AFTER_S, OPEN_S, PUSH_BEFORE, PUSH_SIZE, PUSH_STEPS, Perturbation

SCALE = (0.02, 0.02, 0.02, 0.1, 0.1, 0.1, 0.0)
STEPS = 60
CLOSE, OPEN = 0.0, 1.0


def actions(closed: slice) -> np.ndarray:
    """A plan of Bridge's robot: a steady motion, the gripper closed for a while."""
    plan = np.tile(np.array([0.01, -0.01, 0.005, 0, 0, 0.05, OPEN], np.float32), (STEPS, 1))
    plan[closed, 6] = CLOSE
    return plan


def run(seed: int, noise: float, disturbances: float, plan: np.ndarray) -> tuple[np.ndarray, str]:
    perturbation = Perturbation(BRIDGE, SCALE, STEPS, seed, noise, disturbances)
    executed = np.stack([perturbation.executed(action) for action in plan])
    return executed, perturbation.disturbance


def test_without_noise_and_disturbance_the_expert_acts() -> None:
    plan = actions(slice(10, 40))
    executed, disturbance = run(3, 0.0, 0.0, plan)
    np.testing.assert_array_equal(executed, plan)
    assert executed.dtype == np.float32
    assert disturbance == "none"


def test_data_sets_recorded_before_there_were_disturbances_come_out_the_same() -> None:
    plan = actions(slice(5, STEPS))
    for seed in (0, 1, 70_003):
        generator = np.random.default_rng([seed, 1])
        scale, drift = generator.uniform(0, 0.5) * np.array(SCALE), np.zeros(7)
        for action, executed in zip(plan, run(seed, 0.5, 0.0, plan)[0], strict=True):
            drift = 0.8 * drift + 0.6 * generator.standard_normal(7)
            np.testing.assert_array_equal(executed, (action + scale * drift).astype(np.float32))


def test_noise_is_the_same_with_and_without_disturbances() -> None:
    plan = actions(slice(5, STEPS))
    for seed in range(20):
        still, _ = run(seed, 0.5, 0.0, plan)
        disturbed, kind = run(seed, 0.5, 1.0, plan)
        differ = np.flatnonzero((still != disturbed).any(1))
        assert kind != "none"
        assert 1 <= len(differ) <= max(PUSH_STEPS)
        np.testing.assert_array_equal(np.diff(differ), 1)  # once, without a gap
        np.testing.assert_array_equal(still, run(seed, 0.5, 0.0, plan)[0])
        np.testing.assert_array_equal(disturbed, run(seed, 0.5, 1.0, plan)[0])


def test_a_push_is_constant_for_a_few_steps_and_leaves_the_gripper_alone() -> None:
    plan = actions(slice(0, 0))  # never closed: its hand cannot be opened
    firsts, lengths, sizes = [], [], []
    for seed in range(400):
        executed, kind = run(seed, 0.0, 1.0, plan)
        if kind == "none":
            continue
        assert kind == "push"
        push = executed - plan
        steps = np.flatnonzero(push.any(1))
        firsts.append(steps[0])
        lengths.append(len(steps))
        np.testing.assert_allclose(push[steps], np.broadcast_to(push[steps[0]], (len(steps), 7)), atol=1e-7)
        sizes.append(push[steps[0]][:6] / SCALE[:6])
        assert not push[:, 6].any()
    assert 150 < len(firsts) < 250  # the other half would have opened the hand
    assert (min(firsts), max(firsts)) == (0, int(PUSH_BEFORE * STEPS) - 1)
    assert (min(lengths), max(lengths)) == PUSH_STEPS
    assert 0.95 * PUSH_SIZE < np.abs(sizes).max() <= PUSH_SIZE + 1e-5
    assert abs(np.mean(sizes)) < 0.1


def test_a_hand_is_opened_for_a_while_some_time_after_it_was_closed() -> None:
    plan = actions(slice(10, STEPS))
    delays = []
    for seed in range(400):
        executed, kind = run(seed, 0.0, 1.0, plan)
        if kind != "open hand":
            continue
        opened = np.flatnonzero(executed[:, 6] != plan[:, 6])
        assert (executed[opened, 6] == OPEN).all()
        np.testing.assert_array_equal(executed[:, :6], plan[:, :6])
        assert len(opened) == round(OPEN_S * 5.0) == 2
        delays.append(opened[0] - 9)  # steps closed, this one included
    assert 150 < len(delays) < 250
    assert (min(delays), max(delays)) == (round(OPEN_AFTER_S[0] * 5.0), round(OPEN_AFTER_S[1] * 5.0))


def test_a_hand_that_lets_go_before_is_not_opened_and_the_episode_not_called_disturbed() -> None:
    plan = actions(slice(0, 0))
    plan[::3, 6] = CLOSE  # never for two steps
    kinds = [run(seed, 0.0, 1.0, plan)[1] for seed in range(100)]
    assert set(kinds) == {"none", "push"}


def test_the_chance_is_that_of_an_episode() -> None:
    plan = actions(slice(5, STEPS))
    kinds = [run(seed, 0.3, 0.3, plan)[1] for seed in range(1000)]
    assert 0.25 < 1 - kinds.count("none") / 1000 < 0.35
    assert 0.35 < kinds.count("push") / (1000 - kinds.count("none")) < 0.65


@pytest.mark.parametrize(("gripper_action", "open_value"), [("1 closes", -1.0), ("1 opens", 1.0)])
def test_opening_follows_the_robot_s_convention_and_its_bounds_hold(gripper_action: str, open_value: float) -> None:
    robot = replace(TOY, gripper_action=gripper_action)
    plan = np.tile(np.array([0.4, -open_value], np.float32), (300, 1))
    seen = set()
    for seed in range(30):
        perturbation = Perturbation(robot, (0.5, 0.0), 300, seed, 0.5, 1.0)
        executed = np.stack([perturbation.executed(action) for action in plan])
        assert np.abs(executed[:, 0]).max() == 0.5
        changed = executed[executed[:, 1] != plan[:, 1], 1]
        seen.add(perturbation.disturbance)
        if perturbation.disturbance == "open hand":
            assert (changed == open_value).all()
            assert len(changed) == OPEN_S * 80
    assert {"open hand", "push"} <= seen


def test_a_robot_without_a_gripper_is_pushed_only() -> None:
    robot = replace(TOY, gripper_action="none", actions=("dx", "dy"))
    kinds = set()
    for seed in range(40):
        perturbation = Perturbation(robot, (0.5, 0.5), 40, seed, 0.0, 1.0)
        for _ in range(40):
            perturbation.executed(np.zeros(2, np.float32))
        kinds.add(perturbation.disturbance)
    assert kinds == {"push"}
