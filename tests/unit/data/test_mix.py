import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_recording import ToyRecording, make_sources

from pizero.data.mix import Mixture
from pizero.data.source import Source, group_robots


def mixture(
    *lengths: tuple[int, ...], weights: tuple[float, ...] = (), seed: int = 3, held_out: float = 0.0
) -> Mixture:
    datasets = [ToyRecording(each, root=f"set {i}") for i, each in enumerate(lengths)]
    return Mixture(make_sources(*datasets, weights=weights), seed, held_out)


def test_one_source_is_shuffled_as_it_always_was() -> None:
    mixed = mixture((5, 7, 4))
    source, frame = mixed.rows(2, 6)
    epochs = [np.random.default_rng([3, 0, epoch]).permutation(16) for epoch in range(2)]
    np.testing.assert_array_equal(frame, np.concatenate(epochs)[12:18])
    assert (source == 0).all()


def test_every_frame_comes_once_per_epoch_and_epochs_differ() -> None:
    _, order = mixture((5, 7, 4)).samples(np.arange(48))
    epochs = order.reshape(3, 16)
    assert (np.sort(epochs) == np.arange(16)).all()
    assert (epochs[0] != epochs[1]).any()
    assert (epochs[0] != np.arange(16)).any()


@settings(deadline=None, max_examples=40)
@given(
    weights=st.lists(st.floats(0.02, 1.0), min_size=2, max_size=4),
    lengths=st.lists(st.integers(3, 40), min_size=4, max_size=4),
    batch_size=st.integers(1, 70),
    seed=st.integers(0, 9),
)
def test_a_mixture_keeps_its_weights_and_gives_no_frame_twice_in_an_epoch(
    weights: list[float], lengths: list[int], batch_size: int, seed: int
) -> None:
    mixed = mixture(*((n,) for n in lengths[: len(weights)]), weights=tuple(weights), seed=seed)
    source, frame = mixed.samples(np.arange(1000))
    share = np.array(weights) / sum(weights)
    for block in range(mixed._block, 1001, mixed._block):
        counts = np.bincount(source[:block], minlength=len(weights))
        assert np.abs(counts - share * block).max() <= 1 + 1e-9
    for number in range(len(weights)):
        drawn = frame[source == number]
        whole = drawn[: len(drawn) // lengths[number] * lengths[number]].reshape(-1, lengths[number])
        assert (np.sort(whole) == np.arange(lengths[number])).all()
    step = 1000 // batch_size // 2  # any step, from a mixture that made no other
    fresh = mixture(*((n,) for n in lengths[: len(weights)]), weights=tuple(weights), seed=seed)
    rows = slice(step * batch_size, (step + 1) * batch_size)
    np.testing.assert_array_equal(np.stack(fresh.rows(step, batch_size)), np.stack([source[rows], frame[rows]]))


def test_whole_percentages_are_exact_in_every_block_of_a_hundred() -> None:
    source, _ = mixture((30,), (50,), (20,), weights=(0.5, 0.3, 0.2)).samples(np.arange(500))
    for block in source.reshape(5, 100):
        assert np.bincount(block).tolist() == [50, 30, 20]
    assert (source[:100] != source[100:200]).any()
    assert len(np.unique(source[:20])) > 1  # mixed inside the block, not one after the other


def test_a_rare_source_comes_too() -> None:
    source, _ = mixture((30,), (50,), weights=(0.999, 0.001)).samples(np.arange(10_000))
    assert (source == 1).sum() == 10
    between, _ = mixture((30,), (50,), (20,), weights=(1 / 3, 0.0005, 2 / 3 - 0.0005)).samples(np.arange(60_000))
    assert np.abs(np.bincount(between) - [20_000, 30, 39_970]).max() <= 1


def test_sources_of_the_same_length_have_orders_of_their_own() -> None:
    source, frame = mixture((20,), (20,)).samples(np.arange(200))
    assert (frame[source == 0][:20] != frame[source == 1][:20]).any()


def test_another_seed_gives_another_order() -> None:
    a, b = (mixture((20,), (30,), seed=seed).rows(0, 50) for seed in (0, 1))
    assert (a[0] != b[0]).any()
    assert (a[1] != b[1]).any()


def test_held_out_episodes_never_come_and_are_what_validation_sees() -> None:
    mixed = mixture((4, 6, 5, 3, 7, 8, 2, 9, 4, 6), (5, 5), weights=(3.0, 1.0), held_out=0.2)
    source, frame = mixed.samples(np.arange(1000))
    trained = [set(frame[source == number]) for number in (0, 1)]
    held = mixed.validation_rows(10_000)
    for number, episodes in ((0, 2), (1, 1)):
        dataset = mixed.sources[number].dataset
        out = {int(i) for i in held[1][held[0] == number]}
        assert trained[number] | out == set(range(dataset.num_frames))
        assert not trained[number] & out
        inside = [set(range(e.start, e.start + e.length)) for e in dataset.episodes]
        assert sum(e <= out for e in inside) == episodes
        assert sum(bool(e & out) for e in inside) == episodes
        assert mixed.num_frames(number) == len(trained[number])
    assert mixture((5,) * 10, held_out=0.2, seed=1).validation_rows(9)[1].tolist() != (
        mixture((5,) * 10, held_out=0.2, seed=2).validation_rows(9)[1].tolist()
    )


def test_validation_rows_are_spread_evenly() -> None:
    mixed = mixture((100, 100), (100, 100), weights=(3.0, 1.0), held_out=0.5)
    source, frame = mixed.validation_rows(40)
    assert np.bincount(source).tolist() == [30, 10]
    assert set(np.diff(frame[source == 1])) == {10}
    assert len(set(frame[source == 0])) == 30
    assert frame[source == 1][0] % 100 == 5
    assert len(mixture((5, 5)).validation_rows(4)[0]) == 0
    assert np.bincount(mixture((9, 9), (9, 9), weights=(99.0, 1.0), held_out=0.5).validation_rows(4)[0]).tolist() == [
        4,
        1,
    ]


def test_a_single_episode_cannot_be_held_out() -> None:
    with pytest.raises(ValueError, match="set 0 has one episode, held_out needs at least two"):
        mixture((9,), held_out=0.1)
    with pytest.raises(ValueError, match=r"held_out is 1\.0"):
        mixture((9, 9), held_out=1.0)
    assert mixture((9, 5), held_out=0.9).num_frames(0) in (9, 5)  # something is left to train on


def test_data_sets_of_one_robot_share_the_range_of_all() -> None:
    a, b = ToyRecording((5, 5), root="a"), ToyRecording((9, 9), root="b")
    other = ToyRecording((4,), cameras=("front",), name="other")
    robots = group_robots([a, other, b])
    assert [robot.members for robot in robots] == [(0, 2), (1,)]
    low = np.minimum(a.embodiment.action_low, b.embodiment.action_low)
    assert robots[0].embodiment.action_low == tuple(low.tolist())
    assert robots[1].embodiment == other.embodiment
    b.embodiment = replace(b.embodiment, action_low=(), action_high=())
    assert group_robots([a, b])[0].embodiment.action_high == ()


def test_one_robot_at_two_rates_is_refused() -> None:
    a, b = ToyRecording(root="a", rate_hz=10.0), ToyRecording(root="b", rate_hz=5.0)
    with pytest.raises(ValueError, match="a and b are of one robot, toy, but of 10 and 5 frames a second"):
        group_robots([a, b])


def test_sources_that_do_not_fit_are_refused() -> None:
    toy, other = ToyRecording(), ToyRecording(cameras=("front",), name="other", root="other")
    [first, second] = make_sources(toy, other)
    config = replace(second.transform.config, horizon=9)
    longer = type(second.transform)(config, second.transform.stats, second.transform.tokenizer)
    with pytest.raises(ValueError, match="of other has horizon 9, that of toy 3"):
        Mixture([first, replace(second, transform=longer)], 0)
    with pytest.raises(ValueError, match="another robot than the model: name: toy against other"):
        Mixture([Source(other, first.transform, 1.0)], 0)
    with pytest.raises(ValueError, match=r"weight of toy is 0\.0"):
        Mixture([replace(first, weight=0.0)], 0)
    with pytest.raises(ValueError, match="at least one data set"):
        Mixture([], 0)
    toy.preload((6, 6), "squash")
    with pytest.raises(ValueError, match="preloaded as 'squash', the model takes 'pad'"):
        Mixture([first], 0)


def test_the_longest_prompt_of_the_data_is_known_at_the_start() -> None:
    sources = make_sources(ToyRecording((5, 7, 4)))
    mixed, tokenizer = Mixture(sources, 0), sources[0].transform.tokenizer
    lengths = [len(tokenizer.encode(task)) for task in sources[0].dataset.prompts]
    assert mixed.prompt_length == max(lengths)
    assert mixed.prompts_differ == (len(set(lengths)) > 1)
    only = Mixture(make_sources(ToyRecording((5,))), 0)  # the second task is in the list, but in no frame
    assert only.prompt_length == len(only.sources[0].transform.tokenizer.encode("open the drawer"))
    assert not only.prompts_differ


def test_a_prompt_with_the_state_in_it_has_room_for_any_state() -> None:
    sources = make_sources(ToyRecording((5, 7)), prompt_format="pi05", prompt_length=90)
    mixed, transform = Mixture(sources, 0), sources[0].transform
    random = np.random.default_rng(0)
    states = random.uniform(-4, 4, (500, 3)).astype(np.float32)
    _, _, mask = transform.numbers(states, [random.choice(sources[0].dataset.prompts) for _ in states])
    assert mask.sum(1).max() <= mixed.prompt_length <= 90
    assert mixed.prompt_length <= mask.sum(1).max() + 2
    assert mixed.prompts_differ


def test_still_cameras_are_found_by_name_in_every_source() -> None:
    mixed = Mixture(make_sources(ToyRecording(), ToyRecording(cameras=("wrist",), name="other")), 0)
    assert mixed.moving_views(("wrist",)).tolist() == [[True, False], [False, True]]
    assert mixed.views_differ
    with pytest.raises(ValueError, match="still_cameras has 'hand', the data has the cameras front, wrist"):
        mixed.moving_views(("hand",))


def test_a_replacement_is_a_trained_frame_that_place_and_attempt_decide() -> None:
    mixed = mixture((9, 9, 9), held_out=0.3)
    held = set(mixed.validation_rows(999)[1].tolist())
    frames = [[mixed.replacement(0, position, attempt) for attempt in (1, 2)] for position in range(40)]
    assert not held & set(np.ravel(frames).tolist())
    assert frames == [[mixed.replacement(0, position, attempt) for attempt in (1, 2)] for position in range(40)]
    assert len(set(np.ravel(frames).tolist())) > 10
    assert sum(first != second for first, second in frames) > 30


def test_a_mixture_travels_to_a_worker() -> None:
    mixed = mixture((5, 7), (4, 6), held_out=0.5)
    there = pickle.loads(pickle.dumps(mixed))
    np.testing.assert_array_equal(there.rows(3, 8), mixed.rows(3, 8))
    assert there.sources[0].transform is there.sources[1].transform
