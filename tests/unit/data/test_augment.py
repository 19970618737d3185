from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pizero.data.augment import Augmentation, Changes, apply_changes
from pizero.data.images import to_model, to_model_tensor


def pictures(n: int = 2, v: int = 3, height: int = 24, width: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, v, height, width, 3), dtype=np.uint8)


def smooth(side: int = 24) -> np.ndarray:
    """A picture whose values change little from pixel to pixel, (1, 1, side, side, 3)."""
    y, x = np.mgrid[:side, :side] / side
    waves = [np.sin(4 * x + 2 * y), np.cos(3 * y - x), np.sin(5 * x * y)]
    return (127 + 100 * np.stack(waves, -1)).astype(np.uint8)[None, None]


def nothing(n: int = 2, v: int = 3) -> Changes:
    crop = np.broadcast_to(np.array([0.0, 0.0, 1.0]), (n, v, 3))
    return Changes(crop, np.zeros((n, v)), np.zeros((n, v, 2)), *(np.ones((n, v)) for _ in range(3)))


def shown(images: np.ndarray, changes: Changes) -> np.ndarray:
    """Changed pictures in the values that came in, 0 to 255, (b v h w 3)."""
    values = apply_changes(torch.from_numpy(images), changes)
    return ((values.double() + 1) * 127.5).movedim(-3, -1).numpy()


def shift_edges(image: np.ndarray, down: int, right: int) -> np.ndarray:
    height, width = image.shape[:2]
    rows, columns = np.clip(np.arange(height) + down, 0, height - 1), np.clip(np.arange(width) + right, 0, width - 1)
    return image[rows][:, columns]


@pytest.mark.parametrize("height", [24, 17])
def test_changes_that_do_nothing_give_the_picture_bit_for_bit(height: int) -> None:
    images, still = torch.from_numpy(pictures(height=height)), nothing()
    plain = to_model_tensor(images)
    assert torch.equal(apply_changes(images, still), plain)
    shift = np.zeros((2, 3, 2))
    shift[0, 0] = 1  # so that the others are sampled too, at their own places
    assert torch.equal(apply_changes(images, replace(still, shift=shift)).flatten(0, 1)[1:], plain.flatten(0, 1)[1:])
    color = np.ones((2, 3))
    color[0, 0] = 0.5
    lit = apply_changes(images, replace(still, contrast=color, saturation=color))
    assert torch.equal(lit.flatten(0, 1)[1:], plain.flatten(0, 1)[1:])


@pytest.mark.parametrize(("height", "width"), [(24, 24), (9, 13), (32, 32)])
def test_a_shift_by_whole_pixels_is_exact_and_repeats_the_edge(height: int, width: int) -> None:
    images = pictures(height=height, width=width)
    shift = np.random.default_rng(1).integers(-4, 5, (2, 3, 2)).astype(float)
    shift[0, 0], shift[1, 2] = (3, -4), (-2, 1)
    moved = apply_changes(torch.from_numpy(images), replace(nothing(), shift=shift))
    for b, v in np.ndindex(2, 3):
        expected = to_model(shift_edges(images[b, v], *shift[b, v].astype(int)))
        assert torch.equal(moved[b, v], expected)


@pytest.mark.parametrize("quarters", [1, 2, 3, -1])
def test_quarter_turns_are_exact_and_clockwise(quarters: int) -> None:
    images = pictures()
    turned = shown(images, replace(nothing(), rotate_deg=np.full((2, 3), 90.0 * quarters)))
    np.testing.assert_allclose(turned, np.rot90(images, -quarters, (2, 3)), atol=2e-4)


def test_a_small_rotation_is_that_of_pillow() -> None:
    image = smooth(40)
    turned = shown(image, replace(nothing(1, 1), rotate_deg=np.full((1, 1), 7.0)))[0, 0]
    expected = np.asarray(Image.fromarray(image[0, 0]).rotate(-7, resample=Image.Resampling.BILINEAR))
    inside = slice(6, -6)  # Pillow fills with black what comes from outside
    assert np.abs(turned[inside, inside] - expected[inside, inside]).max() <= 1.5
    assert turned.min() > 20


def test_a_crop_is_that_of_pillow_scaled_back() -> None:
    image = smooth(40)
    crop = np.array([[[4.5 / 40, 10 / 40, 25 / 40]]])
    cropped = shown(image, replace(nothing(1, 1), crop=crop))[0, 0]
    box = (10, 4.5, 35, 29.5)
    expected = Image.fromarray(image[0, 0]).resize((40, 40), Image.Resampling.BILINEAR, box=box)
    inside = slice(2, -2)  # Pillow does not look beyond the box
    assert np.abs(cropped[inside, inside] - np.asarray(expected)[inside, inside]).max() <= 1
    assert np.abs(cropped - np.asarray(expected)).max() <= 6


