import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from pizero import flow
from pizero.data.batch import Batch
from pizero.train.config import TrainConfig
from pizero.train.host import Clock, Stop, choose_device
from pizero.train.optimizer import learning_rate
from pizero.train.state import TrainState
from pizero.train.step import backward, draw, train_step

Make = Callable[[TrainConfig], TrainState]
CLIP = 10.0
"""A norm that the gradients of the tiny random model exceed."""


def gradients(state: TrainState) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in state.parameters.items() if p.grad is not None}


@pytest.mark.parametrize("accumulate", [2, 4])
def test_a_batch_in_pieces_has_the_loss_and_gradient_of_the_whole(
    config: TrainConfig, make: Make, batch: Batch, accumulate: int
) -> None:
    """The pieces have different numbers of real timesteps, views and prompt tokens."""
    whole, pieces = make(config), make(replace(config, accumulate=accumulate))
    loss = backward(whole, batch, *draw(config, 7)).item()
    assert backward(pieces, batch, *draw(config, 7)).item() == pytest.approx(loss, rel=1e-6)
    expected, found = gradients(whole), gradients(pieces)
    assert expected.keys() == found.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


def test_the_loss_of_a_batch_is_the_model_loss(config: TrainConfig, make: Make, batch: Batch) -> None:
    state, (t, noise) = make(config), draw(config, 3)
    expected = state.model.loss(batch.observation("cpu"), batch.actions("cpu"), t, noise, config.sigma_min)
    assert backward(state, batch, t, noise).item() == pytest.approx(expected.item(), rel=1e-6)
    other = replace(config, sigma_min=0.5)
    assert backward(make(other), batch, t, noise).item() != pytest.approx(expected.item(), rel=1e-3)


def test_draws_depend_on_seed_and_step_alone(config: TrainConfig) -> None:
    t, noise = draw(config, 5)
    again_t, again_noise = draw(replace(config, accumulate=2, steps=99, optim=replace(config.optim, lr=0.5)), 5)
    assert torch.equal(t, again_t)
    assert torch.equal(noise, again_noise)
    assert t.shape == (8,)  # two draws for each of four observations
    assert noise.shape == (8, config.model.horizon, config.model.action_dim)
    for other in (draw(config, 6), draw(replace(config, seed=1), 5)):
        assert not torch.equal(t, other[0])
        assert not torch.equal(noise, other[1])


def test_noise_is_normal_and_times_follow_the_distribution(config: TrainConfig) -> None:
    many = replace(config, batch_size=40_000, draws=1)
    t, noise = draw(many, 0)
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.std().item() == pytest.approx(1, abs=0.01)
    assert t.mean().item() == pytest.approx(flow.MAX_TIME * 0.4, abs=0.01)  # 1 - E[Beta(1.5, 1)] = 1 - 0.6
    uniform, _ = draw(replace(many, time_distribution="uniform"), 0)
    assert uniform.mean().item() == pytest.approx(flow.MAX_TIME * 0.5, abs=0.01)


def test_a_step_is_adamw_on_the_clipped_gradient(config: TrainConfig, make: Make, batch: Batch) -> None:
    """Against torch's plain AdamW, single tensor loop, given the gradient scaled by hand."""
    config = replace(config, optim=replace(config.optim, clip_norm=CLIP, eps=1e-2))
    state, reference = make(config), make(config)
    plain = torch.optim.AdamW(
        [
            {"params": [p], "weight_decay": config.optim.weight_decay if p.ndim > 1 else 0.0}
            for p in reference.parameters.values()
        ],
        betas=config.optim.betas,
        eps=config.optim.eps,
        foreach=False,
    )
    for step in range(3):
        loss = backward(reference, batch, *draw(config, step)).item()
        norm = math.sqrt(sum(g.double().square().sum().item() for g in gradients(reference).values()))
        for parameter in reference.parameters.values():
            assert parameter.grad is not None
            parameter.grad.mul_(min(1.0, CLIP / norm))
        for group in plain.param_groups:
            group["lr"] = learning_rate(config.optim, step, config.steps)
        plain.step()
        plain.zero_grad()
        result = train_step(state, batch)
        assert 1.05 < norm / CLIP < 20  # clipped, but not so far that what came before would vanish beside it
        assert result.loss == pytest.approx(loss, rel=1e-5)
        assert result.grad_norm == pytest.approx(norm, rel=1e-4)  # as it was before clipping
        assert result.lr == learning_rate(config.optim, step, config.steps)
    assert state.step == 3
    for name, parameter in state.parameters.items():
        torch.testing.assert_close(parameter, reference.parameters[name], rtol=1e-4, atol=1e-5)


