import numpy as np
import torch

from pizero.data.images import resize_with_pad, to_model


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
