import pytest
import torch

from pizero.train.ema import Ema


def test_the_average_by_hand() -> None:
    """Decays 1/10, 2/11, then the limit 0.2."""
    ema = Ema({"w": torch.tensor([1.0])}, decay=0.2)
    ema.update({"w": torch.tensor([2.0])}, 0)
    assert ema.average["w"].item() == pytest.approx(0.1 * 1 + 0.9 * 2)
    ema.update({"w": torch.tensor([4.0])}, 1)
    assert ema.average["w"].item() == pytest.approx(2 / 11 * 1.9 + 9 / 11 * 4)
    ema.update({"w": torch.tensor([0.0])}, 2)
    assert ema.average["w"].item() == pytest.approx(0.2 * (2 / 11 * 1.9 + 9 / 11 * 4))


def test_the_average_is_a_copy_in_float32_and_equals_a_float64_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(50, generator=generator)
    ema, reference = Ema({"w": weight}, decay=0.99), weight.double()
    for n in range(300):
        weight += 0.1 * torch.randn(50, generator=generator)
        ema.update({"w": weight}, n)
        decay = min(0.99, (1 + n) / (10 + n))
        reference = decay * reference + (1 - decay) * weight.double()
    assert ema.average["w"].dtype == torch.float32
    torch.testing.assert_close(ema.average["w"].double(), reference, atol=1e-6, rtol=1e-6)
