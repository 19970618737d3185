"""State, action and time embedding against their formulas."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pizero.model.config import geometric_periods
from pizero.model.heads import Heads, time_embedding


@pytest.fixture(scope="module")
def heads(tiny_config, randomise) -> Heads:
    heads = Heads(tiny_config)
    randomise(heads)
    return heads.requires_grad_(False)


def test_time_embedding_is_sines_then_cosines_of_periods_from_short_to_long():
    times, width = [0.0, 0.3, 0.999], 10
    expected = []
    for t in times:
        angles = [2 * math.pi * t / (0.1 * (4.0 / 0.1) ** (i / 4)) for i in range(5)]
        expected.append([math.sin(x) for x in angles] + [math.cos(x) for x in angles])
    torch.testing.assert_close(
        time_embedding(torch.tensor(times), width, 0.1, 4.0), torch.tensor(expected), atol=1e-5, rtol=0
    )


def test_time_embedding_of_the_released_periods_is_good_to_three_digits_and_more():
    """The shortest period, 0.004, makes angles of up to 1571, which float32 knows to 1e-4."""
    t = torch.tensor([0.1, 0.7, 0.999])
    period = 4e-3 * 1e3 ** (torch.arange(512, dtype=torch.float64) / 511)
    angle = 2 * math.pi * t.double()[:, None] / period
    expected = torch.cat([angle.sin(), angle.cos()], dim=1)
    torch.testing.assert_close(time_embedding(t, 1024, 4e-3, 4.0).double(), expected, atol=5e-4, rtol=0)


@pytest.mark.parametrize("base", [100.0, 10_000.0])
def test_geometric_periods_make_the_embedding_of_open_pi_zero(base):
    """sin and cos of t base^(-i / (half - 1)) (open-pi-zero, src/model/vla/modules.py, SinusoidalPosEmb)."""
    times, half = [0.0, 0.3, 1.0], 6
    embedded = time_embedding(torch.tensor(times), 2 * half, *geometric_periods(base))
    for t, row in zip(times, embedded.tolist(), strict=True):
        angles = [t * math.exp(-math.log(base) / (half - 1) * i) for i in range(half)]
        assert row == pytest.approx([math.sin(x) for x in angles] + [math.cos(x) for x in angles], abs=1e-6)


@pytest.mark.parametrize("width", [24, 1024])
def test_the_time_rounded_as_in_jax_is_its_float32_embedding_of_one_minus_t_turned_round(width):
    """openpi, src/openpi/models/pi0.py, posemb_sincos, operation by operation; its time runs the other way.

    The power is torch's, since its last bit, which moves the fastest sine by 2e-4, is another in every library.
    """
    theirs = np.array([1.0, 0.9, 0.3, 0.05, 0.0], np.float32)
    power = (torch.tensor(1e3) ** torch.linspace(0, 1, width // 2)).numpy()
    np.testing.assert_allclose(power, np.float32(1e3) ** np.linspace(0, 1, width // 2, dtype=np.float32), rtol=5e-7)
    period = np.float32(4e-3) * power
    angle = theirs[:, None] * (np.float32(1) / period * np.float32(2 * math.pi))
    assert angle.dtype == np.float32
    t = torch.from_numpy(1 - theirs.astype(np.float64))
    ours = time_embedding(t, width, 4e-3, 4.0, "openpi-jax").double().numpy()
    whole = 2 * math.pi / (4e-3 * 1e3 ** (np.arange(width // 2) / (width // 2 - 1)))  # sin and cos of whole - angle
    sine, cosine = np.split(ours, 2, axis=1)
    turned = np.concatenate(
        [np.sin(whole) * cosine - np.cos(whole) * sine, np.cos(whole) * cosine + np.sin(whole) * sine], axis=1
    )
    np.testing.assert_allclose(turned, np.concatenate([np.sin(angle), np.cos(angle)], axis=1), rtol=0, atol=1e-6)
    exact = time_embedding(t, width, 4e-3, 4.0).double().numpy()
    assert np.abs(exact - ours).max() > 1e-5


def test_the_rounding_of_the_time_is_that_of_the_config(tiny_config):
    t = torch.tensor([0.1, 0.7], dtype=torch.float64)
    exact, rounded = (Heads(replace(tiny_config, time_rounding=how)).embed_time(t) for how in ("none", "openpi-jax"))
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, atol=1e-3, rtol=0)


def test_the_condition_of_pi05_is_the_mlp_of_the_time_and_actions_enter_by_one_layer(tiny_config, randomise):
    heads = Heads(replace(tiny_config, state_token=False, time_conditioning="adarms"))
    randomise(heads)
    w = {key: value.double() for key, value in heads.state_dict().items()}
    names = ("action_in_proj", "time_mlp_in", "time_mlp_out", "action_out_proj")
    assert set(w) == {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}
    t = torch.tensor([0.1, 0.8])
    time = time_embedding(t, 24, 4e-3, 4.0).double()
    x_t = torch.randn(2, 3, tiny_config.action_dim, generator=torch.Generator().manual_seed(1))
    for row in range(2):
        h = w["time_mlp_in.weight"] @ time[row] + w["time_mlp_in.bias"]
        h = w["time_mlp_out.weight"] @ (h / (1 + torch.exp(-h))) + w["time_mlp_out.bias"]
        torch.testing.assert_close(heads.condition(t)[row].double(), h / (1 + torch.exp(-h)), atol=1e-5, rtol=1e-5)
    expected = torch.einsum("wa,bta->btw", w["action_in_proj.weight"], x_t.double()) + w["action_in_proj.bias"]
    for times in (t, t + 0.1):
        torch.testing.assert_close(heads.embed_actions(x_t, times).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("conditioning", ["adaln", "adaln-zero"])
def test_the_condition_of_adaln_is_the_time_and_actions_enter_by_an_mlp_without_it(
    tiny_config, randomise, conditioning
):
    config = replace(tiny_config, time_conditioning=conditioning, time_dim=10)
    heads = Heads(config)
    randomise(heads)
    w = {key: value.double() for key, value in heads.state_dict().items()}
    t = torch.tensor([0.1, 0.8])
    assert torch.equal(heads.condition(t), time_embedding(t, 10, config.time_min_period, config.time_max_period))
    x_t = torch.randn(2, 3, tiny_config.action_dim, generator=torch.Generator().manual_seed(1))
    h = torch.einsum("wa,bta->btw", w["action_in_proj.weight"], x_t.double()) + w["action_in_proj.bias"]
    h = torch.einsum("wd,btd->btw", w["action_mlp_in.weight"], h) + w["action_mlp_in.bias"]
    h = h / (1 + torch.exp(-h))
    expected = torch.einsum("wd,btd->btw", w["action_mlp_out.weight"], h) + w["action_mlp_out.bias"]
    for times in (t, t + 0.1):
        torch.testing.assert_close(heads.embed_actions(x_t, times).double(), expected, atol=1e-5, rtol=1e-5)


def test_with_the_time_among_the_inputs_there_is_no_condition(heads):
    assert heads.condition(torch.tensor([0.5])) is None


def test_heads_compute_in_their_own_type_whatever_comes(heads, tiny_config):
    tokens = torch.randn(2, 3, tiny_config.action.width, generator=torch.Generator().manual_seed(3)).bfloat16()
    expected = F.linear(tokens.float(), heads.action_out_proj.weight, heads.action_out_proj.bias)
    assert torch.equal(heads.velocity(tokens), expected)
    state = torch.randn(2, tiny_config.state_dim).bfloat16()
    assert heads.embed_state(state).dtype == torch.float32
    assert heads.embed_actions(tokens[..., : tiny_config.action_dim], torch.tensor([0.1, 0.8])).dtype == torch.float32


def test_action_tokens_are_the_mlp_of_actions_then_time(heads, tiny_config):
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randn(2, 3, tiny_config.action_dim, generator=generator)
    t = torch.tensor([0.1, 0.8])
    w = {key: value.double() for key, value in heads.state_dict().items()}
    width = tiny_config.action.width
    time = time_embedding(t, width, tiny_config.time_min_period, tiny_config.time_max_period).double()
    for row in range(2):
        for step in range(3):
            h = w["action_in_proj.weight"] @ x_t[row, step].double() + w["action_in_proj.bias"]
            h = w["action_time_mlp_in.weight"] @ torch.cat([h, time[row]]) + w["action_time_mlp_in.bias"]
            h = w["action_time_mlp_out.weight"] @ (h / (1 + torch.exp(-h))) + w["action_time_mlp_out.bias"]
            actual = heads.embed_actions(x_t, t)[row, step].double()
            torch.testing.assert_close(actual, h, atol=1e-5, rtol=1e-5)


def test_the_state_is_one_token(heads, tiny_config):
    state = torch.randn(2, tiny_config.state_dim, generator=torch.Generator().manual_seed(2))
    token = heads.embed_state(state)
    assert token.shape == (2, 1, tiny_config.action.width)
    torch.testing.assert_close(token[:, 0], state @ heads.state_proj.weight.T + heads.state_proj.bias)


def test_the_velocity_is_read_out_of_each_token(heads, tiny_config):
    tokens = torch.randn(2, 3, tiny_config.action.width, generator=torch.Generator().manual_seed(3))
    expected = tokens @ heads.action_out_proj.weight.T + heads.action_out_proj.bias
    torch.testing.assert_close(heads.velocity(tokens), expected)
