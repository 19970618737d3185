"""Recipes of openpi and open-pi-zero: dimensions fit the robots, and the rules that hold for all."""

import pytest

from pizero.robot.aloha import ALOHA
from pizero.weights.openpi_recipe import (
    OPENPI_RECIPES,
    OPZ_RECIPES,
    SLOTS,
    OpenpiRecipe,
    recipe_facts,
)


@pytest.mark.parametrize("recipe", OPENPI_RECIPES.values(), ids=OPENPI_RECIPES)
def test_what_holds_for_every_config_of_openpi(recipe: OpenpiRecipe) -> None:
    assert recipe.name.startswith("pi05_" if recipe.pi05 else "pi0_")
    assert recipe.prompt_length == (200 if recipe.pi05 else 48)
    assert recipe.normalization == ("quantile" if recipe.pi05 else "z-score")
    assert len(recipe.robot.cameras) <= len(SLOTS)
    assert set(recipe.delta_actions) <= set(recipe.robot.actions)
    assert not any("gripper" in name for name in recipe.delta_actions)
    assert (recipe.joint_units == "pi-aloha") == (recipe.robot is ALOHA)


@pytest.mark.parametrize(
    ("name", "horizon", "prompt_format", "num_deltas"),
    [
        ("pi0_aloha", 50, "pi0", 12),
        ("pi05_aloha", 50, "pi05", 12),
        ("pi0_aloha_sim", 50, "pi0", 0),
        ("pi0_droid", 10, "pi0", 0),
        ("pi05_droid", 15, "pi05", 0),
        ("pi0_libero", 50, "pi0", 6),
        ("pi05_libero", 10, "pi0", 0),
    ],
)
def test_the_numbers_that_differ(name: str, horizon: int, prompt_format: str, num_deltas: int) -> None:
    recipe = OPENPI_RECIPES[name]
    assert (recipe.horizon, recipe.prompt_format, len(recipe.delta_actions)) == (horizon, prompt_format, num_deltas)


def test_deltas_are_to_the_state_of_the_same_place() -> None:
    for recipe in OPENPI_RECIPES.values():
        for name in recipe.delta_actions:
            assert recipe.robot.actions.index(name) < len(recipe.robot.state)


def test_open_pi_zero_executes_all_on_bridge_and_half_on_fractal() -> None:
    assert {name: (len(r.robot.state), r.execute_steps) for name, r in OPZ_RECIPES.items()} == {
        "bridge": (7, 4),
        "fractal": (8, 2),
    }
    for recipe in OPZ_RECIPES.values():
        assert set(recipe.raw_actions) <= set(recipe.robot.actions)


def test_unknown_configs_are_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="'pi05-libero' is not known; nearest: 'pi05_libero'"):
        recipe_facts("pi05-libero")
    with pytest.raises(ValueError, match="'bridg' is not known; nearest: 'bridge'"):
        recipe_facts("bridg")
