"""Flow matching: every formula has an answer known beforehand."""

import numpy as np
import pytest
import torch

from pizero import flow


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_path_goes_from_noise_to_data_with_a_little_noise_left():
    noise, actions = normal(2, 3, 4), normal(2, 3, 4, seed=1)
    assert torch.equal(flow.interpolate(noise, actions, torch.zeros(2)), noise)
    end = flow.interpolate(noise, actions, torch.ones(2))
    torch.testing.assert_close(end, actions + 0.001 * noise, atol=1e-6, rtol=0)
    assert torch.equal(flow.interpolate(noise, actions, torch.ones(2), sigma_min=0.0), actions)


def test_path_at_a_time_of_its_own_per_row():
    noise, actions = normal(2, 3, 4), normal(2, 3, 4, seed=1)
    x_t = flow.interpolate(noise, actions, torch.tensor([0.25, 0.75]), sigma_min=0.1)
    torch.testing.assert_close(x_t[0], (1 - 0.9 * 0.25) * noise[0] + 0.25 * actions[0])
    torch.testing.assert_close(x_t[1], (1 - 0.9 * 0.75) * noise[1] + 0.75 * actions[1])


@pytest.mark.parametrize("sigma_min", [0.0, 0.001, 0.2])
def test_target_velocity_is_the_derivative_of_the_path(sigma_min):
    noise, actions = normal(2, 3, 4).double(), normal(2, 3, 4, seed=1).double()
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    _, derivative = torch.autograd.functional.jvp(
        lambda t: flow.interpolate(noise, actions, t, sigma_min), t, torch.ones_like(t)
    )
    torch.testing.assert_close(flow.target_velocity(noise, actions, sigma_min), derivative)