def test_the_order_is_crop_rotate_shift() -> None:
    image = smooth(40)
    crop, shift = np.array([[[0.0, 0.25, 0.5]]]), np.array([[[3.0, -5.0]]])
    changed = shown(image, replace(nothing(1, 1), crop=crop, rotate_deg=np.full((1, 1), 90.0), shift=shift))[0, 0]
    cropped = Image.fromarray(image[0, 0]).resize((40, 40), Image.Resampling.BILINEAR, box=(10, 0, 30, 20))
    expected = shift_edges(np.rot90(np.asarray(cropped), -1), 3, -5)
    inside = slice(8, -8)  # beyond, the rest of the picture comes in, which was cropped away
    assert np.abs(changed[inside, inside] - expected[inside, inside]).max() <= 1


def test_colours_are_openpis() -> None:
    images, factors = pictures(), np.random.default_rng(0).uniform(0.6, 1.4, (3, 2, 3))
    lit = shown(images, replace(nothing(), **dict(zip(("brightness", "contrast", "saturation"), factors, strict=True))))
    brightness, contrast, saturation = factors[:, :, :, None, None, None]
    x = images.astype(np.float64) * brightness
    mean = x.mean((2, 3, 4), keepdims=True)
    x = (x - mean) * contrast + mean
    grey = x.mean(-1, keepdims=True)
    x = grey + (x - grey) * saturation
    np.testing.assert_allclose(lit, np.clip(x, 0, 255), atol=1e-3)
    assert (np.clip(x, 0, 255) != x).any()


def test_brightness_alone_is_exact() -> None:
    images = pictures()
    lit = apply_changes(torch.from_numpy(images), replace(nothing(), brightness=np.full((2, 3), 0.5)))
    assert torch.equal(lit, torch.from_numpy(images).movedim(-1, -3) * 0.5 / torch.tensor(127.5) - 1)


def test_pictures_that_are_not_rounded_are_changed_as_the_rounded_ones() -> None:
    images = pictures()
    changes = Augmentation(0, np.ones((1, 3), bool), 0.9, 8.0, 2, 0.3, 0.4, 0.5).draw(
        3, np.arange(2), np.zeros(2, np.int64)
    )
    whole = apply_changes(torch.from_numpy(images), changes)
    parts = apply_changes(torch.from_numpy(images.astype(np.float32) / np.float32(255)), changes)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)
    assert whole.min() >= -1
    assert whole.max() <= 1
    assert whole.is_contiguous()


def fields(changes: Changes) -> np.ndarray:
    parts = [changes.crop, changes.rotate_deg[..., None], changes.shift, changes.brightness[..., None]]
    return np.concatenate([*parts, changes.contrast[..., None], changes.saturation[..., None]], -1)


def test_changes_depend_on_seed_step_and_row_alone() -> None:
    augment = Augmentation(5, np.ones((1, 2), bool), 0.8, 5.0, 4, 0.1, 0.2, 0.3)
    source = np.zeros(8, np.int64)
    whole = fields(augment.draw(7, np.arange(8), source))
    for rows in (np.arange(3), np.array([2, 5]), np.arange(4, 8), np.array([7])):
        np.testing.assert_array_equal(fields(augment.draw(7, rows, source[rows])), whole[rows])
    assert len(np.unique(whole.reshape(16, -1), axis=0)) == 16  # each sample and view its own
    assert (fields(augment.draw(8, np.arange(8), source)) != whole).any()
    assert (fields(replace(augment, seed=6).draw(7, np.arange(8), source)) != whole).any()


def test_changes_fill_their_ranges() -> None:
    augment = Augmentation(0, np.ones((1, 2), bool), 0.8, 5.0, 2, 0.1, 0.2, 0.3)
    changes = augment.draw(0, np.arange(2000), np.zeros(2000, np.int64))
    assert (changes.crop[..., 2] == 0.8).all()
    for values, low, high in (
        (changes.crop[..., :2], 0.0, 0.2),
        (changes.rotate_deg, -5.0, 5.0),
        (changes.brightness, 0.9, 1.1),
        (changes.contrast, 0.8, 1.2),
        (changes.saturation, 0.7, 1.3),
    ):
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high >= values.max() > high - 0.01 * (high - low)
        assert abs(values.mean() - (low + high) / 2) < 0.02 * (high - low)
    for axis in (0, 1):
        assert set(changes.shift[..., axis].ravel()) == {-2, -1, 0, 1, 2}
        assert np.bincount(changes.shift[..., axis].ravel().astype(int) + 2).min() > 700


def test_still_views_change_their_colours_only() -> None:
    augment = Augmentation(0, np.array([[True, False], [False, True]]), 0.8, 5.0, 4, 0.1, 0.2, 0.3)
    changes = augment.draw(0, np.arange(50), np.repeat([0, 1], 25))
    still = np.zeros((50, 2), bool)
    still[:25, 1] = still[25:, 0] = True
    assert (changes.crop[still] == (0, 0, 1)).all()
    assert not changes.rotate_deg[still].any()
    assert not changes.shift[still].any()
    assert changes.rotate_deg[~still].all()
    assert (changes.crop[~still][:, 2] == 0.8).all()
    assert (changes.brightness != 1).all()


@pytest.mark.parametrize(
    "wrong",
    [{"crop": 0.0}, {"crop": 1.1}, {"rotate_deg": -1.0}, {"shift_pixels": -1}, {"brightness": 1.0}, {"contrast": -0.1}],
)
def test_an_augmentation_that_cannot_be_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Augmentation(0, np.ones((1, 1), bool), **wrong)
