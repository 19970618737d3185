from collections.abc import Sequence

import numpy as np
import pytest
from toy_env import TOY

from pizero.frame import Frame
from pizero.sim.batching import FewSizes, Timed, padded_size


class RowPolicy:
    """Plans from a row's state and seed alone; remembers the batches' sizes."""

    embodiment = TOY

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def act_batch(self, frames: Sequence[Frame], seeds: Sequence[int] | None = None) -> np.ndarray:
        self.sizes.append(len(frames))
        drawn = [0] * len(frames) if seeds is None else seeds
        assert len(drawn) == len(frames)
        rows = [[[frame.state[0], seed]] for frame, seed in zip(frames, drawn, strict=True)]
        return np.array(rows, np.float32)


def frames(count: int) -> list[Frame]:
    return [Frame(state=np.array([i, 0, 0], np.float32)) for i in range(count)]


@pytest.mark.parametrize(("most", "sizes"), [(1, {1}), (2, {1, 2}), (12, {1, 2, 4, 8, 12}), (16, {1, 2, 4, 8, 16})])
def test_sizes_are_powers_of_two_up_to_the_number_of_workers(most: int, sizes: set[int]) -> None:
    assert {padded_size(size, most) for size in range(1, most + 1)} == sizes
    assert all(padded_size(size, most) >= size for size in range(1, most + 1))


@pytest.mark.parametrize("with_seeds", [True, False])
def test_rows_come_out_as_they_went_in(with_seeds: bool) -> None:
    policy = RowPolicy()
    for count in range(1, 13):
        seeds = [100 + i for i in range(count)] if with_seeds else None
        few = FewSizes(policy, 12).act_batch(frames(count), seeds)
        np.testing.assert_array_equal(few, RowPolicy().act_batch(frames(count), seeds))
    assert policy.sizes == [1, 2, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12]


def test_time_and_chunks_are_counted() -> None:
    policy = Timed(RowPolicy())
    assert policy.act_batch(frames(3), [1, 2, 3]).shape == (3, 1, 2)
    policy.act_batch(frames(2))
    assert policy.chunks == 5
    assert 0 < policy.seconds < 10