def test_following_the_target_velocity_from_noise_arrives_at_the_data():
    noise, actions = normal(2, 3, 4), normal(2, 3, 4, seed=1)
    end = flow.integrate(lambda x, t: flow.target_velocity(noise, actions, sigma_min=0.0), noise, num_steps=7)
    torch.testing.assert_close(end, actions, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_steps", [1, 2, 10, 50])
def test_euler_takes_dx_dt_equal_2t_to_exactly_n_minus_1_over_n(num_steps):
    """A constant velocity could not tell t from t + 1/n."""
    noise = normal(2, 3, 4)
    x = flow.integrate(lambda x, t: (2 * t)[:, None, None].expand_as(x), noise, num_steps)
    torch.testing.assert_close(x - noise, torch.full_like(x, (num_steps - 1) / num_steps), atol=1e-5, rtol=0)


def test_euler_of_dx_dt_equal_x_is_compound_interest():
    noise = normal(2, 3, 4)
    torch.testing.assert_close(flow.integrate(lambda x, t: x, noise, 10), noise * 1.1**10, atol=0, rtol=1e-5)


def test_times_of_the_steps_are_k_over_n_one_for_each_row():
    seen = []
    flow.integrate(lambda x, t: seen.append(t.tolist()) or torch.zeros_like(x), normal(2, 3, 4), 4)
    assert seen == [[0.0, 0.0], [0.25, 0.25], [0.5, 0.5], [0.75, 0.75]]


def to_bfloat16(x: float) -> np.float32:
    """The nearest number whose float32 has 16 zero bits at the end, of two the one with an even last bit."""
    bits = int(np.float32(x).view(np.uint32))
    return np.uint32((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)


def openpi_times(num_steps: int) -> list[float]:
    """openpi, sample_actions: `time` starts at 1 and `dt` is added to it, both float32; ours is 1 - time."""
    time, dt, times = np.float32(1), np.float32(-1 / num_steps), []
    while len(times) < num_steps:
        times.append(1 - float(time))
        time = time + dt
    return times


def lerobot_times(num_steps: int) -> list[float]:
    """lerobot, sample_actions: `time = 1.0 + step * dt` in Python, then made a float32 tensor; ours is 1 - time."""
    dt = -1.0 / num_steps
    return [1 - float(np.float32(1.0 + step * dt)) for step in range(num_steps)]


def open_pi_zero_times(num_steps: int, rounded) -> list[float]:
    """open-pi-zero, infer_action: `t` starts at 0 and `delta_t` is added to it, in the type of the model."""
    t, delta, times = rounded(0.0), rounded(1 / num_steps), []
    while len(times) < num_steps:
        times.append(float(t))
        t = rounded(float(t) + float(delta))
    return times


@pytest.mark.parametrize("num_steps", [1, 3, 10, 37, 100])
def test_times_of_the_steps_are_those_of_the_code_that_the_grid_is_named_after(num_steps):
    assert flow.euler_times(num_steps) == [k / num_steps for k in range(num_steps)]
    assert flow.euler_times(num_steps, "openpi") == openpi_times(num_steps)
    assert flow.euler_times(num_steps, "lerobot") == lerobot_times(num_steps)
    assert flow.euler_times(num_steps, "open-pi-zero") == open_pi_zero_times(num_steps, np.float32)
    assert flow.euler_times(num_steps, "open-pi-zero", torch.bfloat16) == open_pi_zero_times(num_steps, to_bfloat16)


def test_the_grids_differ_by_rounding_alone_and_by_all_of_it():
    grids = [("even", torch.float32), ("openpi", torch.float32), ("lerobot", torch.float32)]
    grids += [("open-pi-zero", torch.float32), ("open-pi-zero", torch.bfloat16)]
    times = [tuple(flow.euler_times(10, *grid)) for grid in grids]
    assert len(set(times)) == 5
    for own in times:
        assert own == pytest.approx(times[0], abs=0.02)
        assert own[0] == 0


def test_only_open_pi_zeros_grid_depends_on_the_type_of_the_model():
    for grid in ("even", "openpi", "lerobot"):
        assert flow.euler_times(10, grid, torch.bfloat16) == flow.euler_times(10, grid)


@pytest.mark.parametrize("grid", ["even", "openpi", "lerobot", "open-pi-zero"])
def test_integrating_passes_the_times_of_the_grid_on_unrounded(grid):
    seen = []
    flow.integrate(
        lambda x, t: seen.append(t.tolist()) or torch.zeros_like(x), normal(2, 1, 1), 10, grid, torch.bfloat16
    )
    assert seen == [[time, time] for time in flow.euler_times(10, grid, torch.bfloat16)]


def test_an_unknown_grid_is_refused():
    with pytest.raises(ValueError, match="euler grid 'odd' is unknown; choose 'even'"):
        flow.euler_times(10, "odd")


def test_steps_too_small_for_bfloat16_are_not_lost():
    x = flow.integrate(lambda x, t: torch.ones_like(x).bfloat16(), torch.full((1, 1, 1), 256.0).bfloat16(), 128)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, torch.full((1, 1, 1), 257.0))


def test_the_noise_that_was_given_is_not_changed():
    noise = normal(2, 3, 4)
    before = noise.clone()
    flow.integrate(lambda x, t: x, noise, 3)
    assert torch.equal(noise, before)


@pytest.mark.parametrize("num_steps", [0, -1])
def test_no_steps_are_refused(num_steps):
    with pytest.raises(ValueError, match=f"num_steps is {num_steps}"):
        flow.integrate(lambda x, t: x, normal(1, 1, 1), num_steps)


def empirical(t: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Share of the samples up to each edge."""
    return (t[:, None] <= edges).double().mean(0)


def test_beta_times_have_the_density_of_the_paper():
    """p(t) = Beta((s - t) / s; 1.5, 1) = 1.5 / s * sqrt((s - t) / s), s = 0.999: early, noisy times weigh more."""
    t = flow.sample_time(200_000, "beta", torch.Generator().manual_seed(0))
    assert t.min() >= 0
    assert t.max() <= 0.999
    grid = torch.linspace(0, 0.999, 20_001, dtype=torch.float64)
    density = 1.5 / 0.999 * ((0.999 - grid) / 0.999).sqrt()
    edges, expected = grid[::1000], torch.cumulative_trapezoid(density, grid)[999::1000]
    assert float(expected[-1]) == pytest.approx(1, abs=1e-4)
    # 1.63 / sqrt(n): Kolmogorov-Smirnov at 1 %
    assert (empirical(t, edges[1:]) - expected).abs().max() < 1.63 / 200_000**0.5
    assert float(t.mean()) == pytest.approx(0.4 * 0.999, abs=3e-3)


def test_uniform_times_are_uniform_up_to_0_999():
    t = flow.sample_time(200_000, "uniform", torch.Generator().manual_seed(0))
    edges = torch.linspace(0.0999, 0.999, 10)
    assert (empirical(t, edges) - torch.arange(1, 11) / 10).abs().max() < 1.63 / 200_000**0.5


def test_same_generator_same_times():
    first, again = (flow.sample_time(8, "beta", torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)


def test_loss_is_the_mean_over_what_is_real():
    v_t, u_t = normal(2, 3, 4), normal(2, 3, 4, seed=1)
    mask = torch.zeros(2, 3, 4, dtype=torch.bool)
    mask[0, 0, 0] = mask[1, 2, 3] = mask[1, 0, 1] = True
    expected = sum((v_t[i] - u_t[i]) ** 2 for i in [(0, 0, 0), (1, 2, 3), (1, 0, 1)]) / 3
    torch.testing.assert_close(flow.loss(v_t, u_t, mask), expected)


def test_loss_does_not_see_padding_not_even_infinity():
    v_t, u_t = normal(2, 3, 4), normal(2, 3, 4, seed=1)
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    mask[:, :, 3] = mask[1, 2] = False
    other = torch.where(mask, v_t, torch.inf)
    assert torch.equal(flow.loss(other, u_t, mask), flow.loss(v_t, u_t, mask))


def test_loss_of_nothing_real_is_zero():
    assert float(flow.loss(normal(1, 2, 3), normal(1, 2, 3, seed=1), torch.zeros(1, 2, 3, dtype=torch.bool))) == 0


def test_loss_of_bfloat16_is_added_up_in_float32():
    v_t = torch.full((4, 50, 32), 0.1).bfloat16()
    loss = flow.loss(v_t, torch.zeros_like(v_t), torch.ones_like(v_t, dtype=torch.bool))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(v_t[0, 0, 0]) ** 2, rel=1e-4)
