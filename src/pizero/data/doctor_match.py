"""A data set beside what a checkpoint was trained on: cameras, names, grippers, rotations, units, statistics."""

import difflib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from pizero.data.doctor_clock import check_rate
from pizero.data.doctor_finding import Finding, listed, number, percent
from pizero.data.doctor_gripper import find_grippers, scale_of
from pizero.data.doctor_rotation import find_quaternions, named_order
from pizero.data.stats import Stats
from pizero.embodiment import Embodiment

FAR = 3.0
"""Deviations between two means from which data are of another kind."""
OUTSIDE = 0.25
"""Part of the values beyond a checkpoint's 1 % and 99 % quantiles; 2 % is what is expected."""
FACTORS = {180 / np.pi: "degrees and radians", 100.0: "centimetres or percent", 1000.0: "millimetres and metres"}
"""Ratios of two spreads that tell that units differ."""
SMALLEST_FACTOR = 20.0
"""Two data sets of one robot hardly differ in spread by more."""
OTHER_SIDE = 0.3
"""Distance of the means of two grippers, each as a part of its range, from which one may be turned round."""
BETTER = 0.25
"""A quaternion in another order must be this much nearer, squared."""
SURE = 0.1
"""... where the order as it is is at least this far, squared."""


def match_cameras(data: Embodiment, checkpoint: Embodiment) -> list[Finding]:
    """Names, count and order. A model takes its views by their place, whatever their names."""
    ours, theirs = data.cameras, checkpoint.cameras
    if ours == theirs:
        return []
    if set(ours) == set(theirs):
        text = f"the cameras are {', '.join(ours)}, the checkpoint's, in another order, {', '.join(theirs)}"
        return [Finding("error", "cameras", text, "give the data set's embodiment the checkpoint's order")]
    places = ", ".join(f"{own!r} as {other!r}" for own, other in zip(ours, theirs, strict=False))
    absent = [f"{name!r}{_near(name, ours)}" for name in theirs if name not in ours]
    text = f"the checkpoint has {len(theirs)} cameras, the data {len(ours)}"
    more = [name for name in ours if name not in theirs]
    text += f"; not in the data: {listed(absent)}" if absent else f"; it does not know {listed(more)}"
    advice = f"fine-tuning takes {places}: reorder if that is not meant; the policy as it is takes its own names only"
    return [Finding("warning", "cameras", text, advice)]


def match_names(what: str, data: Sequence[str], checkpoint: Sequence[str], width: int) -> list[Finding]:
    """Number, names and order of dimensions; `width` is what the checkpoint's model takes at most."""
    if tuple(data) == tuple(checkpoint):
        return []
    if len(data) > width:
        text = f"the data has {len(data)} {what} dimensions, the checkpoint's model takes {width}"
        return [Finding("error", f"{what} names", text, "leave some out, or train a wider model from the start")]
    if len(data) != len(checkpoint):
        text = (
            f"the data has {len(data)} {what} dimensions ({listed(data)}), the checkpoint {len(checkpoint)} "
            f"({listed(checkpoint)})"
        )
        advice = "another robot: fine-tune on it, and see that what both have stands at the same place"
        return [Finding("warning", f"{what} names", text, advice)]
    if sorted(data) == sorted(checkpoint):
        moved = [name for name, other in zip(data, checkpoint, strict=True) if name != other]
        text = f"{len(moved)} {what} dimensions stand in another order than the checkpoint's: {listed(moved)}"
        return [Finding("error", f"{what} names", text, f"the checkpoint's order is {', '.join(checkpoint)}")]
    pairs = [f"{own} for {other}" for own, other in zip(data, checkpoint, strict=True) if own != other]
    text = f"{len(pairs)} of {len(data)} {what} dimensions have other names than the checkpoint's: {listed(pairs)}"
    return [Finding("warning", f"{what} names", text, "rename them if they are the same, or another robot is meant")]


def match_rate(recorded_hz: float | None, checkpoint: Embodiment) -> list[Finding]:
    """The rate of the recording against that at which the checkpoint acts."""
    return check_rate(recorded_hz, checkpoint.control_rate_hz, "the checkpoint")


def match_convention(data: Embodiment, checkpoint: Embodiment) -> list[Finding]:
    """What the gripper's action does."""
    ours, theirs = data.gripper_action, checkpoint.gripper_action
    if ours == theirs or "unknown" in (ours, theirs):
        return []
    if "none" in (ours, theirs):
        text = f"gripper: {ours!r} in the data, {theirs!r} in the checkpoint"
        return [Finding("warning", "gripper", text, "write the gripper_action of the data set into its embodiment")]
    text = f"the gripper's action means {ours!r} in the data and {theirs!r} in the checkpoint"
    return [Finding("error", "gripper", text, "turn the data's gripper round (openpi issue 1012: it never closed)")]


