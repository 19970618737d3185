import gc
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pizero.data.lerobot import LeRobotDataset
from pizero.data.loader import Augment, Batches
from pizero.data.stats import compute_stats
from pizero.data.transform import Transform


def fields(batch) -> list[torch.Tensor]:
    observation, actions = batch
    masks = [observation.image_mask, observation.prompt_mask, actions.mask]
    return [observation.images, observation.prompt, observation.state, actions.values, *masks]


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(fields(a), fields(b), strict=True))


def take(dataset, transform, count: int, **arguments) -> list:
    with Batches(dataset, transform, **({"batch_size": 6, "seed": 3} | arguments)) as batches:
        return [next(batches) for _ in range(count)]


@pytest.mark.parametrize("preload", [None, "as recorded", "model size"])
@pytest.mark.parametrize("how", ["pad", "squash", "lerobot"])
def test_a_batch_is_the_observation_of_its_frames_bit_for_bit(
    dataset: LeRobotDataset, transform: Transform, root: Path, preload: str | None, how: str
) -> None:
    reference = LeRobotDataset(root)
    config = replace(transform.config, resize=how, delta_actions=("dx",), normalization="z-score")
    transform = Transform(config, compute_stats(dataset, config.units, 3), transform.tokenizer)
    if preload:
        dataset.preload((24, 24) if preload == "model size" else None, how)
    with Batches(dataset, transform, batch_size=6, seed=3) as batches:
        for step in range(6):
            observation, actions = next(batches)
            indices = batches.indices(step)
            frames = [reference.frame(int(i)) for i in indices]
            chunks = [reference.chunk(int(i), 3) for i in indices]
            values, real = np.stack([c[0] for c in chunks]), np.stack([c[1] for c in chunks])
            expected = transform.observation(frames), transform.actions(values, real, dataset.state[indices])
            assert equal((observation, actions), expected), step


def test_every_frame_comes_once_per_epoch_and_epochs_differ(dataset: LeRobotDataset, transform: Transform) -> None:
    with Batches(dataset, transform, batch_size=6, seed=3) as batches:
        order = np.concatenate([batches.indices(step) for step in range(8)])  # 48 = 3 epochs of 16
    epochs = order.reshape(3, 16)
    for epoch in epochs:
        assert sorted(epoch) == list(range(16))
    assert (epochs[0] != epochs[1]).any()
    assert (epochs[0] != np.arange(16)).any()


def test_a_batch_may_be_larger_than_the_data_set(dataset: LeRobotDataset, transform: Transform) -> None:
    with Batches(dataset, transform, batch_size=40, seed=0) as batches:
        assert np.bincount(batches.indices(0), minlength=16).tolist().count(3) == 8
        assert next(batches)[0].images.shape[0] == 40


@pytest.mark.parametrize("augment", [None, Augment()])
def test_starting_at_a_step_gives_what_an_uninterrupted_run_gets(dataset, transform, augment) -> None:
    dataset.preload()
    whole = take(dataset, transform, 9, augment=augment)
    rest = take(dataset, transform, 4, augment=augment, start_step=5)
    assert all(equal(a, b) for a, b in zip(whole[5:], rest, strict=True))
    assert not equal(whole[0], whole[1])


def test_another_seed_gives_another_order(dataset: LeRobotDataset, transform: Transform) -> None:
    assert not equal(take(dataset, transform, 1)[0], take(dataset, transform, 1, seed=4)[0])


def test_augmentation_changes_pictures_only(dataset: LeRobotDataset, transform: Transform) -> None:
    plain, changed = take(dataset, transform, 1)[0], take(dataset, transform, 1, augment=Augment())[0]
    assert not torch.equal(plain[0].images, changed[0].images)
    assert all(torch.equal(a, b) for a, b in zip(fields(plain)[1:], fields(changed)[1:], strict=True))
    assert changed[0].images.min() >= -1
    assert changed[0].images.max() <= 1


def test_no_augmentation_at_all_changes_nothing(dataset: LeRobotDataset, transform: Transform) -> None:
    nothing = Augment(shift_pixels=0, brightness=0.0, contrast=0.0)
    assert equal(take(dataset, transform, 1)[0], take(dataset, transform, 1, augment=nothing)[0])


