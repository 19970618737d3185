"""Time turned round: exactly undone by the same operation, and minus the velocity at the turned time."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pizero.model.config import Pi0Config
from pizero.model.heads import time_embedding
from pizero.model.pi0 import Pi0, precision
from pizero.weights.openpi import turn
from pizero.weights.recipe import copy
from pizero.weights.source import Info
from pizero.weights.turn import READ_OUT, time_layer, turn_columns


class Memory:
    """A model's tensors, as a `Source`."""

    def __init__(self, model: Pi0) -> None:
        self.path, self._state = Path("memory"), model.state_dict()
        self.tensors = {name: Info(tuple(x.shape), x.dtype) for name, x in self._state.items()}

    def read(self, key: str, index: int | None = None) -> torch.Tensor:
        return self._state[key] if index is None else self._state[key][index]


def draw(config: Pi0Config, dtype: torch.dtype) -> torch.Tensor:
    """A weight with columns before those of the time."""
    return torch.randn(30, 24 + config.time_width, generator=torch.Generator().manual_seed(0)).to(dtype)


def test_turning_twice_gives_the_weight_back(tiny_config):
    weight = draw(tiny_config, torch.float64)
    turned = turn_columns(weight, tiny_config)
    assert turned.dtype == torch.float64
    assert torch.equal(turned[:, :24], weight[:, :24])
    assert (turned[:, 24:] - weight[:, 24:]).abs().max() > 1
    assert (turn_columns(turned, tiny_config) - weight).abs().max() < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounded_back_the_weight_is_what_it_was_bit_for_bit(tiny_config, dtype):
    weight = draw(tiny_config, dtype)
    twice = turn_columns(turn_columns(weight, tiny_config), tiny_config).to(dtype)
    assert torch.equal(twice, weight)


def test_turned_columns_read_the_embedding_of_one_minus_t(tiny_config):
    """In float64, over the released periods."""
    c = replace(tiny_config, action=replace(tiny_config.action, width=64))
    weight = torch.randn(5, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.0, 0.125, 0.5, 0.875, 1.0])
    args = (64, c.time_min_period, c.time_max_period)
    expected = time_embedding(1 - t, *args).double() @ weight.T
    turned = time_embedding(t, *args).double() @ turn_columns(weight, c).T
    assert (turned - expected).abs().max() < 1e-5


@pytest.mark.parametrize("conditioning", ["input", "adarms"])
def test_velocity_of_the_turned_model_is_minus_that_of_the_other_at_the_turned_time(
    tiny_config, randomise, ragged, conditioning
):
    config = replace(tiny_config, time_conditioning=conditioning, state_token=conditioning == "input")
    model = Pi0(config)
    randomise(model)
    source = Memory(model)
    recipes = turn({name: copy(name, info.shape) for name, info in source.tensors.items()}, config)
    changed = {name for name, recipe in recipes.items() if not torch.equal(recipe.make(source), source.read(name))}
    assert changed == {*READ_OUT, time_layer(config)}
    turned = Pi0(config)
    made = {name: recipe.make(source).to(precision(name, torch.float32)) for name, recipe in recipes.items()}
    turned.load_state_dict(made)
    x_t = torch.randn(3, config.horizon, config.action_dim, generator=torch.Generator().manual_seed(3))
    t = torch.tensor([0.125, 0.5, 0.875])  # 1 - t is exact
    with torch.no_grad():
        expected = -model.velocity(model.prefill(ragged), x_t, t)
        v_t = turned.velocity(turned.prefill(ragged), x_t, 1 - t)
    assert expected.abs().max() > 0.1
    assert (v_t - expected).abs().max() <= 1e-5 * expected.abs().max()
