"""The norms against their formulas, written out number by number in float64."""

import math

import pytest
import torch
from torch import Tensor

from pizero.model.config import TimeConditioning
from pizero.model.norm import CLOSED_GATE, AdaLayerNorm, AdaRMSNorm, RMSNorm, add, norm_maker

WIDTH, CONDITION = 5, 4


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(weight: Tensor, bias: Tensor | None, x: Tensor) -> list[float]:
    """weight @ x + bias as sums of products."""
    rows = [sum(w * v for w, v in zip(row, x.tolist(), strict=True)) for row in weight.tolist()]
    return [y + (0.0 if bias is None else bias.tolist()[i]) for i, y in enumerate(rows)]


def normalized(x: Tensor) -> list[float]:
    """One token over the root of its mean square."""
    values = [float(v) for v in x]
    root = math.sqrt(sum(v * v for v in values) / len(values) + 1e-6)
    return [v / root for v in values]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_rms_norm_scales_by_one_plus_weight(randomise):
    norm = RMSNorm(32)
    x = 3 * normal(2, 5, 32)
    rms = x.double().square().mean(-1, keepdim=True).add(1e-6).sqrt()
    torch.testing.assert_close(norm(x)[0].double(), x / rms, atol=1e-6, rtol=1e-6)  # fresh weights are zero
    randomise(norm)
    torch.testing.assert_close(norm(x)[0].double(), x / rms * (1 + norm.weight.double()), atol=1e-6, rtol=1e-6)


def test_rms_norm_of_bfloat16_is_rounded_once_at_the_end(randomise):
    norm = RMSNorm(32)
    randomise(norm)
    x = normal(2, 5, 32).bfloat16()
    y, gate = norm(x)
    assert gate is None
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, norm(x.float())[0].bfloat16())


def test_the_rms_norm_of_pi05_has_scale_shift_and_gate_in_this_order_and_no_weight(randomise):
    norm = AdaRMSNorm(WIDTH, CONDITION)
    randomise(norm)
    assert set(norm.state_dict()) == {"dense.weight", "dense.bias"}
    x, condition = 3 * normal(2, 3, WIDTH), normal(2, CONDITION, seed=1)
    y, gate = norm(x, condition)
    assert gate.shape == (2, 1, WIDTH)
    for b in range(2):
        made = linear(norm.dense.weight, norm.dense.bias, condition[b])
        scale, shift, its_gate = made[:WIDTH], made[WIDTH : 2 * WIDTH], made[2 * WIDTH :]
        assert gate[b, 0].tolist() == pytest.approx(its_gate, abs=1e-6)
        for q in range(3):
            unit = normalized(x[b, q])
            expected = [unit[d] * (1 + scale[d]) + shift[d] for d in range(WIDTH)]
            assert y[b, q].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("gated", [False, True])
def test_adaln_scales_by_a_sigmoid_and_has_a_gate_only_where_asked(gated, randomise):
    norm = AdaLayerNorm(WIDTH, CONDITION, gated)
    randomise(norm)
    x, condition = 3 * normal(2, 3, WIDTH), normal(2, CONDITION, seed=1)
    y, gate = norm(x, condition)
    assert (gate is not None) == gated
    assert norm.to_beta.bias is None
    for b in range(2):
        gamma = linear(norm.to_gamma.weight, norm.to_gamma.bias, condition[b])
        beta = linear(norm.to_beta.weight, None, condition[b])
        for q in range(3):
            unit = normalized(x[b, q])
            expected = [unit[d] * sigmoid(gamma[d]) + beta[d] for d in range(WIDTH)]
            assert y[b, q].tolist() == pytest.approx(expected, abs=1e-5)
        if gated:
            expected = [sigmoid(g) for g in linear(norm.to_gate.weight, norm.to_gate.bias, condition[b])]
            assert gate[b, 0].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("norm", [AdaRMSNorm(WIDTH, CONDITION), AdaLayerNorm(WIDTH, CONDITION, True)])
def test_adaptive_norms_keep_bfloat16(norm):
    y, gate = norm.bfloat16()(normal(2, 3, WIDTH).bfloat16(), normal(2, CONDITION).bfloat16())
    assert y.dtype == gate.dtype == torch.bfloat16


def test_the_rms_norm_of_pi05_is_computed_in_float32_and_rounded_once(randomise):
    norm = AdaRMSNorm(64, CONDITION)
    randomise(norm)
    norm.bfloat16()
    x, condition = normal(2, 3, 64).bfloat16(), normal(2, CONDITION).bfloat16()
    scale, shift, _ = norm.dense(condition)[:, None].double().chunk(3, dim=-1)
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + scale) + shift
    near = (norm(x, condition)[0] == exact.bfloat16()).double().mean()
    assert near > 0.99  # a value between two bfloat16 may go either way


def test_fresh_adaptive_norms_do_not_depend_on_the_condition(randomise):
    x, condition = 3 * normal(2, 3, WIDTH), normal(2, CONDITION, seed=1)
    unit = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    rms, layer = AdaRMSNorm(WIDTH, CONDITION), AdaLayerNorm(WIDTH, CONDITION, True)
    for norm in (rms, layer):
        randomise(norm)
        norm.init_weights()
        if norm is layer:
            torch.nn.init.zeros_(norm.to_beta.weight)
    torch.testing.assert_close(rms(x, condition)[0], unit, atol=1e-5, rtol=1e-5)
    assert not rms(x, condition)[1].any()  # closed
    torch.testing.assert_close(layer(x, condition)[0], unit / 2, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer(x, condition)[1], torch.full((2, 1, WIDTH), sigmoid(CLOSED_GATE)))


@pytest.mark.parametrize(
    ("conditioning", "kind", "gates"),
    [
        ("input", RMSNorm, (False, False)),
        ("adarms", AdaRMSNorm, (True, True)),
        ("adaln", AdaLayerNorm, (False, False)),
        ("adaln-zero", AdaLayerNorm, (True, False)),
    ],
)
def test_each_conditioning_has_its_norms_before_sublayers_and_last(conditioning: TimeConditioning, kind, gates):
    make = norm_maker(WIDTH, conditioning, CONDITION)
    x, condition = normal(2, 3, WIDTH), None if kind is RMSNorm else normal(2, CONDITION)
    for inner, gated in zip((True, False), gates, strict=True):
        norm = make(inner)
        assert type(norm) is kind
        assert (norm(x, condition)[1] is not None) == gated


def test_a_gate_weighs_what_is_added_and_not_what_it_is_added_to():
    x, y, gate = normal(2, 3, WIDTH), normal(2, 3, WIDTH, seed=1), normal(2, 1, WIDTH, seed=2)
    assert torch.equal(add(x, y, None), x + y)
    expected = [
        [[float(x[b, q, d] + y[b, q, d] * gate[b, 0, d]) for d in range(WIDTH)] for q in range(3)] for b in range(2)
    ]
    torch.testing.assert_close(add(x, y, gate), torch.tensor(expected))
