"""State, action and time embedding against their formulas."""

import math

import pytest
import torch

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
