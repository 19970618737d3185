import numpy as np
import pytest
import torch

from pizero.data.images import blank, check_resize, lanczos_taps, resize, resize_with_pad, to_model, to_model_tensor


def test_a_wide_picture_is_centred_between_black_bars() -> None:
    image = np.full((10, 40, 3), 200, np.uint8)
    padded = resize_with_pad(image, (20, 20))
    rows = (padded == 200).all((1, 2))
    assert rows.tolist() == [False] * 7 + [True] * 5 + [False] * 8
    assert padded[~rows].max() == 0


def test_a_picture_of_the_right_size_is_returned_as_it_is() -> None:
    image = np.zeros((6, 8, 3), np.uint8)
    assert resize_with_pad(image, (6, 8)) is image


def test_a_line_of_pixels_still_shows_after_resizing() -> None:
    padded = resize_with_pad(np.full((1, 500, 3), 255, np.uint8), (10, 10))
    assert (padded == 255).all((1, 2)).sum() == 1


def test_model_pictures_have_channels_first_and_openpis_values() -> None:
    image = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3) + 130
    image[0, 0, 0] = (0, 255, 51)
    values = to_model(image)
    assert values.dtype == torch.float32
    assert values.is_contiguous()
    expected = torch.from_numpy(image.astype(np.float32) / np.float32(255) * 2 - 1).permute(0, 3, 1, 2)
    assert torch.equal(values, expected)
    assert values[0, :2, 0, 0].tolist() == [-1, 1]
    assert abs(values[0, 2, 0, 0].item() + 0.6) < 1e-6


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_squashing_fills_the_square_and_loses_the_shape() -> None:
    halves = np.zeros((40, 80, 3), np.uint8)
    halves[:, 40:] = 200
    squashed = resize(halves, (20, 20), "squash")
    assert squashed.dtype == np.uint8
    assert (squashed[:, :6] == 0).all()
    assert (squashed[:, 14:] == 200).all()
    assert resize(halves, (40, 80), "squash") is halves


@pytest.mark.parametrize(("length", "resized"), [(31, 77), (640, 224), (5, 224), (224, 5)])
def test_a_lanczos_kernel_has_eight_taps_that_sum_to_one(length: int, resized: int) -> None:
    first, weights = lanczos_taps(length, resized)
    assert first.shape == (resized,)
    assert weights.shape == (resized, 8)
    assert -4 <= first.min() <= first.max() <= length - 4
    assert np.abs(weights.sum(1) - 2048).max() <= 4  # each rounded by itself, as OpenCV does


def test_lerobots_pictures_are_not_rounded_and_padded_with_black() -> None:
    image = picture(9, 20)
    resized = resize(image, (10, 10), "lerobot")
    assert resized.dtype == np.float32
    assert (resized[:3] == 0).all()  # of 6 rows of padding, 3 above; 4 rows of picture
    assert (resized[7:] == 0).all()
    assert resized[3:7].min() > 0
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255, (4, 10), mode="bilinear"
    )
    np.testing.assert_array_equal(resized[3:7], expected[0].permute(1, 2, 0))
    model = to_model(resized)
    assert torch.equal(model[:, 0], torch.full((3, 10), -1.0))
    np.testing.assert_array_equal(model.permute(1, 2, 0), resized * 2 - 1)


def test_of_an_odd_margin_lerobot_puts_the_larger_half_below() -> None:
    rows = (resize(np.full((3, 10, 3), 255, np.uint8), (10, 10), "lerobot") > 0).any((1, 2))
    assert rows.tolist() == [False] * 3 + [True] * 3 + [False] * 4


def test_a_picture_of_the_right_size_is_the_same_for_every_family() -> None:
    image = picture(12, 12)
    as_pad = to_model(resize(image, (12, 12), "pad"))
    for how in ("squash", "lerobot"):
        assert torch.equal(to_model(resize(image, (12, 12), how)), as_pad)
        assert (to_model(blank((2, 3, 3), how)) == -1).all()


def test_an_unknown_way_of_resizing_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"resize 'stretch' is unknown; choose one of \('pad', 'squash', 'lerobot'\)"):
        check_resize("stretch")


def test_torch_gives_the_bits_of_numpy() -> None:
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(2, 8, 16, 3)
    bytes_, parts = every[None].repeat(3, 0), np.random.default_rng(0).random((3, 2, 8, 16, 3), np.float32)
    for images in (bytes_, parts):
        values = to_model_tensor(torch.from_numpy(images))
        assert values.dtype == torch.float32
        assert values.is_contiguous()
        assert torch.equal(values, to_model(images))
    assert bytes_[0, 0, 0, 1, 0] == 1  # the pictures that came are unchanged
