"""Against the numbers of the project's roofline, which were computed by another script from lists of operations."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pizero.model.config import Pi0Config
from pizero.model.pi0 import Pi0
from pizero.train.config import LoraConfig
from pizero.train.flops import CARDS, find_card, flops_per_sample, forward_flops
from pizero.types import Actions, Observation

A, B, C = (Pi0Config(horizon=4), 1, 20), (Pi0Config(), 2, 48), (Pi0Config(), 3, 48)
"""Released sizes, views, prompt tokens."""


@pytest.mark.parametrize(
    ("setup", "full", "adapters", "expert"),
    [(A, 3.804, 2.536, 1.275), (B, 7.854, 5.236, 2.691), (C, 11.544, 7.696, 3.925)],
)
def test_useful_flops_are_those_of_the_roofline(
    setup: tuple[Pi0Config, int, int], full: float, adapters: float, expert: float
) -> None:
    assert flops_per_sample(*setup) / 1e12 == pytest.approx(full, abs=6e-4)
    assert flops_per_sample(*setup, tune="lora", lora=LoraConfig(vision=True)) / 1e12 == pytest.approx(
        adapters, abs=6e-4
    )
    assert flops_per_sample(*setup, tune="qlora", lora=LoraConfig(vision=True)) / 1e12 == pytest.approx(
        adapters, abs=6e-4
    )
    assert flops_per_sample(*setup, tune="expert") / 1e12 == pytest.approx(expert, abs=6e-4)


def test_each_part_does_its_own() -> None:
    forward = forward_flops(*C)
    parts = [round(part / 1e9, 1) for part in (forward.vision, forward.vlm, forward.action)]
    assert parts == [660.5, 3149.1, 38.4]


def test_gradients_stop_where_nothing_before_is_trained() -> None:
    forward = forward_flops(*C)
    expert = flops_per_sample(*C, tune="lora", lora=LoraConfig(vlm=False))
    assert expert == pytest.approx(forward.vision + forward.vlm + 2 * forward.action)
    no_vision = flops_per_sample(*C, tune="lora", lora=LoraConfig())
    assert no_vision == pytest.approx(forward.vision + 2 * forward.vlm + 2 * forward.action)
    # the gradient of vision comes through the vlm
    no_vlm = flops_per_sample(*C, tune="lora", lora=LoraConfig(vision=True, vlm=False))
    assert no_vlm == pytest.approx(2 * forward.total)


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("vision", [{}, {"stem": "convolutions", "patch_size": 4}])
def test_the_network_does_as_many(tiny_config: Pi0Config, draws: int, vision: dict[str, Any]) -> None:
    """Counted by torch as the network runs, which joins time and actions before a product; the count has it folded."""
    tiny_config = replace(tiny_config, vision=replace(tiny_config.vision, **vision))
    model, views, length = Pi0(tiny_config), 2, 5
    side, config = tiny_config.vision.image_size, tiny_config
    observation = Observation(
        torch.rand(1, views, 3, side, side), torch.ones(1, length, dtype=torch.long), torch.rand(1, config.state_dim)
    )
    actions = Actions(
        torch.rand(1, config.horizon, config.action_dim), torch.ones(1, config.horizon, config.action_dim) > 0
    )
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, sdpa_kernel(SDPBackend.MATH):  # whose products are counted
        noise = torch.rand(draws, config.horizon, config.action_dim)
        model.loss(observation, actions, torch.rand(draws), noise)
    expert, width, tokens = config.action, config.action.width, draws * config.horizon
    heads, prefix = expert.num_heads * expert.head_dim, views * config.vision.num_patches + length
    joined = 2 * tokens * 2 * width**2  # the product of actions and time, of which the count has nothing
    state = 2 * config.state_dim * width - 2 * (2 * config.action_dim * width + width**2)  # counted as an action
    unseen = 4 * heads * config.horizon * expert.depth  # the state does not attend to the actions
    last = 2 * width * (2 * heads + 3 * expert.mlp_dim) + 4 * heads * (prefix + 1)  # its last layer has keys and values
    found = forward_flops(config, views, length, draws).total
    assert counter.get_total_flops() == found + joined + state - unseen - last


def test_more_draws_cost_the_expert_alone() -> None:
    one, four = forward_flops(*B), forward_flops(*B, draws=4)
    assert (one.vision, one.vlm) == (four.vision, four.vlm)
    assert four.action == pytest.approx(one.action * 201 / 51)


def test_cards_are_found_by_their_names() -> None:
    card = find_card("NVIDIA H200")
    assert card is not None
    assert (card.flops, card.bandwidth) == (790e12, 4.3e12)
    assert find_card("NVIDIA H200 NVL") is None
    assert find_card("cpu") is None
    other = find_card("NVIDIA GeForce RTX 4090")
    assert other is not None
    assert other.flops == pytest.approx(165.2e12 * 790 / 989)
    assert [card.memory_bytes for card in CARDS] == sorted(card.memory_bytes for card in CARDS)
    assert replace(other, measured_flops=1e14).flops == 1e14
