from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pizero.train import rounding
from pizero.train.config import OptimConfig
from pizero.train.optimizer import make_optimizer
from pizero.train.rounding import round_stochastically, seed_rounding


@pytest.fixture(autouse=True)
def same_generator() -> Iterator[None]:
    before = torch.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(before)


def neighbours(values: Tensor) -> tuple[Tensor, Tensor]:
    """The bfloat16 towards zero, and the next one away from it."""
    down = (values.view(torch.int32) & -(2**16)).view(torch.float32)
    up = ((values.view(torch.int32) & -(2**16)) + 2**16).view(torch.float32)
    return down, up


def test_the_mean_of_many_roundings_is_the_value() -> None:
    """Each lies between two bfloat16 a gap apart; 20,000 draws have a mean within 5 standard errors of it."""
    values = torch.tensor([1.0 + 2**-9, 1.0 + 2**-7 - 2**-15, -3.1415927, 1e-30, 123456.78, -7e-5])
    draws = 20_000
    rounded = round_stochastically(values.repeat(draws, 1)).double()
    down, up = (bound.double() for bound in neighbours(values))
    assert ((rounded == down) | (rounded == up)).all()
    share = (values.double() - down) / (up - down)
    allowed = 5 * (share * (1 - share) / draws).sqrt() * (up - down).abs() + 1e-12 * values.abs()
    assert ((rounded.mean(0) - values.double()).abs() <= allowed).all()


def test_what_bfloat16_can_hold_does_not_change() -> None:
    values = torch.randn(10_000).bfloat16()
    values[:4] = torch.tensor([0.0, -0.0, torch.inf, -torch.inf])
    torch.testing.assert_close(round_stochastically(values.float()), values, rtol=0, atol=0)


def test_rounding_depends_on_seed_step_and_rank_alone() -> None:
    def rounded(seed: int, step: int, rank: int = 0) -> Tensor:
        torch.randn(seed + step)  # whatever was drawn before
        seed_rounding(seed, step, rank)
        return round_stochastically(torch.full((64,), 1.0 + 2**-9))

    assert torch.equal(rounded(3, 7), rounded(3, 7))
    others = [rounded(4, 7), rounded(3, 8), rounded(3, 7, rank=1)]
    assert not any(torch.equal(rounded(3, 7), other) for other in others)


CONFIG = OptimConfig(lr=1e-4, betas=(0.5, 0.9), eps=1e-8, weight_decay=0.1)
EIGHT_BIT = replace(CONFIG, kind="adamw8bit")


def steps(parameter: torch.nn.Parameter, count: int, stochastic: bool, config: OptimConfig = CONFIG) -> Tensor:
    optimizer = make_optimizer({"w": parameter}, config, stochastic_rounding=stochastic)
    for step in range(count):
        seed_rounding(0, step)
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    return parameter.detach().float()


def test_small_changes_add_up_where_rounding_to_the_nearest_loses_them() -> None:
    """A step of 1e-4 is far below half the gap between bfloat16 numbers under 1, 2^-9; 100 steps make 0.01."""
    start = torch.ones(4096)
    nearest = steps(torch.nn.Parameter(start.bfloat16()), 100, stochastic=False)
    rounded = steps(torch.nn.Parameter(start.bfloat16()), 100, stochastic=True)
    exact = steps(torch.nn.Parameter(start.clone()), 100, stochastic=False)
    assert (nearest == 1).all()
    assert exact.mean().item() == pytest.approx(0.99, abs=1e-5)
    assert rounded.mean().item() == pytest.approx(exact.mean().item(), abs=5e-4)  # 5 standard errors
    torch.compiler.set_stance("force_eager")  # torchao's step, which is compiled in real runs
    eight_bit = steps(torch.nn.Parameter(start.bfloat16()), 100, stochastic=True, config=EIGHT_BIT)
    torch.compiler.set_stance("default")
    assert eight_bit.mean().item() == pytest.approx(exact.mean().item(), abs=5e-4)


def test_it_is_adamw_in_float32_but_for_the_last_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against torch's AdamW on float32 copies, with weights in several pieces and others that are not rounded."""
    counts: list[int] = []

    def counted(values: Tensor) -> Tensor:
        counts.append(values.numel())
        return round_stochastically(values)

    monkeypatch.setattr(rounding, "PIECE", 100)
    monkeypatch.setattr(rounding, "round_stochastically", counted)
    shapes = {"a": (7, 11), "b": (5,), "c": (300,), "d": (40, 3), "e": ()}
    types = {"a": torch.bfloat16, "b": torch.float32, "c": torch.bfloat16, "d": torch.float32, "e": torch.bfloat16}
    rounded = {n: torch.nn.Parameter(torch.randn(shape).to(types[n])) for n, shape in shapes.items()}
    exact = {n: torch.nn.Parameter(p.detach().float()) for n, p in rounded.items()}
    mine, torchs = make_optimizer(rounded, CONFIG, stochastic_rounding=True), make_optimizer(exact, CONFIG)
    for step in range(5):
        for name, parameter in rounded.items():
            parameter.grad = torch.randn(shapes[name]).to(types[name])
            exact[name].grad = parameter.grad.float()
            exact[name].data.copy_(parameter.detach())  # so that rounding errors do not grow from step to step
        seed_rounding(1, step)
        mine.step()
        torchs.step()
        for name, parameter in rounded.items():
            if types[name] == torch.float32:
                torch.testing.assert_close(parameter, exact[name], rtol=1e-6, atol=0)
            else:
                down, up = neighbours(exact[name].detach())
                assert ((parameter == down) | (parameter == up)).all()
    for name in shapes:
        for key in ("exp_avg", "exp_avg_sq", "step"):
            found, expected = mine.state[rounded[name]][key], torchs.state[exact[name]][key]
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert counts[:5] == [77, 100, 100, 100, 1]  # a, a matrix; then c and e, which do not decay
