"""openpi's JAX pi0 with adapters in both experts, on tiny random weights: the same velocity, loss and actions.

The reference is the unmerged network; here the adapters are merged. Its time runs the other way.
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
CASE = GOLDEN / "openpi_jax_pi0_lora"
TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}
ALPHA = 6.0
"""Of the attention adapters (case.json)."""


@pytest.fixture(scope="module")
def model() -> Pi0:
    source = orbax.open_source(CASE)
    assert source is not None
    plan = orbax.plan(source, replace(orbax.facts(CASE, source), horizon=6, lora_alpha=ALPHA))
    check(source, plan.recipes, plan.unused)
    model = Pi0(plan.model)
    model.load_state_dict({name: recipe.make(source).float() for name, recipe in plan.recipes.items()})
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in np.load(CASE / "inputs.npz").items()}


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in np.load(CASE / "expected_float32.npz").items()}


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
    v_t = model.velocity(model.prefill(observation), expected["x_t"], 1 - inputs["time"].double())
    loss = (v_t - (inputs["actions"] - inputs["noise"])).square()
    torch.testing.assert_close(loss, expected["loss"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(loss.mean(-1), expected["loss_tokens"], **TOLERANCE)


@pytest.mark.parametrize("num_steps", [5, 10])
def test_sampled_actions_equal_those_of_openpi(model, observation, inputs, expected, num_steps):
    actions = model.sample(observation, num_steps, noise=inputs["start_noise"])
    torch.testing.assert_close(actions, expected[f"actions_N{num_steps}"], **TOLERANCE)


def test_weights_equal_those_of_the_torch_checkpoint_bit_for_bit():
    """The case has the base weights of openpi's PyTorch case; it is read here without its adapters."""
    path = GOLDEN / "openpi_pi0_base"
    theirs = openpi.open_source(path)
    assert theirs is not None
    plan = openpi.plan(theirs, Facts(horizon=6, vision_heads=4))
    jax = orbax.open_source(CASE)
    assert jax is not None
    config = orbax.infer_config(jax, Facts(horizon=6))
    assert replace(config, time_rounding="none") == plan.model
    recipes = openpi.turn(all_recipes(config, {}), config)
    assert set(recipes) == set(plan.recipes)
    for name, recipe in plan.recipes.items():
        assert torch.equal(recipes[name].make(jax), recipe.make(theirs)), name
