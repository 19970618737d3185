"""Episodes, idleness, lead of the actions, and clocks, with and without the fault."""

import numpy as np
import pytest

from pizero.data.doctor_clock import check_known_rate, check_rate, check_timestamps
from pizero.data.doctor_episode import (
    check_duplicates,
    check_empty,
    check_idle,
    check_lengths,
    check_repeated,
    check_still_actions,
    padded_share,
)
from pizero.data.doctor_finding import Spans
from pizero.data.doctor_motion import check_lead

LENGTHS = (80, 100, 90)
SPANS = Spans.of(LENGTHS)
NAMES = ("x", "y")


def moving() -> np.ndarray:
    """A state that moves all the time, each episode in its own way."""
    parts = [np.stack([np.linspace(0, 1, n), np.sin(np.arange(n) / 9 + n)], 1) for n in LENGTHS]
    return np.concatenate(parts)


def commanded(state: np.ndarray) -> np.ndarray:
    """Where the state will be two frames later, and a bit."""
    return np.concatenate([state[2:], state[-2:]]) + 0.01


def levels(findings: list) -> list[tuple[str, str]]:
    return [(finding.level, finding.topic) for finding in findings]


def test_a_healthy_recording_has_only_its_lengths_told() -> None:
    state = moving()
    actions = commanded(state)
    assert levels(check_lengths(SPANS, 20, 10.0)) == [("note", "lengths")]
    assert check_duplicates(state, actions, SPANS) == []
    assert check_idle(state, SPANS, 10.0) == []
    assert check_repeated(state, actions, SPANS) == []
    assert check_empty(NAMES, state) == []
    assert check_lead(NAMES, state, NAMES, actions, SPANS, NAMES) == []


@pytest.mark.parametrize("horizon", [1, 3, 5, 8])
def test_the_padded_share_is_what_counting_gives(horizon: int) -> None:
    lengths = (5, 1, 7)
    beyond = sum(frame + t >= n for n in lengths for frame in range(n) for t in range(horizon))
    assert padded_share(Spans.of(lengths), horizon) == pytest.approx(beyond / (13 * horizon))


def test_short_and_long_episodes_are_found() -> None:
    findings = check_lengths(Spans.of([30, 1, 10, 30, 200, 30]), 20, None)
    texts = " | ".join(finding.text for finding in findings)
    assert "1 episodes have a single frame, the first is episode 1" in texts
    assert "1 of 6 episodes are shorter than a chunk of 20, as episode 2" in texts
    assert "episode 4 has 200 frames, 6.667 times the median" in texts


def test_a_horizon_longer_than_the_episodes_is_a_warning() -> None:
    assert check_lengths(Spans.of([10, 10]), 50, 5.0)[0].level == "warning"
    assert check_lengths(Spans.of([100, 100]), 50, 5.0)[0].level == "note"


def test_copies_of_an_episode_are_found() -> None:
    state = np.random.default_rng(0).normal(size=(30, 2))
    state[20:] = state[:10]
    (finding,) = check_duplicates(state, state, Spans.of([10, 10, 10]))
    assert "1 of 3 episodes are copies of an earlier one: 2 = 0" in finding.text
    changed = state.copy()
    changed[29, 1] += 1e-6
    assert check_duplicates(state, changed, Spans.of([10, 10, 10])) == []


def test_waiting_at_the_start_and_at_the_end_is_measured() -> None:
    walk = np.concatenate([np.zeros(30), np.linspace(0, 1, 61)[1:], np.ones(10)])[:, None]
    findings = check_idle(walk, Spans.of([100]), 10.0)
    assert levels(findings) == [("warning", "idle"), ("note", "idle")]
    assert "31 of 100 frames (3.1 s)" in findings[0].text  # the first step is within 2 % of the range
    assert "12 of 100 frames" in findings[1].text or "11 of 100 frames" in findings[1].text
    assert check_idle(np.zeros((5, 2)), Spans.of([5]), 10.0)[0].level == "error"
    assert check_idle(np.zeros((5, 0)), Spans.of([5]), 10.0) == []


def test_actions_of_zero_are_counted_without_the_gripper() -> None:
    actions = np.stack([np.ones(100), np.full(100, 0.5), np.ones(100)], 1)
    names, spans = ("dx", "dy", "gripper"), Spans.of([40, 60])
    assert check_still_actions(names, actions, spans, [2]) == []
    actions[50:80, :2] = 0.0
    (finding,) = check_still_actions(names, actions, spans, [2])
    assert finding.level == "warning"
    assert "0 in 30 % of the frames, first in episode 1, frame 10" in finding.text
    assert check_still_actions(names, actions, spans, []) == []  # the last one is told to hold
    assert check_still_actions(names, np.zeros((100, 3)), spans, [2]) == []  # constant, which is told elsewhere


def test_repeated_frames_are_found() -> None:
    state = np.repeat(moving()[:135], 2, axis=0)
    (finding,) = check_repeated(state, state, SPANS)
    assert "51 % of the frames" in finding.text


def test_a_data_set_without_state_is_told() -> None:
    assert levels(check_empty((), np.zeros((5, 0)))) == [("warning", "state")]


def test_actions_that_equal_the_state_are_an_error() -> None:
    state = moving()
    (finding,) = check_lead(NAMES, state, NAMES, state, SPANS, ())
    assert (finding.level, finding.dims) == ("error", ("action x", "action y"))


def test_actions_that_are_the_next_state_are_noted_as_absolute() -> None:
    state = moving()
    following = np.concatenate([state[1:], state[-1:]])
    for start, end in zip(SPANS.starts, SPANS.ends, strict=True):
        following[end - 1] = state[end - 1]
        assert start < end
    findings = check_lead(NAMES, state, NAMES, following, SPANS, ())
    assert levels(findings) == [("note", "lead"), ("note", "relative")]
    assert "--data.delta-actions x y" in findings[1].advice
    assert levels(check_lead(NAMES, state, NAMES, following, SPANS, NAMES)) == [("note", "lead")]


def test_actions_that_lag_are_a_warning() -> None:
    state = moving()
    late = np.concatenate([state[:2], state[:-2]])
    findings = check_lead(NAMES, state, NAMES, late, SPANS, NAMES)
    assert levels(findings) == [("warning", "lead")]


def test_velocities_are_no_positions() -> None:
    state = moving()
    assert check_lead(NAMES, state, NAMES, np.gradient(state, axis=0), SPANS, ()) == []


def test_rates_are_compared() -> None:
    (finding,) = check_rate(50.0, 10.0, "the robot")
    assert finding.level == "warning"
    assert "0.2 times that" in finding.text
    assert check_rate(50.0, 50.5, "the robot") == []
    assert check_rate(None, 10.0, "the robot") == []
    assert levels(check_known_rate(None)) == [("note", "rate")]
    assert check_known_rate(10.0) == []


def test_time_stamps_must_be_even_and_start_at_zero() -> None:
    times = np.concatenate([np.arange(n) / 10 for n in LENGTHS])
    assert check_timestamps(times, SPANS, 10.0) == []
    jitter = times.copy()
    jitter[100] += 0.03
    assert levels(check_timestamps(jitter, SPANS, 10.0)) == [("warning", "time stamps")]
    hole = times.copy()
    hole[110:180] += 0.4
    (finding,) = check_timestamps(hole, SPANS, 10.0)
    assert finding.level == "error"
    assert "0.5 s before episode 1, frame 30" in finding.text
    shifted = times.copy()
    shifted[180:] += 7.0
    (finding,) = check_timestamps(shifted, SPANS, 10.0)
    assert "as episode 2 at 7 s" in finding.text