def match_gripper(
    what: str, names: Sequence[str], data: Stats, checkpoint_names: Sequence[str], trained: Stats, raw: Sequence[str]
) -> list[Finding]:
    """Range and mean of each gripper against the checkpoint's, the first with the first; `raw`: not normalised."""
    ours, theirs = find_grippers(names), find_grippers(checkpoint_names)
    if len(ours) != len(theirs):
        return []
    findings = []
    for i, j in zip(ours, theirs, strict=True):
        own, other = _range(data, i), _range(trained, j)
        if own is None or other is None:
            continue
        dims, title = (f"{what} {names[i]}",), f"{what} {names[i]!r} is {_words(own)}, the checkpoint's {_words(other)}"
        if scale_of(*own) != scale_of(*other):
            is_raw = checkpoint_names[j] in raw
            advice = "rescale the data's" + (
                ": it is not normalised" if is_raw else ", or fine-tune: its scale is relearnt"
            )
            findings.append(Finding("error" if is_raw else "warning", "gripper", title, advice, dims))
        mine, its = (_part(data.mean[i], own), _part(trained.mean[j], other))
        if (mine - 0.5) * (its - 0.5) < 0 and abs(mine - its) > OTHER_SIDE:
            text = f"{title}; the means are at {percent(mine)} and {percent(its)} of the range"
            advice = "is open where the checkpoint has closed? compare a frame of each"
            findings.append(Finding("warning", "gripper", text, advice, dims))
    return findings


def match_quaternions(
    what: str, names: Sequence[str], values: Float[np.ndarray, "n d"], checkpoint_names: Sequence[str], trained: Stats
) -> list[Finding]:
    """The order of quaternions at the same place: by names, else by the mean squares, which signs do not change."""
    findings = []
    for i in find_quaternions(names, values):
        if i + 4 > len(checkpoint_names):
            continue
        group, other = names[i : i + 4], checkpoint_names[i : i + 4]
        ours, theirs = named_order(group), named_order(other)
        own = (values[:, i : i + 4].astype(np.float64) ** 2).mean(0)
        its = trained.mean[i : i + 4] ** 2 + trained.std[i : i + 4] ** 2
        as_it_is = float(((own - its) ** 2).sum())
        turned = min(float(((np.roll(own, shift) - its) ** 2).sum()) for shift in (-1, 1))
        by_name = ours is not None and theirs is not None and ours != theirs
        by_number = abs(its.sum() - 1) < SURE and as_it_is > SURE and turned < BETTER * as_it_is
        if by_name or by_number:
            text = f"{what} {group[0]!r} to {group[-1]!r} seems to be in another order than the checkpoint's: " + (
                f"{ours} against {theirs}" if by_name else f"mean squares {_squares(own)} against {_squares(its)}"
            )
            advice = "reorder the data's quaternion as the checkpoint's"
            findings.append(Finding("error", "quaternion", text, advice, tuple(f"{what} {name}" for name in group)))
    return findings


def match_units(what: str, names: Sequence[str], data: Stats, trained: Stats) -> list[Finding]:
    """Dimensions, of as many, whose spread is another unit's; grippers are `match_gripper`'s."""
    grippers, found = find_grippers(names), []
    for i, name in enumerate(names):
        if i in grippers or min(data.std[i], trained.std[i]) <= 0:
            continue
        ratio = float(data.std[i] / trained.std[i])
        if max(ratio, 1 / ratio) > SMALLEST_FACTOR:
            found.append((name, ratio))
    if not found:
        return []
    ratio = float(np.exp(np.median([np.log(r) for _, r in found])))
    factor = min(FACTORS, key=lambda f: abs(np.log(max(ratio, 1 / ratio) / f)))
    text = (
        f"{len(found)} of {len(names)} {what} dimensions spread {number(ratio)} times as far as the checkpoint's "
        f"({listed([name for name, _ in found])}): {FACTORS[factor]}?"
    )
    usual = len(found) * 2 >= len(names) - len(grippers)
    advice = "convert the data to the checkpoint's units"
    dims = tuple(f"{what} {name}" for name, _ in found)
    return [Finding("error" if usual else "warning", "units", text, advice, dims)]


def match_stats(
    what: str, names: Sequence[str], data: Stats, trained: Stats, values: Float[np.ndarray, "n d"] | None
) -> list[Finding]:
    """Means far apart, and values beyond the checkpoint's quantiles; `values`: None where they are relative chunks."""
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.abs(data.mean - trained.mean) / trained.std
    distance = np.where(np.isnan(distance), 0, distance)
    outside = np.zeros(len(names))
    if values is not None and trained.q01 is not None and trained.q99 is not None:
        outside = ((values < trained.q01) | (values > trained.q99)).mean(0)
    strange = [i for i in range(len(names)) if distance[i] > FAR or outside[i] > OUTSIDE]
    if not strange:
        return []
    worst = sorted(strange, key=lambda i: -distance[i])
    examples = [f"{names[i]} ({number(distance[i])} deviations, {percent(outside[i])} outside)" for i in worst]
    text = f"{len(strange)} of {len(names)} {what} dimensions are far from the checkpoint's: {listed(examples, 3)}"
    advice = "the checkpoint as it is does not know such values, and clips them under bounds: fine-tune it"
    return [Finding("warning", "statistics", text, advice, tuple(f"{what} {names[i]}" for i in strange))]


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    return f" (nearest: {near[0]!r})" if near else ""


def _range(stats: Stats, i: int) -> tuple[float, float] | None:
    """Smallest and largest value, or the quantiles, or None."""
    for low, high in ((stats.min, stats.max), (stats.q01, stats.q99)):
        if low is not None and high is not None and high[i] > low[i]:
            return float(low[i]), float(high[i])
    return None


def _words(bounds: tuple[float, float]) -> str:
    return f"{number(bounds[0])} to {number(bounds[1])}"


def _part(value: float, bounds: tuple[float, float]) -> float:
    return float(np.clip((value - bounds[0]) / (bounds[1] - bounds[0]), 0, 1))


def _squares(x: np.ndarray) -> str:
    return " ".join(f"{value:.2f}" for value in x)
