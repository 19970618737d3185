import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pizero.data.rlds_gripper import absolute_gripper, binary_gripper, reached_movements

LEVELS = st.sampled_from([0.0, 0.04, 0.05, 0.3, 0.6, 0.95, 0.96, 1.0])
COMMANDS = st.sampled_from([-1.0, -0.11, -0.1, 0.0, 0.05, 0.1, 0.11, 1.0])


def test_a_gripper_on_its_way_counts_as_what_it_reaches() -> None:
    openness = np.float32([1, 0.6, 0.3, 0.01, 0.2, 0.5, 0.97, 0.9, 0.4])
    expected = np.float32([1, 0, 0, 0, 1, 1, 1, 0.4, 0.4])  # the last two never arrive: the last value as it is
    np.testing.assert_array_equal(binary_gripper(openness), expected)
    np.testing.assert_array_equal(binary_gripper(np.float32([0.5])), np.float32([0.5]))


def test_commands_become_the_wanted_openness() -> None:
    closing = np.float32([0, 0, 1, 0.05, 0, -0.2, 0, 1])
    np.testing.assert_array_equal(absolute_gripper(closing), np.float32([1, 1, 0, 0, 0, 1, 1, 0]))
    np.testing.assert_array_equal(absolute_gripper(np.float32([0, -1, 0])), np.float32([0, 1, 1]))
    np.testing.assert_array_equal(absolute_gripper(np.zeros(3, np.float32)), np.ones(3))


def test_an_action_is_the_way_to_the_next_pose() -> None:
    state = np.float32([[0, 0, 0, 0, 0, 0, 9], [1, 2, 3, 4, 5, 6, 9], [1, 2, 3, 5, 5, 5, 9]])
    kept, actions = reached_movements(state, np.float32([1, 0, 1]))
    np.testing.assert_array_equal(kept, state[:2])
    np.testing.assert_array_equal(actions, np.float32([[1, 2, 3, 4, 5, 6, 1], [0, 0, 0, 1, 0, -1, 0]]))


@given(arrays(np.float32, st.integers(1, 30), elements=LEVELS.map(np.float32)))
def test_binary_grippers_equal_the_scan_that_octo_documents(openness: np.ndarray) -> None:
    expected, carry = np.empty_like(openness), openness[-1]
    for i in reversed(range(len(openness))):
        if openness[i] > 0.95 or openness[i] < 0.05:
            carry = np.float32(openness[i] > 0.95)
        expected[i] = carry
    np.testing.assert_array_equal(binary_gripper(openness), expected)


@given(arrays(np.float32, st.integers(1, 30), elements=COMMANDS.map(np.float32)))
def test_absolute_grippers_equal_the_obvious_scan(closing: np.ndarray) -> None:
    wishes = [1 if x < -0.1 else -1 if x > 0.1 else 0 for x in closing]
    held = -next((wish for wish in wishes if wish), -1)
    expected = []
    for wish in wishes:
        held = wish or held
        expected.append(held / 2 + 0.5)
    np.testing.assert_array_equal(absolute_gripper(closing), np.float32(expected))
