from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from pizero.model.pi0 import Pi0
from pizero.train.config import OptimConfig, TrainConfig
from pizero.train.loop import backward, draw
from pizero.train.optimizer import learning_rate, make_optimizer, trained_parameters, unused_parameters
from pizero.train.state import TrainState
from pizero.types import Actions, Observation

SCHEDULE = OptimConfig(lr=1.0, min_lr=0.1, warmup_steps=3)


def test_exactly_the_unused_parameters_get_no_gradient(
    config: TrainConfig, make: Callable[[TrainConfig], TrainState], batch: tuple[Observation, Actions]
) -> None:
    state = make(config)
    state.model.requires_grad_(True)
    backward(state, *batch, *draw(config, 0))
    without = {name for name, parameter in state.model.named_parameters() if parameter.grad is None}
    zero = {name for name, p in state.model.named_parameters() if p.grad is not None and not p.grad.any()}
    assert without == unused_parameters(config.model)
    assert not zero


def test_the_optimiser_has_all_other_parameters(config: TrainConfig, make: Callable[[TrainConfig], TrainState]) -> None:
    state = make(config)
    names = {name for name, _ in state.model.named_parameters()}
    assert set(state.parameters) == names - unused_parameters(config.model)
    given = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in given} == {id(parameter) for parameter in state.parameters.values()}
    assert {name for name, p in state.model.named_parameters() if p.requires_grad} == set(state.parameters)


def test_a_frozen_vlm_leaves_the_action_expert_and_the_heads(config: TrainConfig) -> None:
    trained = trained_parameters(Pi0(config.model), expert_only=True)
    assert {name.partition(".")[0] for name in trained} == {"action", "heads"}


def test_only_matrices_decay() -> None:
    weight, bias = torch.nn.Parameter(torch.full((1, 1), 2.0)), torch.nn.Parameter(torch.full((1,), 2.0))
    config = OptimConfig(lr=0.1, min_lr=0.0, weight_decay=0.5)
    optimizer = make_optimizer({"weight": weight, "bias": bias}, config)
    weight.grad, bias.grad = torch.zeros_like(weight), torch.zeros_like(bias)
    optimizer.step()
    assert weight.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5))
    assert bias.item() == 2.0


def test_adamw_takes_its_settings_from_the_config() -> None:
    """First step by hand: m = (1 - b1) g, v = (1 - b2) g^2, both corrected to g and g^2; then g / (|g| + eps)."""
    weight = torch.nn.Parameter(torch.zeros(1, 1))
    config = OptimConfig(lr=0.1, min_lr=0.0, betas=(0.5, 0.75), eps=0.25, weight_decay=0.0)
    optimizer = make_optimizer({"weight": weight}, config)
    weight.grad = torch.full((1, 1), 0.75)
    optimizer.step()
    assert weight.item() == pytest.approx(-0.1 * 0.75 / (0.75 + 0.25))
    weight.grad = torch.full(
        (1, 1), 0.25
    )  # m = (0.5 * 0.375 + 0.5 * 0.25) / 0.75, v = (0.75 * 0.140625 + 0.015625) / 0.4375
    optimizer.step()
    second = (0.3125 / 0.75) / (((0.75 * 0.140625 + 0.25 * 0.0625) / 0.4375) ** 0.5 + 0.25)
    assert weight.item() == pytest.approx(-0.075 - 0.1 * second)


def test_the_learning_rate_rises_in_a_line_and_falls_on_half_a_cosine() -> None:
    rates = [learning_rate(SCHEDULE, step, steps=11) for step in range(11)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]  # (step + 1) / (warmup_steps + 1)
    assert rates[5] == pytest.approx(0.1 + 0.9 * (0.5 + 0.5 * 0.5**0.5))  # a quarter of the cosine: cos 45 degrees
    assert rates[7] == pytest.approx(0.55)  # half way
    assert learning_rate(SCHEDULE, 11, steps=11) == pytest.approx(0.1)
    assert all(a > b for a, b in pairwise(rates[3:]))


def test_the_learning_rate_follows_time_where_it_is_further_than_the_steps() -> None:
    assert learning_rate(SCHEDULE, 3, 10**6, time_fraction=0.5) == pytest.approx(0.55)
    assert learning_rate(SCHEDULE, 7, 11, time_fraction=0.3) == pytest.approx(0.55)
    assert learning_rate(SCHEDULE, 5, 10**6, time_fraction=1.2) == pytest.approx(0.1)
    assert learning_rate(SCHEDULE, 0, 10**6, time_fraction=0.5) == pytest.approx(0.25 * 0.55)  # still warming up


def test_a_schedule_may_be_constant() -> None:
    constant = replace(SCHEDULE, min_lr=1.0, warmup_steps=0)
    assert {learning_rate(constant, step, 10) for step in range(10)} == {1.0}
