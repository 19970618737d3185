"""What will go wrong with a data set, by itself and beside a checkpoint: all the doctor's checks in one order."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from pizero.data.dataset import Dataset
from pizero.data.doctor_clock import check_known_rate, check_rate, check_timestamps
from pizero.data.doctor_episode import (
    check_duplicates,
    check_empty,
    check_idle,
    check_lengths,
    check_repeated,
    check_still_actions,
)
from pizero.data.doctor_finding import Finding, Spans, ranked
from pizero.data.doctor_gripper import check_declared, check_polarity, check_range, find_grippers
from pizero.data.doctor_match import (
    match_cameras,
    match_convention,
    match_gripper,
    match_names,
    match_quaternions,
    match_rate,
    match_stats,
    match_units,
)
from pizero.data.doctor_motion import check_lead
from pizero.data.doctor_number import check_bounds, check_constant, check_degrees, check_spread
from pizero.data.doctor_picture import (
    GAP_S,
    check_broken,
    check_pictures,
    check_same,
    check_size,
    choose_frames,
    read_samples,
)
from pizero.data.doctor_prompt import check_texts, check_tokens, check_unlabelled
from pizero.data.doctor_rotation import check_jumps, check_quaternions
from pizero.data.prompt import Tokenizer
from pizero.data.rlds import RldsDataset
from pizero.data.stats import DatasetStats, compute_stats
from pizero.data.transform import TransformConfig
from pizero.data.units import Units

MOST_VIEWS = 3
"""Cameras with which pi0 was pretrained (openpi, src/openpi/models/model.py)."""
PI0_WIDTH = 32
"""Width of pi0's state and actions."""
GAP_FRAMES = 10
"""Frames between two pictures that are compared, where the rate is not known."""


@dataclass(frozen=True)
class Trained:
    """What a checkpoint knows of its own data."""

    config: TransformConfig
    stats: DatasetStats
    tokenizer: Tokenizer


def examine(
    dataset: Dataset,
    plan: TransformConfig,
    trained: Trained | None = None,
    num_pictures: int = 64,
    timestamp: Float[np.ndarray, " n"] | None = None,
) -> list[Finding]:
    """What is wrong, the most severe first.

    `plan` says how the data would be normalised, cut into chunks and told in words; its embodiment is the data's.
    `timestamp` in seconds from the start of each episode. Of each camera `num_pictures` are looked at.
    """
    spans = Spans.of([episode.length for episode in dataset.episodes])
    findings = _numbers(dataset, plan, spans) + _motion(dataset, plan, spans)
    findings += check_lengths(spans, plan.horizon, dataset.rate_hz) + check_known_rate(dataset.rate_hz)
    findings += check_rate(dataset.rate_hz, dataset.embodiment.control_rate_hz, "the robot")
    if timestamp is not None and dataset.rate_hz is not None:
        findings += check_timestamps(timestamp, spans, dataset.rate_hz)
    if trained is not None:
        findings += _against(dataset, trained)
    findings += _pictures(dataset, plan, spans, num_pictures) + _prompts(dataset, plan, trained)
    if isinstance(dataset, RldsDataset):
        findings += check_unlabelled(dataset.num_unlabelled, len(dataset.episodes))
    return ranked(findings)


def make_plan(dataset: Dataset, trained: Trained | None) -> TransformConfig:
    """How the data would be taken: as the checkpoint takes its own, so far as the names agree, or as pi0 would."""
    robot = dataset.embodiment
    widths = len(robot.state), len(robot.actions)
    if trained is None:
        return TransformConfig(robot, state_dim=max(PI0_WIDTH, widths[0]), action_dim=max(PI0_WIDTH, widths[1]))
    config = trained.config
    fits = widths == (len(config.embodiment.state), len(config.embodiment.actions))
    return replace(
        config,
        embodiment=robot,
        raw_state=_kept(config.raw_state, robot.state),
        raw_actions=_kept(config.raw_actions, robot.actions),
        delta_actions=_kept(config.delta_actions, robot.actions[: widths[0]]),
        joint_units=config.joint_units if fits else "robot",
        state_dim=max(config.state_dim, widths[0]),
        action_dim=max(config.action_dim, widths[1]),
    )


def _kept(names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name in known)