def test_the_average_follows_the_weights_of_each_step(config: TrainConfig, make: Make, batch: Batch) -> None:
    state = make(config)
    name = "heads.state_proj.weight"
    average = state.parameters[name].detach().clone()
    for n in range(3):
        train_step(state, batch)
        decay = (1 + n) / (10 + n)
        average = decay * average + (1 - decay) * state.parameters[name].detach()
    assert state.ema is not None
    torch.testing.assert_close(state.ema.average[name], average, rtol=1e-5, atol=1e-6)


def test_a_loss_that_is_not_finite_stops_before_any_weight_changes(
    config: TrainConfig, make: Make, batch: Batch
) -> None:
    state = make(config)
    train_step(state, batch)
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    values = batch.values.clone()
    values[0, 0, 0] = math.nan
    with pytest.raises(FloatingPointError, match=r"step 2: loss is nan, gradient norm nan; the run stops"):
        train_step(state, replace(batch, values=values))
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.model.state_dict().items())
    assert state.step == 1


def test_a_gradient_that_is_not_finite_stops_too(config: TrainConfig, make: Make, batch: Batch) -> None:
    state = make(config)
    bias = state.parameters["heads.action_out_proj.bias"]
    bias.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(FloatingPointError, match=r"step 1: loss is \d+\.\d+, gradient norm (inf|nan)"):
        train_step(state, batch)


def test_bf16_is_autocast_over_float32_weights(config: TrainConfig, make: Make, batch: Batch) -> None:
    exact, rounded = make(config), make(replace(config, precision="bf16"))
    seen = []
    rounded.model.action.layers[0].mlp.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    loss, close = (backward(state, batch, *draw(config, 0)).item() for state in (exact, rounded))
    assert set(seen) == {torch.bfloat16}
    assert close != loss
    assert close == pytest.approx(loss, rel=0.05)
    assert {p.dtype for p in rounded.parameters.values()} == {torch.float32}
    assert {g.dtype for g in gradients(rounded).values()} == {torch.float32}


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Python's handler of Ctrl-C, also where the tests run as a job in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_the_first_signal_is_noted_and_the_second_acts() -> None:
    with Stop() as stop:
        assert stop.signal is None
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


@pytest.mark.usefixtures("interrupts")
def test_without_a_signal_the_handlers_come_back() -> None:
    with Stop():
        assert signal.getsignal(signal.SIGINT) != signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


@pytest.mark.usefixtures("interrupts")
def test_a_signal_that_the_shell_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Stop() as stop:
        signal.raise_signal(signal.SIGINT)
    assert stop.signal is None
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_a_device_that_is_not_there_is_refused() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match=r"device is 'cuda:99', but torch sees \d+ cuda devices here; choose cpu"):
        choose_device("cuda:99")


def test_without_a_limit_no_part_of_it_passes() -> None:
    assert Clock(5.0, None).fraction() == 0
    assert Clock(5.0, None).left() == math.inf
    assert Clock(5.0, None).total() >= 5
    assert Clock(0.0, 1e-9).fraction() > 1
    assert Clock(0.0, 1e-9).left() == 0
