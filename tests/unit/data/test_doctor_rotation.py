"""Quaternions and angles, with and without the fault."""

import numpy as np
import pytest

from pizero.data.doctor_finding import Spans
from pizero.data.doctor_rotation import check_jumps, check_quaternions, find_quaternions, named_order

SPANS = Spans.of([50, 50])
WXYZ = ("q_w", "q_x", "q_y", "q_z")
NAMELESS = ("state_0", "state_1", "state_2", "state_3", "state_4")


def turning() -> np.ndarray:
    """A hand that turns slowly about a fixed axis, w first."""
    half = np.tile(np.linspace(0.1, 1.2, 50), 2)[:, None]
    return np.concatenate([np.cos(half), np.sin(half) * np.array([0.6, 0.0, 0.8])], 1)


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (WXYZ, "w first"),
        (("hand_quaternion_x", "hand_quaternion_y", "hand_quaternion_z", "hand_quaternion_w"), "w last"),
        (("qx", "qy", "qz", "qw"), "w last"),
        (("x", "y", "z", "w"), None),
        (("q_w", "q_z", "q_y", "q_x"), None),
    ],
)
def test_names_tell_the_order(names: tuple[str, ...], order: str | None) -> None:
    assert named_order(names) == order


def test_quaternions_are_found_by_name_or_by_length() -> None:
    q = turning() + 0.001 * np.array([0, 0, 1, 0]) * np.sin(np.arange(100))[:, None]
    random = np.random.default_rng(0).normal(size=(100, 1))
    assert find_quaternions(NAMELESS, np.concatenate([random, q], 1)) == [1]
    assert find_quaternions(WXYZ, 3 * q) == [0]
    assert find_quaternions(NAMELESS, np.random.default_rng(0).normal(size=(100, 5))) == []


def test_a_smooth_named_quaternion_has_no_finding() -> None:
    assert check_quaternions("state", WXYZ, turning(), SPANS) == []


def test_an_order_that_names_do_not_tell_is_noted_with_the_mean_squares() -> None:
    q = turning() + 0.001 * np.array([0, 0, 1, 0]) * np.sin(np.arange(100))[:, None]
    (finding,) = check_quaternions("state", NAMELESS[:4], q, SPANS)
    assert finding.level == "note"
    assert f"mean squares {(q[:, 0] ** 2).mean():.2f}" in finding.text


def test_a_sign_flip_within_an_episode_is_found_where_it_is() -> None:
    q = turning()
    q[70:] *= -1
    (finding,) = check_quaternions("state", WXYZ, q, SPANS)
    assert (finding.level, finding.topic) == ("warning", "quaternion")
    assert "changes sign 1 times" in finding.text
    assert "episode 1, frame 20" in finding.text


def test_an_episode_in_the_other_sign_is_found() -> None:
    q = turning()
    q[50:] *= -1
    (finding,) = check_quaternions("state", WXYZ, q, SPANS)
    assert "in 1 of 2 episodes with that of episode 1, frame 0" in finding.text


def test_a_quaternion_that_is_none_is_an_error() -> None:
    q = turning()
    q[30] *= 0.5
    findings = check_quaternions("state", WXYZ, q, SPANS)
    assert [finding.level for finding in findings] == ["error"]
    assert "in 1 % of the frames, 0.5 in episode 0, frame 30" in findings[0].text


@pytest.mark.parametrize(("scale", "unit"), [(1.0, "2 pi"), (180 / np.pi, "360 degrees")])
def test_an_angle_that_wraps_is_found(scale: float, unit: str) -> None:
    smooth = np.linspace(2.5, 3.8, 50)
    wrapped = (smooth + np.pi) % (2 * np.pi) - np.pi
    x = scale * np.stack([np.concatenate([wrapped, smooth - 1]), np.concatenate([smooth, smooth])], 1)
    (finding,) = check_jumps("state", ("yaw", "roll"), x, SPANS)
    assert finding.dims == ("state yaw",)
    assert f"jumps by {unit} 1 times" in finding.text
    assert "in 1 of 2 episodes" in finding.text


def test_other_jumps_and_ends_of_episodes_are_no_wraps() -> None:
    x = np.concatenate([np.full(50, 3.1), np.full(50, -3.1)])[:, None]  # from one episode to the next
    assert check_jumps("state", ("yaw",), x, SPANS) == []
    gripper = np.tile([0.0, 1.0], 50)[:, None]
    assert check_jumps("action", ("gripper",), gripper, SPANS) == []
    assert check_jumps("state", ("encoder",), np.cumsum(np.full(100, 6.3))[:, None], SPANS) == []
