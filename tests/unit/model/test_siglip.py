"""The vision tower against the formulas written out in float64."""

import math
from dataclasses import replace

import pytest
import torch

from pizero.model.config import SiglipConfig
from pizero.model.siglip import Siglip, sincos_positions

CONFIG = SiglipConfig(width=32, depth=2, mlp_dim=40, num_heads=4, image_size=18, patch_size=6)


@pytest.fixture(scope="module")
def tower(randomise) -> Siglip:
    tower = Siglip(CONFIG)
    randomise(tower)
    return tower.requires_grad_(False)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(3, 3, 18, 18, generator=torch.Generator().manual_seed(1)) * 2 - 1


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = (x - mean).pow(2).mean(-1, keepdim=True)
    return (x - mean) / (variance + 1e-6).sqrt() * weight + bias


def written_out(tower: Siglip, image: torch.Tensor) -> torch.Tensor:
    """One picture (3, h, w) through the tower, in float64."""
    w = {key: value.double() for key, value in tower.state_dict().items()}
    patches = []
    for row in range(0, 18, 6):
        for column in range(0, 18, 6):
            patch = image[:, row : row + 6, column : column + 6].double()
            patches.append(w["patch_embedding.weight"].flatten(1) @ patch.flatten() + w["patch_embedding.bias"])
    x = torch.stack(patches) + w["position_embedding.weight"]
    for layer in (f"layers.{i}." for i in range(CONFIG.depth)):
        y = layer_norm(x, w[layer + "layer_norm1.weight"], w[layer + "layer_norm1.bias"])
        q, k, v = (y @ w[f"{layer}{n}_proj.weight"].T + w[f"{layer}{n}_proj.bias"] for n in "qkv")
        heads = []
        for h in range(4):
            part = slice(8 * h, 8 * h + 8)
            weights = torch.softmax(q[:, part] @ k[:, part].T / math.sqrt(8), dim=-1)
            heads.append(weights @ v[:, part])
        x = x + torch.cat(heads, dim=1) @ w[layer + "out_proj.weight"].T + w[layer + "out_proj.bias"]
        y = layer_norm(x, w[layer + "layer_norm2.weight"], w[layer + "layer_norm2.bias"])
        y = y @ w[layer + "fc1.weight"].T + w[layer + "fc1.bias"]
        y = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        x = x + y @ w[layer + "fc2.weight"].T + w[layer + "fc2.bias"]
    return layer_norm(x, w["post_layernorm.weight"], w["post_layernorm.bias"])


def test_tower_equals_the_formulas_written_out(tower, images):
    expected = torch.stack([written_out(tower, image) for image in images])
    torch.testing.assert_close(tower(images).double(), expected, atol=1e-5, rtol=1e-5)


def test_convolutions_in_front_equal_the_formulas_written_out(randomise):
    config = replace(CONFIG, image_size=16, patch_size=4, stem="convolutions")
    stem = Siglip(config).requires_grad_(False).patch_embedding
    randomise(stem)
    w = {key: value.double() for key, value in stem.state_dict().items()}
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    y = x[0].double()
    for i, channels in enumerate((16, 32)):
        kernel, bias = w[f"{i}.convolution.weight"], w[f"{i}.convolution.bias"]
        padded = torch.zeros(y.shape[0], y.shape[1] + 2, y.shape[2] + 2, dtype=torch.float64)
        padded[:, 1:-1, 1:-1] = y
        side = y.shape[1] // 2
        y = torch.zeros(channels, side, side, dtype=torch.float64)
        for row in range(side):
            for column in range(side):
                window = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
                y[:, row, column] = kernel.flatten(1) @ window.flatten() + bias
        y = (y - y.mean()) / (y.var(unbiased=False) + 1e-6).sqrt()  # over the whole picture
        y = y * w[f"{i}.norm.weight"][:, None, None] + w[f"{i}.norm.bias"][:, None, None]
        y = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
    y = torch.einsum("ec,chw->ehw", w["2.weight"][:, :, 0, 0], y) + w["2.bias"][:, None, None]
    torch.testing.assert_close(stem(x)[0].double(), y, atol=1e-5, rtol=1e-5)


def test_with_convolutions_patches_are_in_their_order_and_pictures_apart(randomise):
    tower = Siglip(replace(CONFIG, image_size=16, patch_size=4, depth=0, stem="convolutions")).requires_grad_(False)
    randomise(tower)
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1
    torch.testing.assert_close(tower(images)[1:2], tower(images[1:2]), atol=1e-6, rtol=1e-6)
    changed = images.clone()
    changed[0, :, 4:6, 12:14] *= -1  # second row, last column
    differences = (tower(changed) - tower(images)).abs().sum(-1)
    assert differences[0].argmax() == 4 + 3
    assert not differences[1:].any()


def test_a_picture_does_not_depend_on_the_others_in_the_batch(tower, images):
    torch.testing.assert_close(tower(images)[1:2], tower(images[1:2]), atol=1e-6, rtol=1e-6)


def test_no_pictures_give_no_tokens(tower):
    assert tower(torch.zeros(0, 3, 18, 18)).shape == (0, 9, 32)


@pytest.mark.parametrize("shape", [(18, 19), (9, 36), (24, 24)])
def test_pictures_of_another_size_are_not_taken(tower, shape):
    with pytest.raises(AssertionError, match="the model takes"):
        tower(torch.zeros(1, 3, *shape))


def test_the_released_size_has_256_patches():
    assert SiglipConfig().num_patches == 256


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 225},
        {"num_heads": 7},
        {"patch_size": 14, "stem": "convolutions"},
        {"width": 1156, "num_heads": 17, "patch_size": 16, "stem": "convolutions"},
    ],
)
def test_sizes_that_do_not_divide_are_refused_with_both_numbers(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        SiglipConfig(**wrong)


def test_fresh_positions_are_big_visions_sines_and_cosines_of_column_and_row() -> None:
    embedding = sincos_positions(5, 10)
    place = embedding[1 * 5 + 3]  # second row, fourth column
    expected = [math.sin(3), math.sin(3e-4), math.cos(3), math.cos(3e-4)]
    expected += [math.sin(1), math.sin(1e-4), math.cos(1), math.cos(1e-4), 0, 0]
    torch.testing.assert_close(place, torch.tensor(expected), atol=1e-6, rtol=0)
    distance = torch.cdist(embedding, embedding) + torch.eye(25)
    assert distance.min() > 0.2  # no two places look alike
