from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

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


def test_weights_of_other_types_are_averaged_in_float32() -> None:
    """Steps of 1e-3 of a bfloat16 average near 1 would be lost."""
    weights = {"a": torch.ones(3, dtype=torch.bfloat16), "b": torch.ones(2)}
    ema = Ema(weights, decay=0.999)
    weights = {"a": torch.full((3,), 2.0, dtype=torch.bfloat16), "b": torch.full((2,), 2.0)}
    for n in range(10_000, 10_100):
        ema.update(weights, n)
    for average in ema.average.values():
        torch.testing.assert_close(average, torch.full_like(average, 2 - 0.999**100), rtol=1e-6, atol=0)
        assert average.dtype == torch.float32


def test_the_average_of_shared_weights_is_shared(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    first, second = torch.randn(4, 3), torch.randn(4, 3)
    plain = Ema({"w": first}, decay=0.5)
    plain.update({"w": second}, 50)
    shared = Ema({"w": distribute_tensor(first, mesh, [Shard(0)])}, decay=0.5)
    shared.update({"w": distribute_tensor(second, mesh, [Shard(0)])}, 50)
    average = shared.average["w"]
    assert isinstance(average, DTensor)
    assert average.placements == (Shard(0),)
    assert torch.equal(average.full_tensor(), plain.average["w"])
    dist.destroy_process_group()
