"""Where to take hold of a thing: searched over its collision geometry, from above, with the fingers across something
thin. What comes out is the rim of a bowl or a mug, the thin side of a box, the neck or the lid of a bottle.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pizero.sim.libero import expert_hand as hand

Points = Float[np.ndarray, "n 3"]

_TURNS = np.radians(np.arange(-90, 90, 15))
"""Turns of the hand about the vertical that are tried, radians; the fingers are alike, so half a turn covers all."""
_SHIFTS = np.arange(-0.04, 0.041, 0.01)
"""Metres along the fingers' width from the middle of the thing."""
_DEPTHS = (0.028, 0.02, 0.013)
"""How far below the top of the thing the grip site may be; the palm allows 0.031."""
_FLOOR = 0.014
"""The grip site is at least this far above the lowest point of the thing, so that the tips do not scrape."""
_PAD_UP, _PAD_DOWN = 0.013, 0.005
"""The pads' extent above and below the grip site."""
_INSETS = (0.0, 0.012, 0.02)
"""Metres by which the open hand may come down nearer to the middle of the thing than the thin wall is that it is to
grip, where outside there is no room for a finger."""
_CLUSTER_GAP = 0.02
"""Metres of nothing between two walls that a finger fits between; nearer ones are one piece."""
_WIDEST = 0.069
"""Pieces wider than this do not go between the fingers with 4 mm on either side."""
_MARGIN = 0.004
"""Free space around the hand that a grasp wants."""

_THIN = 0.03
"""Widths below this count alike: walls of bowls look a bit thicker or thinner depending on where their boxes meet."""
_PER_RADIAN = 0.02
_PER_OFFSET = 1.5
_PER_DEPTH, _PER_INSET = 0.2, 0.5
_PER_REACH, _PER_STRETCH = 0.3, 3.0
_STRETCHED = 0.76
_WRONG_SIDE = 0.002
"""Costs in metres of width: of turning the wrist, of gripping off the middle, of gripping higher than possible and off
centre, of reaching farther from the foot of the arm and of stretching it beyond so many metres (at 0.78 m the elbow of
a hand that points straight down is straight, and the controller does not get it bent again), and of the side away from
the world's +y, which decides between the two sides of a rim straight ahead, where otherwise millimetres would."""


@dataclass(frozen=True)
class Grasp:
    """A hand at a thing, in the frame of the thing."""

    position: Float[np.ndarray, " 3"]
    """Of the grip site when the fingers hold the thing, metres."""
    rotation: Float[np.ndarray, "3 3"]
    """Of the hand."""
    width: float
    """Metres between the fingers when they hold it."""
    inset: Float[np.ndarray, " 3"]
    """From `position` to where the open hand comes down, metres; zero in most grasps."""

    def at(self, gap: float) -> Float[np.ndarray, " 3"]:
        """Where the grip site belongs while the fingers are `gap` metres apart.

        It gives up its inset as they close, so that both come to the wall together and then have it between them.
        """
        share = (gap - self.width) / (hand.MAX_OPENING - self.width)
        return self.position + np.clip(share, 0.0, 1.0) * self.inset


def find_grasps(
    thing: Points,
    obstacles: Float[np.ndarray, "o 3"],
    origin: Float[np.ndarray, " 3"],
    axes: Float[np.ndarray, "3 3"],
    feet: Float[np.ndarray, "k 2"],
) -> Iterator[Grasp]:
    """Grasps of a thing as it stands, best first, that neither the thing nor the obstacles are in the way of.

    thing, obstacles: points in the world, metres. origin, axes: pose of the thing's frame in the world, to which the
    grasps refer. feet: where the arm stands, as seen from the thing here and, if it is to be carried, from where it
    will be.
    """
    near = obstacles[(np.abs(obstacles[:, :2] - thing[:, :2].mean(0)) < 0.25).all(1)]
    found = sorted(_candidates(thing, feet), key=lambda candidate: candidate.cost)
    found = [candidate for candidate in found if not _blocked(thing, candidate, inner=hand.MAX_OPENING / 2 - 0.001)]
    free = (candidate for candidate in found if not _blocked(near, candidate, inner=0.0))
    # After those, or if there are none, it is better to push something aside than to stand still.
    for candidate in itertools.chain(free, found):
        rotation, inset = turned(candidate.turn), candidate.inset @ axes
        yield Grasp((candidate.position - origin) @ axes - inset, axes.T @ rotation, candidate.width, inset)


