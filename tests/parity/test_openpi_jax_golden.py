"""openpi's JAX pi0.5, and its pi0 with adapters, on tiny random weights: the same velocity, loss and actions.

Its time runs the other way, and it embeds the time in float32, which moves the velocity by up to 1e-4.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pizero.model.pi0 import Pi0
from pizero.types import Observation
from pizero.weights import openpi, orbax
from pizero.weights.facts import Facts
from pizero.weights.orbax_recipes import all_recipes
from pizero.weights.recipe import check

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}
ALPHA = {"pi05_base": None, "pi0_lora": 6.0}
"""Of the attention adapters (case.json)."""


def load(case: str) -> Pi0:
    path = GOLDEN / f"openpi_jax_{case}"
    source = orbax.open_source(path)
    assert source is not None
    facts = replace(orbax.facts(path, source), horizon=6, lora_alpha=ALPHA[case])
    plan = orbax.plan(source, facts)
    check(source, plan.recipes, plan.unused)
    model = Pi0(plan.model)
    model.load_state_dict({name: recipe.make(source).float() for name, recipe in plan.recipes.items()})
    return model.requires_grad_(False)


@pytest.fixture(scope="module", params=list(ALPHA))
def case(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(case) -> Pi0:
    return load(case)


@pytest.fixture(scope="module")
def inputs(case) -> dict[str, torch.Tensor]:
    return _arrays(case, "inputs.npz")


@pytest.fixture(scope="module")
def expected(case) -> dict[str, torch.Tensor]:
    return _arrays(case, "expected_float32.npz")


def _arrays(case: str, file: str) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / f"openpi_jax_{case}" / file).items()}


@pytest.fixture(scope="module")
def observation(inputs) -> Observation:
    return Observation(
        images=inputs["images_uint8"].permute(1, 0, 4, 2, 3) / 255 * 2 - 1,
        prompt=inputs["tokenized_prompt"].long(),
        state=inputs["state"],
        image_mask=inputs["image_masks"].T,
        prompt_mask=inputs["tokenized_prompt_mask"],
    )


def test_prefix_embeddings_equal_those_of_openpi(model, observation, expected):
    tokens, _, mask = model.embed_prefix(observation)
    torch.testing.assert_close(tokens[mask], expected["prefix_embeddings"][mask], atol=2e-5, rtol=1e-4)


def test_velocity_equals_minus_that_of_openpi_at_the_turned_time(model, observation, inputs, expected):
    v_t = model.velocity(model.prefill(observation), expected["x_t"], 1 - inputs["time"].double())
    torch.testing.assert_close(v_t, -expected["v"], **TOLERANCE)


def test_loss_of_every_element_equals_that_of_openpi(model, observation, inputs, expected):
    """A velocity that is off by 1e-4 moves a loss of r^2 by 2e-4 r; openpi's own PyTorch is off by 5e-4 (case.json)."""
    v_t = model.velocity(model.prefill(observation), expected["x_t"], 1 - inputs["time"].double())
    loss = (v_t - (inputs["actions"] - inputs["noise"])).square()
    assert ((loss - expected["loss"]).abs() < 1e-4 * (1 + 2 * expected["loss"].sqrt())).all()
    torch.testing.assert_close(loss.mean(-1), expected["loss_tokens"], **TOLERANCE)


@pytest.mark.parametrize("num_steps", [5, 10])
def test_sampled_actions_equal_those_of_openpi(model, observation, inputs, expected, num_steps):
    actions = model.sample(observation, num_steps, noise=inputs["start_noise"])
    torch.testing.assert_close(actions, expected[f"actions_N{num_steps}"], **TOLERANCE)


def test_weights_equal_those_of_the_torch_checkpoint_bit_for_bit():
    """The case with adapters has the base weights of openpi's PyTorch case; read here without its adapters."""
    path = GOLDEN / "openpi_pi0_base"
    theirs = openpi.open_source(path)
    assert theirs is not None
    plan = openpi.plan(theirs, Facts(horizon=6, vision_heads=4))
    jax = orbax.open_source(GOLDEN / "openpi_jax_pi0_lora")
    assert jax is not None
    config = orbax.infer_config(jax, Facts(horizon=6))
    assert config == plan.model
    recipes = openpi.turn(all_recipes(config, {}), config)
    assert set(recipes) == set(plan.recipes)
    for name, recipe in plan.recipes.items():
        assert torch.equal(recipes[name].make(jax), recipe.make(theirs)), name