def _numbers(dataset: Dataset, plan: TransformConfig, spans: Spans) -> list[Finding]:
    robot, units = dataset.embodiment, plan.units
    stats = compute_stats(dataset, units, plan.horizon)
    state, actions = units.state(dataset.state), units.absolute_actions(dataset.actions)
    shown = None if units.delta else actions  # a relative chunk's worst value is in no single frame
    findings = check_constant("state", robot.state, stats.state, plan.raw_state)
    findings += check_constant("action", robot.actions, stats.actions, plan.raw_actions)
    findings += check_spread("state", robot.state, stats.state, plan.normalization, plan.raw_state, state, spans)
    findings += check_spread("action", robot.actions, stats.actions, plan.normalization, plan.raw_actions, shown, spans)
    findings += check_bounds(robot.actions, dataset.actions, robot.action_low, robot.action_high, spans)
    for what, names, values in (("state", robot.state, dataset.state), ("action", robot.actions, dataset.actions)):
        findings += check_degrees(what, names, values)
        findings += check_quaternions(what, names, values, spans) + check_jumps(what, names, values, spans)
    return findings


def _motion(dataset: Dataset, plan: TransformConfig, spans: Spans) -> list[Finding]:
    robot, state, actions = dataset.embodiment, dataset.state, dataset.actions
    findings = check_declared(robot.actions, actions, robot.gripper_action)
    findings += check_range("action", robot.actions, actions, robot.action_low, robot.action_high)
    findings += check_range("state", robot.state, state, (), ())
    rate = dataset.rate_hz or float(GAP_FRAMES)
    findings += check_polarity(robot.state, state, robot.actions, actions, robot.gripper_action, spans, rate)
    findings += check_empty(robot.state, state) + check_idle(state, spans, dataset.rate_hz)
    findings += check_still_actions(robot.actions, actions, spans, find_grippers(robot.actions))
    findings += check_lead(robot.state, state, robot.actions, actions, spans, plan.delta_actions)
    return findings + check_repeated(state, actions, spans) + check_duplicates(state, actions, spans)


def _pictures(dataset: Dataset, plan: TransformConfig, spans: Spans, count: int) -> list[Finding]:
    cameras = dataset.embodiment.cameras
    if not cameras:
        return [Finding("error", "cameras", "the data set has no camera", "pi0 needs at least one")]
    findings = []
    if len(cameras) > MOST_VIEWS:
        text = f"{len(cameras)} cameras: {', '.join(cameras)}"
        advice = f"pi0 was pretrained with {MOST_VIEWS}, and each one costs 256 tokens: leave out what shows little"
        findings.append(Finding("note", "cameras", text, advice))
    gap = GAP_FRAMES if dataset.rate_hz is None else max(1, round(GAP_S * dataset.rate_hz))
    pairs, samples = choose_frames(spans, count, gap), {}
    for camera in cameras:
        samples[camera], broken = read_samples(dataset, camera, pairs, dataset.state)
        findings += check_broken(camera, broken, len(pairs)) + check_pictures(camera, samples[camera], spans)
        if samples[camera]:
            height, width = samples[camera][0].picture.shape[:2]
            findings += check_size(camera, (height, width), plan.image_size, plan.resize)
    return findings + check_same(samples)


def _prompts(dataset: Dataset, plan: TransformConfig, trained: Trained | None) -> list[Finding]:
    counts = np.bincount(dataset.prompt_index, minlength=len(dataset.prompts))
    used: Sequence[str] = [prompt for prompt, count in zip(dataset.prompts, counts, strict=True) if count]
    width = len(dataset.embodiment.state)
    tokenizer = None if trained is None else trained.tokenizer
    return check_texts(used, [int(count) for count in counts if count]) + check_tokens(
        used, plan.prompt_length, plan.prompt_format, width, tokenizer
    )


def _against(dataset: Dataset, trained: Trained) -> list[Finding]:
    data, config = dataset.embodiment, trained.config
    known = config.embodiment
    findings = match_cameras(data, known) + match_convention(data, known) + match_rate(dataset.rate_hz, known)
    findings += match_names("state", data.state, known.state, config.state_dim)
    findings += match_names("action", data.actions, known.actions, config.action_dim)
    fits = len(data.state) == len(known.state) and len(data.actions) == len(known.actions)
    units = config.units if fits else Units()
    stats = compute_stats(dataset, units, config.horizon)
    state, actions = units.state(dataset.state), units.absolute_actions(dataset.actions)
    findings += match_gripper("state", data.state, stats.state, known.state, trained.stats.state, config.raw_state)
    findings += match_gripper(
        "action", data.actions, stats.actions, known.actions, trained.stats.actions, config.raw_actions
    )
    findings += match_quaternions("state", data.state, dataset.state, known.state, trained.stats.state)
    if len(data.state) == len(known.state):
        findings += match_units("state", data.state, stats.state, trained.stats.state)
        findings += match_stats("state", data.state, stats.state, trained.stats.state, state)
    if len(data.actions) == len(known.actions):
        shown = None if units.delta else actions
        findings += match_units("action", data.actions, stats.actions, trained.stats.actions)
        findings += match_stats("action", data.actions, stats.actions, trained.stats.actions, shown)
    return findings