def test_a_shift_moves_the_picture_and_repeats_its_edge() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 2, 9, 8, 3), dtype=np.uint8)
    shifted = Augment(shift_pixels=2, brightness=0.0, contrast=0.0)(images, np.random.default_rng(1))
    shifts = set()
    for before, after in zip(images.reshape(10, 9, 8, 3), shifted.reshape(10, 9, 8, 3), strict=True):
        found = [
            (dy, dx)
            for dy in range(-2, 3)
            for dx in range(-2, 3)
            if (before[np.clip(np.arange(9) + dy, 0, 8)][:, np.clip(np.arange(8) + dx, 0, 7)] == after).all()
        ]
        assert len(found) == 1
        shifts.add(found[0])
    assert len({dy for dy, _ in shifts}) > 2  # each picture its own
    assert len({dx for _, dx in shifts}) > 2


def test_brightness_scales_and_contrast_keeps_the_mean() -> None:
    images = np.full((400, 1, 4, 4, 3), 100, np.uint8)
    images[:, :, :2] = 60
    lit = Augment(0, brightness=0.3, contrast=0.0)(images, np.random.default_rng(0))
    gain = lit[:, 0, 3, 0, 0] / 100
    assert gain.min() > 0.695
    assert gain.max() < 1.305
    assert gain.std() > 0.15
    np.testing.assert_allclose(lit[:, 0, 0, 0, 0] / 60, gain, atol=0.02)
    flat = Augment(0, brightness=0.0, contrast=0.5)(images, np.random.default_rng(0))
    np.testing.assert_allclose(flat.mean((1, 2, 3, 4)), 80, atol=0.6)
    width = flat[:, 0, 3, 0, 0].astype(int) - flat[:, 0, 0, 0, 0]
    assert width.min() < 23
    assert width.max() > 57
    assert not np.shares_memory(flat, images)


@pytest.mark.parametrize("arguments", [{"shift_pixels": -1}, {"brightness": 1.0}, {"contrast": -0.1}])
def test_an_augmentation_that_cannot_be_is_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Augment(**arguments)


def test_wrong_arguments_are_refused(dataset: LeRobotDataset, transform: Transform) -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        Batches(dataset, transform, batch_size=0, seed=0)
    dataset.embodiment = type(dataset.embodiment)("other", *list(vars(dataset.embodiment).values())[1:])
    with pytest.raises(ValueError, match="another robot than the model: name: toy against other"):
        Batches(dataset, transform, batch_size=2, seed=0)


def threads() -> int:
    return sum(thread.name == "batches" for thread in threading.enumerate())


def test_closing_stops_the_thread(dataset: LeRobotDataset, transform: Transform) -> None:
    before = threads()
    batches = Batches(dataset, transform, batch_size=2, seed=0)
    next(batches)
    assert threads() == before + 1
    batches.close()
    batches.close()
    assert threads() == before
    with pytest.raises(ValueError, match="closed"):
        next(batches)


def test_abandoned_batches_stop_their_thread(dataset: LeRobotDataset, transform: Transform) -> None:
    before = threads()
    batches = Batches(dataset, transform, batch_size=2, seed=0)
    next(batches)
    del batches
    gc.collect()
    deadline = time.monotonic() + 5
    while threads() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threads() == before


def test_an_error_in_the_thread_reaches_the_training_loop(dataset, transform, root: Path) -> None:
    before = threads()
    dataset.state[:] = np.nan
    batches = Batches(dataset, transform, batch_size=2, seed=0)
    with pytest.raises(ValueError, match="is nan, must be finite"):
        next(batches)
    assert threads() == before


def test_pictures_preloaded_in_another_way_are_refused(dataset: LeRobotDataset, transform: Transform) -> None:
    dataset.preload((24, 24), "squash")
    with pytest.raises(ValueError, match="preloaded as 'squash', the model takes 'pad'"):
        Batches(dataset, transform, batch_size=2, seed=0)


def test_pictures_that_are_not_rounded_are_changed_as_the_rounded_ones() -> None:
    rounded = np.random.default_rng(0).integers(0, 256, (6, 2, 9, 8, 3), dtype=np.uint8)
    augment = Augment(shift_pixels=2, brightness=0.3, contrast=0.4)
    expected = augment(rounded, np.random.default_rng(1))
    changed = augment(rounded.astype(np.float32) / 255, np.random.default_rng(1))
    assert changed.dtype == np.float32
    np.testing.assert_allclose(changed * 255, expected, atol=0.51)
    assert changed.min() >= 0
    assert changed.max() <= 1
