import pytest
import torch
from torchao.optim.quant_utils import create_dynamic_map

from pizero.train import blockwise
from pizero.train.blockwise import BLOCK, to_codes, to_values

SIGNED, UNSIGNED = (torch.tensor(create_dynamic_map(signed)) for signed in (True, False))


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockwise, "PIECE", 2 * BLOCK)


@pytest.mark.parametrize("count", [1, BLOCK, 3 * BLOCK - 17, 20 * BLOCK])
def test_codes_come_back_from_their_values(count: int) -> None:
    """Also where the largest of a block is negative, which the map's lowest number, -0.993, would shrink."""
    generator = torch.Generator().manual_seed(count)
    values = torch.randn(count, generator=generator) * 10 ** (6 * torch.rand(count, generator=generator) - 12)
    for qmap, given in ((SIGNED, values), (SIGNED, -values.abs()), (UNSIGNED, values.square())):
        codes, scale = to_codes(given, qmap)
        again, scale_again = to_codes(to_values(codes, scale, qmap), qmap)
        assert torch.equal(codes, again)
        assert torch.equal(scale, scale_again)


def test_values_are_near_what_they_were() -> None:
    """Within half the map's widest gap, 0.9 / 64, of the largest of their block; near -1, which it lacks, a whole."""
    values = torch.randn(64, BLOCK, generator=torch.Generator().manual_seed(0))
    codes, scale = to_codes(values, SIGNED)
    error = (to_values(codes, scale, SIGNED) - values).abs()
    assert codes.shape == values.shape
    largest = values.abs().amax(1, keepdim=True)
    assert (error <= torch.where(values < -0.985 * largest, 0.0142, 0.0071) * largest).all()
    assert error.mean() > 0  # eight bits are not exact


def test_each_block_has_its_own_scale() -> None:
    values = torch.cat([torch.full((BLOCK,), 1e-6), torch.full((BLOCK,), 1.0), torch.full((3,), -2.0)])
    codes, scale = to_codes(values, SIGNED)
    torch.testing.assert_close(scale, torch.tensor([1e-6, 1.0, 2.0]))
    torch.testing.assert_close(to_values(codes, scale, SIGNED), values)


def test_zeros_stay_zero_and_scales_have_a_lower_bound() -> None:
    zeros = torch.zeros(300)
    codes, scale = to_codes(zeros, SIGNED)
    assert not scale.any()
    assert not to_values(codes, scale, SIGNED).any()
    tiny = torch.full((300,), 1e-14)
    codes, scale = to_codes(tiny, UNSIGNED, smallest=1e-12)
    assert (scale == 1e-12).all()
    again, scale_again = to_codes(to_values(codes, scale, UNSIGNED), UNSIGNED, smallest=1e-12)
    assert torch.equal(codes, again)
    assert torch.equal(scale, scale_again)
