"""Several data sets as one: weights, held-out episodes, and an endless order that seed and position alone decide."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from pizero.data.dataset import Dataset
from pizero.data.source import Source, check_sources

__all__ = ["Mixture", "Source"]

ORDER_STREAM, HELD_OUT_STREAM, BLOCK_STREAM, REPLACEMENT_STREAM = 0, 4, 5, 6
"""First numbers after the seed, which keep random numbers of different use apart; augmentation has 1, training 2, 3."""
BLOCK = 100
"""Samples over which the weights hold exactly, but for rounding: whole percentages are exact in each block. More where
a source would get less than one sample."""


class Mixture:
    """Samples of several sources in an endless order that depends on `seed` and the data alone.

    Each source is shuffled anew in each epoch of its own, and gives no frame twice in it. `held_out` is the part of
    each source's episodes that never comes (at least one where it is above 0).

    Raises ValueError when there is no source, a weight is not above 0, the sources do not fit each other or their
    transforms, or a source has too few episodes to hold one out.
    """

    def __init__(self, sources: Sequence[Source], seed: int, held_out: float = 0.0) -> None:
        self.sources, self.seed = tuple(sources), seed
        check_sources(self.sources)
        if not 0 <= held_out < 1:
            raise ValueError(f"held_out is {held_out}, must be from 0 to below 1")
        self.num_views = max(len(source.dataset.embodiment.cameras) for source in self.sources)
        self.prompt_length, self.prompts_differ = _longest_prompt(self.sources)
        held = [_held_out(source.dataset, held_out, seed, i) for i, source in enumerate(self.sources)]
        self._trained = [np.flatnonzero(~mask) if mask.any() else None for mask in held]
        self._held_out = [np.flatnonzero(mask) for mask in held]
        total = sum(source.weight for source in self.sources)
        self._weights = np.array([source.weight / total for source in self.sources])
        self._edges = np.concatenate([[0.0], np.cumsum(self._weights)[:-1], [1.0]])
        self._block = max(BLOCK, int(np.ceil(1 / self._weights.min())))
        self._blocks: tuple[int, np.ndarray, np.ndarray] = (-1, np.zeros(0, np.int64), np.zeros(0, np.int64))
        self._orders: list[tuple[int, np.ndarray]] = [(-1, np.zeros(0, np.int64))] * len(self.sources)

    @property
    def views_differ(self) -> bool:
        """Whether a source has fewer cameras than another, so that views are absent in some rows."""
        return any(len(source.dataset.embodiment.cameras) < self.num_views for source in self.sources)

    def num_frames(self, source: int) -> int:
        """Frames of a source that are trained on: the length of its epochs."""
        trained = self._trained[source]
        return self.sources[source].dataset.num_frames if trained is None else len(trained)

    def rows(self, step: int, batch_size: int) -> tuple[Int[np.ndarray, " b"], Int[np.ndarray, " b"]]:
        """Source and frame of each row of a step's batch."""
        return self.samples(step * batch_size + np.arange(batch_size))

    def samples(self, positions: Int[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Source and frame of places in the endless order."""
        source, draws = self._draws(positions)
        frame = np.empty(len(positions), np.int64)
        for number in range(len(self.sources)):
            chosen = source == number
            epochs, offsets = np.divmod(draws[chosen], self.num_frames(number))
            found = np.empty(len(offsets), np.int64)
            for epoch in np.unique(epochs):
                found[epochs == epoch] = self._order(number, int(epoch))[offsets[epochs == epoch]]
            frame[chosen] = self._frames(number, found)
        return source, frame

    def replacement(self, source: int, position: int, attempt: int) -> int:
        """Another frame of a source for a place whose own cannot be read; each attempt gives one."""
        random = np.random.default_rng([self.seed, REPLACEMENT_STREAM, position, attempt])
        return int(self._frames(source, random.integers(0, self.num_frames(source), 1))[0])

    def validation_rows(self, count: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Source and frame of about `count` held-out frames, in order, evenly spread over each source's.

        A source has its weight's part of them, at least one and at most all it has. Empty when nothing is held out.
        """
        if count < 1:
            raise ValueError(f"count is {count}, must be at least 1")
        sources, frames = [], []
        shares = np.diff(np.rint(self._edges * count).astype(np.int64))
        for number, held in enumerate(self._held_out):
            wanted = min(len(held), max(1, int(shares[number])))
            frames.append(held[((np.arange(wanted) + 0.5) * len(held) / max(1, wanted)).astype(np.int64)])
            sources.append(np.full(wanted, number, np.int64))
        return np.concatenate(sources), np.concatenate(frames)

    def moving_views(self, still_cameras: Sequence[str]) -> Bool[np.ndarray, "sources v"]:
        """True for the views that are no `still_cameras`, as `Augmentation` takes them.

        Raises ValueError for a camera that no source has.
        """
        known = {camera for source in self.sources for camera in source.dataset.embodiment.cameras}
        for camera in still_cameras:
            if camera not in known:
                raise ValueError(f"still_cameras has {camera!r}, the data has the cameras {', '.join(sorted(known))}")
        moving = np.ones((len(self.sources), self.num_views), bool)
        for row, source in zip(moving, self.sources, strict=True):
            for view, camera in enumerate(source.dataset.embodiment.cameras):
                row[view] = camera not in still_cameras
        return moving

    def _draws(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Source of each place, and how many samples of that source came before it."""
        if len(self.sources) == 1:
            return np.zeros(len(positions), np.int64), positions.astype(np.int64)
        blocks, offsets = np.divmod(positions, self._block)
        source, draws = np.empty((2, len(positions)), np.int64)
        for block in np.unique(blocks):
            inside = blocks == block
            sources_of, draws_of = self._deal(int(block))
            source[inside], draws[inside] = sources_of[offsets[inside]], draws_of[offsets[inside]]
        return source, draws

    def _deal(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Source and draw of each place of a block."""
        known, source, draws = self._blocks
        if known == block:
            return source, draws
        before, after = self._counts(block), self._counts(block + 1)
        assert (after >= before).all(), "a block gives each source at least its rounding error"
        dealt = np.repeat(np.arange(len(self.sources)), after - before)
        source = np.random.default_rng([self.seed, BLOCK_STREAM, block]).permutation(dealt)
        draws = np.empty_like(source)
        for number, (first, end) in enumerate(zip(before, after, strict=True)):
            draws[source == number] = np.arange(first, end)
        self._blocks = (block, source, draws)
        return source, draws

    def _counts(self, block: int) -> np.ndarray:
        """Samples of each source before a block; rounding the edges between sources keeps the sum exact."""
        return np.diff(np.rint(self._edges * (block * self._block)).astype(np.int64))

    def _order(self, source: int, epoch: int) -> np.ndarray:
        known, order = self._orders[source]
        if known != epoch:
            order = np.random.default_rng([self.seed, ORDER_STREAM, epoch, source]).permutation(self.num_frames(source))
            self._orders[source] = (epoch, order)
        return order

    def _frames(self, source: int, places: np.ndarray) -> np.ndarray:
        trained = self._trained[source]
        return places if trained is None else trained[places]


def _held_out(dataset: Dataset, part: float, seed: int, source: int) -> Bool[np.ndarray, " n"]:
    """True for the frames of the episodes that are held out."""
    mask, num_episodes = np.zeros(dataset.num_frames, bool), len(dataset.episodes)
    if part == 0:
        return mask
    if num_episodes == 1:
        raise ValueError(f"{dataset.root} has one episode, held_out needs at least two; set held_out to 0")
    count = min(max(1, round(part * num_episodes)), num_episodes - 1)
    chosen = np.random.default_rng([seed, HELD_OUT_STREAM, source]).permutation(num_episodes)[:count]
    for number in chosen:
        episode = dataset.episodes[number]
        mask[episode.start : episode.start + episode.length] = True
    return mask


def _longest_prompt(sources: Sequence[Source]) -> tuple[int, bool]:
    """Tokens of the longest prompt of any source, and whether there are shorter ones."""
    lengths = [
        source.transform.prompt_lengths([source.dataset.prompts[i] for i in np.unique(source.dataset.prompt_index)])
        for source in sources
    ]
    longest = max(longest for _, longest in lengths)
    return longest, min(shortest for shortest, _ in lengths) < longest
