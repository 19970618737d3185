"""Actions of the Open X-Embodiment data sets made alike: grippers as 0 closed and 1 open, movements as reached.

What Octo and open-pi-zero do (octo/data/utils/data_utils.py, the same in both), so that their policies fit.
"""

import numpy as np
from jaxtyping import Float

OPEN_ABOVE = 0.95
CLOSED_BELOW = 0.05
"""An absolute gripper between the two is on its way."""
CHANGE_ABOVE = 0.1
"""A relative gripper that moves less stays where it is."""


def binary_gripper(openness: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """1 open, 0 closed: a gripper on its way counts as what it reaches next.

    Where the episode ends on the way, those steps have the last value as it is.
    """
    decided = (openness > OPEN_ABOVE) | (openness < CLOSED_BELOW)
    reached = np.where(decided, np.arange(len(openness)), len(openness))
    reached = np.minimum.accumulate(reached[::-1])[::-1]  # the next step that is decided
    values = np.append((openness > OPEN_ABOVE).astype(np.float32), openness[-1:].astype(np.float32))
    return values[reached]


def absolute_gripper(closing: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """1 open, 0 closed, from commands: above 0 closes, below 0 opens, near 0 stays.

    Before its first command a gripper is the opposite of what that makes it; without any it is open.
    """
    wish = np.where(closing < -CHANGE_ABOVE, 1, np.where(closing > CHANGE_ABOVE, -1, 0))
    commanded = np.flatnonzero(wish)
    start = -wish[commanded[0]] if len(commanded) else 1
    last = np.maximum.accumulate(np.where(wish != 0, np.arange(len(wish)), -1))  # the last step with a command
    held = np.where(last >= 0, wish[last], start)
    return (held / 2 + 0.5).astype(np.float32)


def reached_movements(
    state: Float[np.ndarray, "n 7"], gripper: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "m 7"], Float[np.ndarray, "m 7"]]:
    """State and actions of all steps but the last, whose outcome is not known.

    An action is how the pose (6 numbers) changes to the next step, and the gripper's.
    """
    moved = state[1:, :6] - state[:-1, :6]
    return state[:-1], np.concatenate([moved, gripper[:-1, None]], 1)