def turned(turn: float) -> Float[np.ndarray, "3 3"]:
    """Rotation of a hand that points straight down, turned by `turn` radians about the world's z from `REST`."""
    c, s = np.cos(turn), np.sin(turn)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]) @ hand.REST


def upright_turn(rotation: Float[np.ndarray, "3 3"]) -> float:
    """The turn whose rotation is nearest to that of a hand that points almost straight down."""
    return float(np.arctan2(-rotation[0, 0], rotation[1, 0]))


@dataclass(frozen=True)
class _Candidate:
    position: Float[np.ndarray, " 3"]
    """Where the hand comes down."""
    turn: float
    width: float
    inset: Float[np.ndarray, " 3"]
    cost: float


def _candidates(thing: Points, feet: Float[np.ndarray, "k 2"]) -> Iterator[_Candidate]:
    low, high = thing.min(0), thing.max(0)
    middle = (low + high)[:2] / 2
    heights = sorted({max(high[2] - depth, low[2] + _FLOOR) for depth in _DEPTHS})
    for turn in _TURNS:
        axes = turned(turn)[:2, :2]
        across, along = ((thing[:, :2] - middle) @ axes).T
        for height in heights:
            above = thing[:, 2] - height
            level = (above > -_PAD_DOWN) & (above < _PAD_UP)
            for shift in _SHIFTS:
                between = np.sort(across[level & (np.abs(along - shift) < hand.FINGER_HALF_WIDTH)])
                for center, width, inset in _pieces(between):
                    inward = np.append(-inset * np.sign(center) * axes[:, 0], 0.0)
                    offset = axes @ [center, shift] + inward[:2]
                    reach = float(np.linalg.norm(middle + offset - feet, axis=1).max())
                    cost = max(width, _THIN) + _PER_RADIAN * abs(turn) + _PER_DEPTH * (height - heights[0])
                    cost += _PER_INSET * inset + _PER_OFFSET * float(np.hypot(center, shift))
                    cost += _PER_REACH * reach + _PER_STRETCH * max(reach - _STRETCHED, 0)
                    cost += _WRONG_SIDE * (offset[1] < -0.01)
                    yield _Candidate(np.append(middle + offset, height), turn, width, inward, cost)


def _pieces(ordered: Float[np.ndarray, " n"]) -> Iterator[tuple[float, float, float]]:
    """Middle and width of what fits between the fingers, given where the thing is across the hand, and by how much the
    hand may be nearer to the thing's middle."""
    for left, right in _clusters(ordered):
        width = right - left
        if width < _WIDEST:
            for inset in _INSETS if width < _THIN else _INSETS[:1]:
                yield (left + right) / 2, width, inset


def _clusters(ordered: Float[np.ndarray, " n"]) -> list[tuple[float, float]]:
    """First and last of each run of numbers without a gap of `_CLUSTER_GAP`."""
    if not len(ordered):
        return []
    breaks = np.flatnonzero(np.diff(ordered) > _CLUSTER_GAP)
    firsts = ordered[np.concatenate([[0], breaks + 1])]
    lasts = ordered[np.concatenate([breaks, [len(ordered) - 1]])]
    return [(float(first), float(last)) for first, last in zip(firsts, lasts, strict=True)]


def _blocked(points: Points, candidate: _Candidate, inner: float) -> bool:
    """Whether a point is where the open hand or the wrist above it would be, or, from `inner` metres on off the middle,
    where the fingers would be or what they close on."""
    across, along = np.abs((points - candidate.position)[:, :2] @ turned(candidate.turn)[:2, :2]).T
    down = candidate.position[2] - points[:, 2]
    finger = (across > inner) & (across < hand.MAX_OPENING / 2 + hand.FINGER_THICKNESS + _MARGIN)
    finger &= (along < hand.FINGER_HALF_WIDTH + _MARGIN) & (down < hand.TIP + 0.001) & (down > -hand.RISING)
    palm = (across < hand.PALM_HALF_LENGTH + _MARGIN) & (along < hand.PALM_HALF_WIDTH + _MARGIN)
    palm &= (down < -hand.PALM + 0.002) & (down > -hand.RISING)
    return bool((finger | palm).any())
