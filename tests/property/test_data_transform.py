"""What must hold for every robot, picture and sentence: inverses are inverses, nothing is lost or invented."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pizero.data.images import resize_with_pad
from pizero.data.normalize import Normalizer
from pizero.data.prompt import Tokenizer, clean, train_tokenizer
from pizero.data.stats import DatasetStats, Stats
from pizero.data.transform import Transform, TransformConfig
from pizero.embodiment import Embodiment

TOKENIZER = Tokenizer(train_tokenizer(["open the drawer", "close the window"], 300))
NAMES = ("x", "y", "z")


@st.composite
def recordings(draw: st.DrawFn) -> np.ndarray:
    """(n, 3), every dimension with its own place and scale."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    place = draw(st.lists(st.floats(-100, 100), min_size=3, max_size=3))
    scale = draw(st.lists(st.floats(0.01, 100), min_size=3, max_size=3))
    return random.normal(size=(draw(st.integers(5, 60)), 3)) * scale + place


@pytest.mark.parametrize("mode", ["bounds", "z-score", "quantile"])
@given(values=recordings())
def test_inverting_undoes_normalising(mode: str, values: np.ndarray) -> None:
    stats = Stats.of(values)
    inside = np.clip(values, stats.q01, stats.q99)
    normalizer = Normalizer(mode, stats, NAMES)
    spread = stats.q99 - stats.q01
    assert (np.abs(normalizer.invert(normalizer.normalize(inside)) - inside) <= 1e-12 * (spread + np.abs(inside))).all()
    if mode != "bounds":
        back = normalizer.invert(normalizer.normalize(values))
        assert (np.abs(back - values) <= 1e-12 * (spread + np.abs(values))).all()


@given(values=recordings())
def test_bounds_never_leave_minus_one_to_one_and_keep_the_order(values: np.ndarray) -> None:
    normalized = Normalizer("bounds", Stats.of(values), NAMES).normalize(values)
    assert (np.abs(normalized) <= 1).all()
    order = np.argsort(values, axis=0, kind="stable")
    assert (np.diff(np.take_along_axis(normalized, order, 0), axis=0) >= 0).all()


@given(values=recordings(), seed=st.integers(0, 2**32))
def test_statistics_do_not_depend_on_the_order_of_frames_and_survive_json(values: np.ndarray, seed: int) -> None:
    stats, shuffled = Stats.of(values), Stats.of(np.random.default_rng(seed).permutation(values))
    np.testing.assert_array_equal(stats.q01, shuffled.q01)
    np.testing.assert_allclose(stats.mean, shuffled.mean, rtol=1e-9, atol=1e-9)
    both = DatasetStats(stats, shuffled)
    again = DatasetStats.from_json(json.loads(json.dumps(both.to_json())))
    assert again.to_json() == both.to_json()


@settings(deadline=None)
@given(
    actions=recordings(),
    mode=st.sampled_from(["bounds", "z-score", "quantile"]),
    raw=st.sets(st.sampled_from(NAMES)),
    padding=st.integers(0, 3),
)
def test_actions_through_the_model_units_come_back(actions: np.ndarray, mode: str, raw: set[str], padding: int) -> None:
    stats = Stats.of(actions)
    low, high = tuple(stats.min.tolist()), tuple(stats.max.tolist())
    robot = Embodiment("toy", ("front",), NAMES, NAMES, 10.0, low, high)
    config = TransformConfig(robot, mode, (), tuple(sorted(raw)), state_dim=3, action_dim=3 + padding, horizon=1)
    transform = Transform(config, DatasetStats(stats, stats), TOKENIZER)
    values = np.clip(actions, stats.q01, stats.q99).astype(np.float32)[:, None]
    state = np.zeros((len(values), 3), np.float32)
    model = transform.actions(values, np.ones((len(values), 1), bool), state)
    assert torch.equal(model.mask.all(1), transform.action_mask.expand(len(values), -1))
    assert not model.values[..., 3:].any()
    back = transform.invert_actions(model.values, state)
    np.testing.assert_allclose(back, values, rtol=1e-6, atol=2e-6 * float((stats.max - stats.min).max()))


@given(
    height=st.integers(1, 60), width=st.integers(1, 60), target=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    level=st.integers(1, 255),
)  # fmt: skip
def test_resizing_keeps_one_colour_centred_on_black(
    height: int, width: int, target: tuple[int, int], level: int
) -> None:
    padded = resize_with_pad(np.full((height, width, 3), level, np.uint8), target)
    assert padded.shape == (*target, 3)
    assert set(np.unique(padded)) <= {0, level}
    rows, columns = (padded == level).any((1, 2)), (padded == level).any((0, 2))
    assert (padded[rows][:, columns] == level).all()
    for line in (rows, columns):
        first, last = np.flatnonzero(line)[[0, -1]]
        assert abs(first - (len(line) - 1 - last)) <= 1
    assert resize_with_pad(padded, target) is padded


@given(text=st.text(st.characters(exclude_categories=("Cs",), exclude_characters="▁"), max_size=60))  # its space sign
def test_any_prompt_is_encoded_without_unknown_tokens_and_decodes_to_itself(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert ids[0] == 2
    assert 3 not in ids
    assert 0 not in ids
    ids_row, mask = TOKENIZER.encode_batch([text, ""], len(ids) + 2)
    assert ids_row[0][mask[0]].tolist() == ids
    assert not ids_row[~mask].any()
    assert TOKENIZER.decode(ids) == clean(text) + "\n"
